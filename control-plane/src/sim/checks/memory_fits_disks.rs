//! Memory fits the disks: nobody goes on with the memory of a guest that somebody else has run since.

use crate::sim::host::Key;
use crate::sim::world::World;

impl World {
    pub(in crate::sim) fn check_memory(
        &mut self,
        host: usize,
        key: Key,
        fresh: bool,
        memory: u64,
        hands: u64,
    ) {
        if !fresh && memory != hands {
            self.fail(format!(
                "memory fits the disks: guest {} goes on with old memory on host {host} at epoch {}",
                key.0, key.1
            ));
        }
    }
}
