//! Migrations that can never finish.

use std::time::Duration;

use godwit_proto::cluster::{
    AbortCause, Command, Migration, MigrationCommand, MigrationPhase, NodeState, RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;

use super::Controller;
use super::in_flight::Subject;
use crate::state::State;

/// How long a target may take to be ready.
const READY_IN: Duration = Duration::from_secs(120);

impl Controller {
    /// Gives up migrations that can never finish, while nobody needs to be asked: before the window
    /// is open. After that only the ends can tell (CLU-21).
    pub(super) fn end_migrations(
        &mut self,
        now: Duration,
        state: &State,
        commands: &mut Vec<Command>,
    ) {
        let prepared = state.migrations();
        let prepared: Vec<&Migration> = prepared
            .filter(|migration| migration.phase == MigrationPhase::Prepared)
            .collect();
        self.unready.retain(|id, _| {
            let migration = state.migration(*id);
            migration.is_some_and(|migration| {
                migration.phase == MigrationPhase::Prepared && migration.token.is_none()
            })
        });
        for migration in prepared {
            if migration.token.is_none() {
                self.unready.entry(migration.id).or_insert(now);
            }
            let Some(error) = self.hopeless(now, state, migration) else {
                continue;
            };
            let abort = Command::Migration(MigrationCommand::Abort {
                migration: migration.id,
                cause: AbortCause::NotOpened,
                error,
            });
            let subject = Subject::Migration(migration.id);
            self.propose(subject, abort, now, state, commands);
        }
    }

    fn hopeless(&self, now: Duration, state: &State, migration: &Migration) -> Option<CodedError> {
        let lost = |id: NodeId| {
            state
                .node(id)
                .is_none_or(|node| node.state == NodeState::Lost)
        };
        for (end, node) in [("source", migration.source), ("target", migration.target)] {
            if lost(node) {
                let message = format!("the {end}'s lease has lapsed");
                return Some(CodedError::new(ErrorCode::NodeNotReady, message));
            }
        }
        let guest = state.guest(migration.guest)?;
        if guest.intent == RunIntent::Stopped {
            let message = "the guest is to be stopped";
            return Some(CodedError::new(ErrorCode::Cancelled, message));
        }
        let since = self.unready.get(&migration.id)?;
        (now >= *since + READY_IN).then(|| {
            let seconds = READY_IN.as_secs();
            let message = format!("the target was not ready within {seconds} s");
            CodedError::new(ErrorCode::TimedOut, message)
        })
    }

    /// When the first target has had its time, after `now`.
    pub(super) fn unready_deadline(&self, now: Duration) -> Option<Duration> {
        let until = self.unready.values().map(|since| *since + READY_IN);
        until.filter(|until| *until > now).min()
    }
}
