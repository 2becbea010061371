//! No guest is taken while it runs, by true time, whoever stopped whose clock. One with a lease on a
//! disk may run on: who took it waits for that lease, and so for it.

use godwit_proto::cluster::{Command, GuestCommand};

use crate::sim::world::World;

impl World {
    /// An entry was committed.
    pub(in crate::sim) fn check_entry(&mut self, command: &Command) {
        if let Command::Guest(GuestCommand::FailOver { guest, .. }) = command {
            self.count("failovers");
            let runs = self.hosts.iter().flat_map(|host| &host.processes);
            let runs = runs.filter(|(key, process)| {
                key.0 == *guest && process.runs() && process.disk.is_none()
            });
            if let Some((key, _)) = runs.map(|(key, _)| (*key, ())).next() {
                self.fail(format!(
                    "not taken while it runs: guest {guest} runs at epoch {}",
                    key.1
                ));
            }
        }
    }
}
