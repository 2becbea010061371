//! Nodes that have much more than others.

use godwit_proto::cluster::{Guest, RunIntent};
use godwit_proto::id::NodeId;

use super::drain::{moves, owned_by};
use super::{Draft, Plan};
use crate::scheduler::{Amount, WHOLE};
use crate::state::State;

/// Moves that take load from the most loaded nodes, at most `max_moves`: each from the most loaded
/// node that can spare a guest, and only when the source's load falls by it and the target ends up at
/// least `threshold_permille` of a whole node below what the source had. So the higher of both falls
/// with each move: there is an end to it, and no guest is moved to and fro.
#[must_use]
pub fn rebalance(state: &State, max_moves: usize, threshold_permille: u32) -> Plan {
    let mut draft = Draft::new(state);
    let threshold = u64::from(WHOLE) * u64::from(threshold_permille.max(1)) / 1000;
    let mut sources: Vec<(u32, NodeId)> = draft
        .inventory
        .nodes()
        .filter_map(|node| Some((draft.inventory.load(node)?, node)))
        .collect();
    sources.sort_by_key(|(load, node)| (std::cmp::Reverse(*load), *node));
    for (_, source) in sources {
        let mut moved = Amount::default();
        let mut guests: Vec<&Guest> = state
            .guests_on(source)
            .filter(|guest| owned_by(guest, source) && moves(guest))
            .filter(|guest| guest.intent == RunIntent::Running)
            .collect();
        // The smallest first: it is moved fastest, and evens out most finely.
        guests.sort_by_key(|guest| (guest.template.memory_bytes, guest.id));
        for guest in guests {
            let full = draft.is_full() || draft.plan.steps.len() >= max_moves;
            if full || !draft.may_migrate_from(source) {
                break;
            }
            let Some(target) = draft.target(guest) else {
                continue;
            };
            let amount = Amount::of_guest(&guest.template);
            let inventory = &draft.inventory;
            let before = inventory.load_without(source, moved);
            let after = inventory.load_without(source, moved.plus(amount));
            let there = inventory.load_with(target, amount);
            let (Some(before), Some(after), Some(there)) = (before, after, there) else {
                continue;
            };
            if after < before && u64::from(there) + threshold <= u64::from(before) {
                draft.migrate(guest, target);
                moved = moved.plus(amount);
            }
        }
    }
    draft.plan
}
