//! Whoever comes to run a guest does so under an epoch that nobody ran it under before: one that was
//! not given out yet, or the one that was reserved for them.

use godwit_proto::cluster::{Owner, Window};

use crate::state::State;

pub(super) fn check(before: &State, after: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for guest in after.guests() {
        let Some(earlier) = before.guest(guest.id) else {
            if guest.ownership.runners().next().is_some() {
                wrong.push(format!("guest {} runs as it is made", guest.meta.name));
            }
            continue;
        };
        let earlier = earlier.ownership;
        for (node, epoch) in guest.ownership.runners() {
            let ran = earlier.runners().any(|runner| runner == (node, epoch));
            let reserved = matches!(earlier.owner, Owner::Moving(handoff)
                if handoff.window == Window::Closed
                    && (handoff.target, handoff.successor) == (node, epoch));
            if !ran && !reserved && epoch <= earlier.highest {
                wrong.push(format!(
                    "guest {} came to node {node} under epoch {epoch}, and {} was given out",
                    guest.meta.name, earlier.highest
                ));
            }
        }
        let epochs: Vec<_> = guest.ownership.runners().map(|(_, epoch)| epoch).collect();
        if epochs.iter().any(|epoch| *epoch > guest.ownership.highest) || !epochs.is_sorted() {
            wrong.push(format!("guest {} has epochs {epochs:?}", guest.meta.name));
        }
    }
    wrong
}
