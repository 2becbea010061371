//! Guests of lost nodes.

use godwit_proto::cluster::{FailoverPolicy, Guest, GuestCommand};

use super::{Draft, Plan, Step};
use crate::state::{State, as_restarted};

/// Where the guests of lost nodes are started: those of higher priority first, the larger first among
/// equals, since the small ones fit where there is little left.
///
/// Only guests whose owners' leases have lapsed are in it: when that is so is the leader's
/// [`LeaseTable`](crate::lease::LeaseTable)'s to say, and committed before.
#[must_use]
pub fn fail_over(state: &State) -> Plan {
    let mut draft = Draft::new(state);
    let lost = state.nodes().filter(|node| !state.holds_lease(node.id));
    let mut guests: Vec<&Guest> = lost
        .flat_map(|node| state.guests_on(node.id))
        .filter(|guest| state.check_fail_over(guest).is_ok())
        .collect();
    guests.sort_by_key(|guest| {
        let priority = match guest.failover {
            FailoverPolicy::Never => None,
            FailoverPolicy::Restart { priority } => Some(priority),
        };
        let size = (guest.template.memory_bytes, guest.template.vcpus);
        (std::cmp::Reverse((priority, size)), guest.id)
    });
    // A guest between two lost nodes is on both.
    guests.dedup_by_key(|guest| guest.id);
    for guest in guests {
        if draft.is_full() {
            draft.plan.waiting += 1;
        } else {
            draft.boot(guest, &as_restarted(guest));
        }
    }
    draft.plan
}

impl Step {
    /// The step as a failover.
    #[must_use]
    pub const fn to_fail_over(self) -> GuestCommand {
        GuestCommand::FailOver {
            guest: self.guest,
            node: self.node,
        }
    }
}
