//! What was proposed and has not shown yet.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_proto::id::{GuestId, MigrationId, NodeId, OperationId, Revision};

use crate::state::State;

/// How long a command is given to take effect before it is proposed again. It may have been refused,
/// or lost; proposed twice it does no harm.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// The most commands under way at once.
pub(super) const MAX_IN_FLIGHT: usize = 1024;

/// What a command is about: one command about each is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Lease(NodeId),
    Guest(GuestId),
    Migration(MigrationId),
    Operation(OperationId),
}

#[derive(Clone, Copy, Debug)]
struct Proposed {
    at: Duration,
    /// The subject's revision then.
    revision: Revision,
}

/// Commands under way: those whose subject has not changed since.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    proposed: BTreeMap<Subject, Proposed>,
    /// Whether something took effect, or was given its time, since there was last looked.
    expired: bool,
}

impl InFlight {
    /// Forgets what has taken effect, and what was given its time.
    pub(super) fn settle(&mut self, now: Duration, state: &State) {
        let before = self.proposed.len();
        self.proposed.retain(|subject, proposed| {
            now < proposed.at + RETRY && revision(state, *subject) == proposed.revision
        });
        self.expired |= self.proposed.len() < before;
    }

    /// Whether something was forgotten since the last [`InFlight::looked`]: there may be more to do.
    pub(super) const fn expired(&self) -> bool {
        self.expired
    }

    /// What there is to do is looked at now.
    pub(super) const fn looked(&mut self) {
        self.expired = false;
    }

    /// Whether a command about `subject` may be proposed; if so it is under way from now on.
    pub(super) fn begin(&mut self, subject: Subject, now: Duration, state: &State) -> bool {
        if self.proposed.len() >= MAX_IN_FLIGHT || self.proposed.contains_key(&subject) {
            return false;
        }
        let revision = revision(state, subject);
        let proposed = Proposed { at: now, revision };
        self.proposed.insert(subject, proposed);
        true
    }

    /// When the first one has been given its time.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let proposed = self.proposed.values();
        proposed.map(|proposed| proposed.at + RETRY).min()
    }
}

/// When the subject last changed; 0 when it is not there.
fn revision(state: &State, subject: Subject) -> Revision {
    let meta = match subject {
        Subject::Lease(id) => state.lease(id).map(|lease| &lease.meta),
        Subject::Guest(id) => state.guest(id).map(|guest| &guest.meta),
        Subject::Migration(id) => state.migration(id).map(|migration| &migration.meta),
        Subject::Operation(id) => state.operation(id).map(|operation| &operation.meta),
    };
    meta.map_or(Revision::new(0), |meta| meta.revision)
}
