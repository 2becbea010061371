//! Nodes that are to be emptied.

use std::collections::BTreeSet;

use godwit_proto::cluster::{
    Guest, MigrationCommand, MigrationReason, ObservedState, Owner, RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{GuestId, MigrationId, NodeId};

use super::{Draft, Plan, Step};
use crate::scheduler::Purpose;
use crate::state::State;

/// What can be moved away from `node` right now, within the limits on migrations: the largest guests
/// first. A guest that cannot be moved is blocked, with the reason; none is ever stopped for it.
#[must_use]
pub fn drain(state: &State, node: NodeId) -> Plan {
    drain_except(state, node, &BTreeSet::new())
}

/// The same, but `later` are not tried yet: moving them failed a moment ago.
#[must_use]
pub fn drain_except(state: &State, node: NodeId, later: &BTreeSet<GuestId>) -> Plan {
    let mut draft = Draft::new(state);
    let mut guests: Vec<&Guest> = state
        .guests_on(node)
        .filter(|g| owned_by(g, node))
        .collect();
    guests.sort_by_key(|guest| {
        let size = (guest.template.memory_bytes, guest.template.vcpus);
        (std::cmp::Reverse(size), guest.id)
    });
    for guest in guests {
        if guest.intent == RunIntent::Stopped {
            // It leaves by itself.
            draft.plan.waiting += 1;
            continue;
        }
        if !moves(guest) {
            let name = &guest.meta.name;
            let message = format!("guest {name} is not known to run, so it cannot be moved");
            let error = CodedError::new(ErrorCode::WrongState, message)
                .with_fix("wait until its node reports it, or stop it");
            draft.plan.blocked.push(godwit_proto::cluster::Blocker {
                guest: guest.id,
                error,
            });
            continue;
        }
        if later.contains(&guest.id) || draft.is_full() || !draft.may_migrate_from(node) {
            draft.plan.waiting += 1;
            continue;
        }
        match draft.target(guest) {
            Some(target) => draft.migrate(guest, target),
            None => draft.block(guest, guest, Purpose::Move),
        }
    }
    draft
        .plan
        .blocked
        .truncate(godwit_proto::cluster::limits::MAX_BLOCKERS);
    draft.plan
}

pub(super) fn owned_by(guest: &Guest, node: NodeId) -> bool {
    matches!(guest.ownership.owner, Owner::Node { node: owner, .. } if owner == node)
}

/// Whether a guest is known to run, so that it can be moved.
pub(super) const fn moves(guest: &Guest) -> bool {
    matches!(
        guest.observed.state,
        ObservedState::Running | ObservedState::Paused
    )
}

impl Step {
    /// The step as a migration.
    #[must_use]
    pub const fn to_migration(
        self,
        migration: MigrationId,
        reason: MigrationReason,
    ) -> MigrationCommand {
        MigrationCommand::Prepare {
            migration,
            guest: self.guest,
            target: self.node,
            reason,
            expected: Some(self.expected),
        }
    }
}
