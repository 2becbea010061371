//! Migrations and operations.

use godwit_control_plane::state::State;
use godwit_proto::api;
use godwit_proto::cluster::{
    Migration, MigrationPhase, MigrationReason, Operation, OperationKind, OperationState,
};

use super::{named_guest, named_node};

pub(in super::super) fn migration(state: &State, migration: &Migration) -> api::Migration {
    let (phase, ended, failure) = match &migration.phase {
        MigrationPhase::Prepared => (api::MigrationPhase::Prepared, None, None),
        MigrationPhase::WindowOpen => (api::MigrationPhase::WindowOpen, None, None),
        MigrationPhase::Completed { at } => (api::MigrationPhase::Completed, Some(*at), None),
        MigrationPhase::Aborted { at, error } => {
            (api::MigrationPhase::Aborted, Some(*at), Some(error))
        }
    };
    api::Migration {
        id: migration.id.to_string(),
        name: migration.meta.name.clone(),
        revision: migration.meta.revision.get(),
        created: migration.meta.created.into(),
        guest: named_guest(state, migration.guest),
        source: named_node(state, migration.source),
        epoch: migration.epoch.get(),
        target: named_node(state, migration.target),
        successor: migration.successor.get(),
        reason: match &migration.reason {
            MigrationReason::Asked => api::Reason::Asked,
            MigrationReason::Rebalance => api::Reason::Rebalance,
            MigrationReason::Drain(operation) => api::Reason::Drain {
                operation: operation.to_string(),
            },
        },
        phase,
        ended: ended.map(Into::into),
        failure: failure.map(Into::into),
        has_receipt: migration.receipt.is_some(),
    }
}

pub(in super::super) fn operation(state: &State, operation: &Operation) -> api::Operation {
    let OperationKind::Drain { node } = operation.kind;
    let (progress, ended, reason) = match &operation.state {
        OperationState::Running => (api::OperationState::Running, None, None),
        OperationState::Paused => (api::OperationState::Paused, None, None),
        OperationState::Done { at } => (api::OperationState::Done, Some(*at), None),
        OperationState::Aborted { at, reason } => (
            api::OperationState::Aborted,
            Some(*at),
            Some(reason.clone()),
        ),
    };
    let blockers = operation.blockers.iter().map(|blocker| api::Blocker {
        guest: named_guest(state, blocker.guest),
        failure: (&blocker.error).into(),
    });
    api::Operation {
        id: operation.id.to_string(),
        name: operation.meta.name.clone(),
        revision: operation.meta.revision.get(),
        created: operation.meta.created.into(),
        kind: "drain".into(),
        node: named_node(state, node),
        state: progress,
        ended: ended.map(Into::into),
        reason,
        blockers: blockers.collect(),
    }
}
