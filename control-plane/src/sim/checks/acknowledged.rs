//! Nothing acknowledged is lost: what was answered to a user is answered again.

use crate::sim::world::World;

impl World {
    pub(in crate::sim) fn check_acknowledged(&mut self) {
        let mut state = self.truth.clone();
        for (entry, applied) in std::mem::take(&mut self.acknowledged) {
            match state.try_apply(&entry) {
                Ok(again) if again == applied => {}
                other => {
                    self.fail(format!(
                        "nothing acknowledged is lost: {:?} was {applied:?} and is {other:?}",
                        entry.command
                    ));
                }
            }
        }
        // Each replica that a leader had is on the way to the same state.
        for host in 0..self.hosts.len() {
            let length = self.log.entries.len();
            self.catch_up(host, length);
            let theirs = self.hosts[host].replica.snapshot();
            if theirs.ok() != self.truth.snapshot().ok() {
                self.fail(format!(
                    "nothing acknowledged is lost: host {host} has another state"
                ));
            }
        }
    }
}
