//! One runner: at every instant of true time at most one process runs a guest.

use crate::sim::host::Key;
use crate::sim::world::World;

impl World {
    /// A guest's vCPUs begin to run.
    pub(in crate::sim) fn check_runs(
        &mut self,
        host: usize,
        key: Key,
        fresh: bool,
        memory: u64,
        hands: u64,
    ) {
        self.note(|| format!("host {host}: {} at {} runs", key.0, key.1));
        self.count("runs");
        let others = self.hosts.iter().enumerate().flat_map(|(other, found)| {
            let processes = found.processes.iter();
            processes.map(move |(found, process)| (other, *found, process.runs()))
        });
        let second = others
            .filter(|(_, found, runs)| found.0 == key.0 && *runs)
            .find(|(other, found, _)| (*other, *found) != (host, key));
        if let Some((other, found, _)) = second {
            self.fail(format!(
                "one runner: guest {} runs on host {host} at epoch {} and on host {other} at {}",
                key.0, key.1, found.1
            ));
        }
        self.check_memory(host, key, fresh, memory, hands);
    }
}
