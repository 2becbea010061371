//! An epoch is begun once: at one place, by one process.

use std::collections::BTreeSet;

use crate::sim::host::Key;
use crate::sim::world::World;

pub(in crate::sim) type Begun = BTreeSet<Key>;

impl World {
    pub(in crate::sim) fn check_begun(&mut self, host: usize, key: Key) {
        if !self.checks.begun.insert(key) {
            self.fail(format!(
                "begun once: guest {} is begun again at epoch {}, on host {host}",
                key.0, key.1
            ));
        }
    }
}
