//! The state machine as a whole.

mod bad_input;
mod baseline;
mod cluster;
mod ownership;
mod random;
mod requests;
mod restore;

use super::{Restore, State};

/// The same state by way of a snapshot.
pub(crate) fn restored(state: &State) -> State {
    let mut restore = Restore::new();
    for chunk in state.snapshot().unwrap() {
        restore.push(&chunk).unwrap();
    }
    restore.finish().unwrap()
}
