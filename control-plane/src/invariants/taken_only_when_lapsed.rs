//! A guest is given to somebody else, without its owner's word, only when the leases of all who could
//! prove that they own it have lapsed.

use godwit_proto::cluster::{NodeState, Owner};

use crate::state::State;

pub(super) fn check(before: &State, after: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for guest in after.guests() {
        let Some(earlier) = before.guest(guest.id) else {
            continue;
        };
        let Owner::Node { node, epoch } = guest.ownership.owner else {
            continue;
        };
        let fresh = epoch > earlier.ownership.highest;
        // The source of a migration takes the guest back when its target says that it never ran.
        let taken_back = matches!(earlier.ownership.owner, Owner::Moving(handoff)
            if handoff.source == node);
        if !fresh || taken_back {
            continue;
        }
        for (owner, _) in earlier.ownership.runners() {
            let lapsed = before
                .node(owner)
                .is_none_or(|node| node.state == NodeState::Lost);
            if !lapsed {
                wrong.push(format!(
                    "guest {} was taken from node {owner}, which holds its lease",
                    guest.meta.name
                ));
            }
        }
    }
    wrong
}
