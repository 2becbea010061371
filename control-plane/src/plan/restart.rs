//! Guests that are to run and belong to nobody: they crashed, or their node was removed.

use godwit_proto::cluster::{Guest, GuestCommand, Owner, RunIntent};

use super::{Draft, Plan, Step};
use crate::state::State;

/// Where guests are started that are to run and do not. How often one that crashes is started again
/// is not decided here.
#[must_use]
pub fn restart(state: &State) -> Plan {
    let mut draft = Draft::new(state);
    let wanted = |guest: &&Guest| {
        guest.intent == RunIntent::Running && guest.ownership.owner == Owner::Nobody
    };
    for guest in state.guests().filter(wanted) {
        if draft.is_full() {
            draft.plan.waiting += 1;
        } else {
            draft.boot(guest, guest);
        }
    }
    draft.plan
}

impl Step {
    /// The step as a start.
    #[must_use]
    pub const fn to_start(self) -> GuestCommand {
        GuestCommand::Start {
            guest: self.guest,
            node: self.node,
            expected: Some(self.expected),
        }
    }
}
