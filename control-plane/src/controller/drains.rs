//! Nodes that are to be emptied, round by round.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use godwit_proto::cluster::{
    Blocker, ClusterCommand, Command, MigrationPhase, MigrationReason, Operation, OperationKind,
    OperationState,
};
use godwit_proto::id::{Epoch, GuestId, MigrationId, OperationId};
use xxhash_rust::xxh3::xxh3_128;

use super::Controller;
use super::in_flight::Subject;
use crate::plan::{self, Step};
use crate::state::State;

/// A guest whose move failed is left where it is this long, then twice as long each time.
pub(super) const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// What holds a drain up is told at most so often: the reasons have numbers in them, which change all
/// the time.
const TOLD_EVERY: Duration = Duration::from_secs(5);

impl Controller {
    pub(super) fn drain(&mut self, now: Duration, state: &State, commands: &mut Vec<Command>) {
        let running = |operation: &&Operation| operation.state == OperationState::Running;
        let drains: Vec<&Operation> = state.operations().filter(running).collect();
        self.blockers_told.retain(|id, _| {
            let operation = state.operation(*id);
            operation.is_some_and(|operation| !operation.state.is_finished())
        });
        if !drains.is_empty() {
            let failures = failures(state);
            for drain in drains {
                self.drain_round(now, state, drain, &failures, commands);
            }
        }
        self.moves.forget_others();
    }

    fn drain_round(
        &mut self,
        now: Duration,
        state: &State,
        drain: &Operation,
        failures: &BTreeMap<(OperationId, GuestId), u32>,
        commands: &mut Vec<Command>,
    ) {
        let OperationKind::Drain { node } = drain.kind;
        let failed = failures.iter().filter(|((id, _), _)| *id == drain.id);
        let later: BTreeSet<GuestId> = failed
            .filter(|((_, guest), failures)| !self.moves.is_due(*guest, **failures, now))
            .map(|((_, guest), _)| *guest)
            .collect();
        let plan = plan::drain_except(state, node, &later);
        for step in &plan.steps {
            let Some(epoch) = state.guest(step.guest).map(|guest| guest.ownership.highest) else {
                continue;
            };
            let migration = migration_id(drain.id, step, epoch);
            let prepare = step.to_migration(migration, MigrationReason::Drain(drain.id));
            let subject = Subject::Guest(step.guest);
            self.propose(subject, Command::Migration(prepare), now, state, commands);
        }
        self.tell_blockers(now, state, drain, plan.blocked, commands);
    }

    fn tell_blockers(
        &mut self,
        now: Duration,
        state: &State,
        drain: &Operation,
        blockers: Vec<Blocker>,
        commands: &mut Vec<Command>,
    ) {
        let told = self.blockers_told.get(&drain.id);
        let is_recent = told.is_some_and(|told| now < *told + TOLD_EVERY);
        if blockers == drain.blockers || is_recent {
            return;
        }
        self.blockers_told.insert(drain.id, now);
        let report = Command::Cluster(ClusterCommand::ReportBlockers {
            operation: drain.id,
            blockers,
        });
        let subject = Subject::Operation(drain.id);
        self.propose(subject, report, now, state, commands);
    }
}

/// How often each drain failed to move each guest, as far as is remembered.
fn failures(state: &State) -> BTreeMap<(OperationId, GuestId), u32> {
    let mut failures = BTreeMap::new();
    for migration in state.migrations() {
        if let (MigrationReason::Drain(id), MigrationPhase::Aborted { .. }) =
            (&migration.reason, &migration.phase)
        {
            *failures.entry((*id, migration.guest)).or_insert(0) += 1;
        }
    }
    failures
}

/// The same for the same attempt: one that a deposed leader proposed as well is refused as known.
/// Each attempt reserves an epoch, so no two have the same.
fn migration_id(operation: OperationId, step: &Step, epoch: Epoch) -> MigrationId {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(operation.as_bytes());
    bytes[16..32].copy_from_slice(step.guest.as_bytes());
    bytes[32..].copy_from_slice(&epoch.get().to_le_bytes());
    MigrationId::from_bytes(xxh3_128(&bytes).to_be_bytes())
}
