//! What the state remembers of its past, all of it bounded: events, changes for watchers, requests
//! that were done.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use godwit_proto::cluster::{Applied, Change, DoneRequest, Event, ObjectRef, limits};
use godwit_proto::id::{RequestId, Revision};

use super::refusal::Refusal;

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// What changed since. An object is listed each time it changed; what it is *now* is in the
    /// state.
    Changes {
        /// The changes, oldest first; all of a revision or none.
        changes: Vec<Change>,
        /// What to ask from next.
        next: Revision,
    },
    /// Too much has changed, or the revision is not of this state: everything has to be read anew.
    Resync {
        /// What to ask from after that.
        next: Revision,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Journal {
    events: VecDeque<Event>,
    changes: VecDeque<Change>,
    /// Every change after this revision is in `changes`.
    oldest: Revision,
    requests: BTreeMap<RequestId, DoneRequest>,
    request_order: VecDeque<RequestId>,
}

impl Journal {
    pub(super) const fn new(oldest: Revision) -> Self {
        Self {
            events: VecDeque::new(),
            changes: VecDeque::new(),
            oldest,
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
        }
    }

    pub(super) fn happened(&mut self, event: Event) {
        if self.events.len() == limits::MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn changed(&mut self, revision: Revision, object: ObjectRef, deleted: bool) {
        if let Some(last) = self.changes.back_mut()
            && last.revision == revision
            && last.object == object
        {
            last.deleted = deleted;
            return;
        }
        if self.changes.len() == limits::MAX_CHANGES
            && let Some(lost) = self.changes.pop_front()
        {
            self.oldest = lost.revision;
        }
        self.changes.push_back(Change {
            revision,
            object,
            deleted,
        });
    }

    /// What was answered when this was asked before.
    pub(super) fn repeated(&self, id: RequestId, digest: u64) -> Result<Option<Applied>, Refusal> {
        match self.requests.get(&id) {
            None => Ok(None),
            Some(done) if done.digest == digest => Ok(Some(done.applied)),
            Some(_) => Err(Refusal::KeyReused),
        }
    }

    pub(super) fn requests_done(
        &self,
        keys: RangeInclusive<RequestId>,
    ) -> impl Iterator<Item = &DoneRequest> {
        self.requests.range(keys).map(|(_, done)| done)
    }

    pub(super) fn done(&mut self, request: DoneRequest) {
        if self.requests.len() == limits::MAX_REQUESTS
            && let Some(oldest) = self.request_order.pop_front()
        {
            self.requests.remove(&oldest);
        }
        if self.requests.insert(request.id, request).is_none() {
            self.request_order.push_back(request.id);
        }
    }

    /// At most about `max` changes after `since`, of a state at revision `now`.
    pub(super) fn since(&self, since: Revision, now: Revision, max: usize) -> Watch {
        if since < self.oldest || since > now {
            return Watch::Resync { next: now };
        }
        let from = self
            .changes
            .partition_point(|change| change.revision <= since);
        let rest = || self.changes.range(from..);
        let Some(last) = rest().nth(max.max(1)) else {
            return Watch::Changes {
                changes: rest().copied().collect(),
                next: now,
            };
        };
        // The changes of one revision are told together, however many they are.
        let whole = rest()
            .take(max.max(1))
            .filter(|c| c.revision < last.revision);
        let changes: Vec<Change> = whole.copied().collect();
        if changes.is_empty() {
            let one = rest().take_while(|change| change.revision == last.revision);
            return Watch::Changes {
                changes: one.copied().collect(),
                next: last.revision,
            };
        }
        let next = changes.last().map_or(since, |change| change.revision);
        Watch::Changes { changes, next }
    }

    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.events.iter()
    }

    pub(super) fn all_changes(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.changes.iter()
    }

    pub(super) const fn oldest(&self) -> Revision {
        self.oldest
    }

    /// Oldest first.
    pub(super) fn requests(&self) -> impl ExactSizeIterator<Item = &DoneRequest> {
        let order = self.request_order.iter();
        order.map(|id| &self.requests[id])
    }
}

#[cfg(test)]
mod tests {
    use godwit_proto::id::NodeId;

    use super::*;

    fn revision(number: u64) -> Revision {
        Revision::new(number)
    }

    fn node(number: u8) -> ObjectRef {
        ObjectRef::Node(NodeId::from_bytes([number; 16]))
    }

    /// Revisions 1 to 4, the third with three changes.
    fn journal() -> Journal {
        let mut journal = Journal::new(revision(0));
        for (at, object) in [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (4, 1)] {
            journal.changed(revision(at), node(object), false);
        }
        journal
    }

    #[test]
    fn a_watcher_that_asks_in_pieces_sees_every_change_once() {
        let journal = journal();
        for max in 0..8 {
            let (mut since, mut seen) = (revision(0), Vec::new());
            for _ in 0..10 {
                let Watch::Changes { changes, next } = journal.since(since, revision(4), max)
                else {
                    panic!("nothing was lost");
                };
                seen.extend(changes.iter().map(|c| c.revision.get()));
                since = next;
            }
            assert_eq!(seen, [1, 2, 3, 3, 3, 4], "{max} at a time");
            assert_eq!(since, revision(4));
        }
    }

    #[test]
    fn a_watcher_of_the_future_or_of_the_forgotten_past_reads_anew() {
        let mut journal = journal();
        let resync = Watch::Resync { next: revision(4) };
        assert_eq!(journal.since(revision(5), revision(4), 9), resync);
        for at in 5..5 + limits::MAX_CHANGES as u64 {
            journal.changed(revision(at), node(1), false);
        }
        let now = revision(4 + limits::MAX_CHANGES as u64);
        let resync = Watch::Resync { next: now };
        assert_eq!(journal.since(revision(3), now, 9), resync);
        assert_ne!(journal.since(revision(4), now, 9), resync);
        assert_eq!(journal.all_changes().len(), limits::MAX_CHANGES);
    }

    #[test]
    fn the_oldest_request_is_forgotten_first() {
        let mut journal = Journal::new(revision(0));
        let id = |number: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            RequestId::from_bytes(bytes)
        };
        for number in 0..=limits::MAX_REQUESTS {
            journal.done(DoneRequest {
                id: id(number),
                digest: 7,
                applied: Applied {
                    revision: revision(1),
                    object: ObjectRef::Settings,
                },
            });
        }
        assert_eq!(journal.repeated(id(0), 7), Ok(None));
        assert!(journal.repeated(id(1), 7).unwrap().is_some());
        assert_eq!(journal.repeated(id(1), 8), Err(Refusal::KeyReused));
        let found = journal.requests_done(id(1)..=id(1)).map(|done| done.id);
        assert_eq!(found.collect::<Vec<_>>(), [id(1)]);
        assert_eq!(journal.requests().len(), limits::MAX_REQUESTS);
    }
}
