//! A guest that is moving does so by one migration that says the same of it, and a migration that has
//! not ended moves its guest.

use godwit_proto::cluster::{MigrationPhase, Owner, Window};

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for guest in state.guests() {
        let name = &guest.meta.name;
        for node in guest.ownership.hosts() {
            if state.node(node).is_none() {
                wrong.push(format!(
                    "guest {name} belongs to node {node}, which is gone"
                ));
            }
        }
        let Owner::Moving(handoff) = guest.ownership.owner else {
            continue;
        };
        let Some(migration) = state.migration(handoff.migration) else {
            wrong.push(format!(
                "guest {name} moves by a migration that is not there"
            ));
            continue;
        };
        let phase = match handoff.window {
            Window::Closed => MigrationPhase::Prepared,
            Window::Open => MigrationPhase::WindowOpen,
        };
        let same = (migration.guest, &migration.phase) == (guest.id, &phase)
            && (migration.source, migration.epoch) == (handoff.source, handoff.epoch)
            && (migration.target, migration.successor) == (handoff.target, handoff.successor)
            && handoff.source != handoff.target
            && handoff.epoch < handoff.successor;
        if !same {
            wrong.push(format!(
                "guest {name} and its migration say different things"
            ));
        }
    }
    for migration in state.migrations().filter(|m| !m.phase.is_finished()) {
        let owner = state
            .guest(migration.guest)
            .map(|guest| guest.ownership.owner);
        if !matches!(owner, Some(Owner::Moving(handoff)) if handoff.migration == migration.id) {
            wrong.push(format!("migration {} moves nothing", migration.meta.name));
        }
    }
    wrong
}
