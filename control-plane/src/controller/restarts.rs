//! Guests that are to run and belong to nobody: they failed, or their node was removed.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_proto::cluster::{Command, EventKind, ObjectRef, Owner, RunIntent};
use godwit_proto::id::GuestId;

use super::Controller;
use super::in_flight::Subject;
use crate::plan;
use crate::state::{State, Watch};

/// A guest that failed once is started again at once; one that fails again waits this long, then
/// twice as long each time.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Failures before this long ago do not count: the guest ran well meanwhile.
const REMEMBERED_MS: u64 = 600_000;
/// Changes that are read at once.
const CHANGES: usize = 4096;

impl Controller {
    /// Keeps up which guests are to run and belong to nobody.
    pub(super) fn read_changes(&mut self, state: &State) {
        let wanted = |id: GuestId| {
            state.guest(id).is_some_and(|guest| {
                guest.intent == RunIntent::Running && guest.ownership.owner == Owner::Nobody
            })
        };
        while let Some(read) = self.read.filter(|read| *read < state.revision()) {
            match state.changes_since(read, CHANGES) {
                Watch::Changes { changes, next } if next > read => {
                    for change in changes {
                        let ObjectRef::Guest(id) = change.object else {
                            continue;
                        };
                        match wanted(id) {
                            true => self.unowned.insert(id),
                            false => self.unowned.remove(&id),
                        };
                    }
                    self.read = Some(next);
                }
                Watch::Changes { .. } | Watch::Resync { .. } => self.read = None,
            }
        }
        if self.read.is_none() {
            let guests = state.guests().map(|guest| guest.id);
            self.unowned = guests.filter(|id| wanted(*id)).collect();
            self.read = Some(state.revision());
        }
    }

    pub(super) fn restart(&mut self, now: Duration, state: &State, commands: &mut Vec<Command>) {
        if self.unowned.is_empty() {
            self.restarts.forget_others();
            return;
        }
        let failures = failures(state);
        for step in plan::restart(state).steps {
            let failures = failures.get(&step.guest).copied().unwrap_or(0);
            let again = failures.saturating_sub(1);
            if self.restarts.is_due(step.guest, again, now) {
                let start = Command::Guest(step.to_start());
                self.propose(Subject::Guest(step.guest), start, now, state, commands);
            }
        }
        self.restarts.forget_others();
    }
}

/// How often guests failed of late, by the state's own time.
fn failures(state: &State) -> BTreeMap<GuestId, u32> {
    let since = state.now().as_millis().saturating_sub(REMEMBERED_MS);
    let mut failures = BTreeMap::new();
    for event in state.events().rev() {
        // Times come from several clocks, so an older event can be dated later; it counts then.
        if event.at.as_millis() < since {
            break;
        }
        if let (EventKind::Failed, ObjectRef::Guest(guest)) = (event.kind, event.object) {
            *failures.entry(guest).or_insert(0) += 1;
        }
    }
    failures
}
