//! A guest that needs no lease is never stopped for want of one.

use crate::sim::host::Key;
use crate::sim::world::World;

impl World {
    /// A runner pauses its guest.
    pub(in crate::sim) fn check_pause(&mut self, host: usize, key: Key, leased: bool) {
        self.count("pauses for want of a proof");
        if !leased {
            self.fail(format!(
                "never stopped: guest {} needs no lease and is paused on host {host}",
                key.0
            ));
        }
    }
}
