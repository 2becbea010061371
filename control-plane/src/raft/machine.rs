//! The cluster's state as the library's state machine.
//!
//! It lives in memory only. At start it is what the store's snapshot says, and the library applies
//! what the log has beyond it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use futures_util::{Stream, TryStreamExt};
use godwit_proto::id::Revision;
use godwit_proto::record::RecordError;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::log::io_error;
use super::types::{
    BadMembership, EntryPayload, LogId, Outcome, Snapshot, SnapshotMeta, StoredMembership,
    TypeConfig, log_id, log_id_record, stored_membership, stored_membership_record,
};
use crate::state::{Restore, RestoreError, State};
use crate::store::{Store, StoreError};

/// Why the lock is never poisoned.
const NO_PANIC: &str = "neither applying nor reading panics";

/// A state as bytes, and as what they mean when that is known already.
#[derive(Debug)]
pub(super) struct Image {
    chunks: Arc<Vec<Vec<u8>>>,
    state: Option<Box<State>>,
}

impl Image {
    /// The state in `chunks`, which are untrusted.
    pub(super) async fn restore(chunks: Vec<Vec<u8>>) -> Result<Self, RestoreError> {
        let chunks = Arc::new(chunks);
        let state = restore(Arc::clone(&chunks)).await?;
        Ok(Self {
            chunks,
            state: Some(state),
        })
    }

    pub(super) fn chunks(&self) -> &[Vec<u8>] {
        &self.chunks
    }
}

async fn restore(chunks: Arc<Vec<Vec<u8>>>) -> Result<Box<State>, RestoreError> {
    let restored = spawn_blocking(move || {
        let mut restore = Restore::new();
        for chunk in chunks.iter() {
            restore.push(chunk)?;
        }
        restore.finish().map(Box::new)
    });
    restored.await.expect("restoring a state does not panic")
}

/// What is applied, for all who read.
#[derive(Debug)]
pub(super) struct Shared {
    applied: RwLock<Applied>,
    changes: watch::Sender<Revision>,
    /// Bytes of the commands applied since the last snapshot was begun.
    unsaved_bytes: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Applied {
    state: State,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// The cluster's state as the library's state machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    shared: Arc<Shared>,
    store: Store,
}

/// A state that is to become the snapshot.
#[derive(Debug)]
pub(super) struct Builder {
    store: Store,
    applied: Applied,
}

/// Why the state cannot be had from the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum MachineError {
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Membership(#[from] BadMembership),
}

impl Shared {
    pub(super) fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.read(|applied| read(&applied.state))
    }

    pub(super) fn changes(&self) -> watch::Receiver<Revision> {
        self.changes.subscribe()
    }

    pub(super) fn unsaved_bytes(&self) -> usize {
        self.unsaved_bytes.load(Ordering::Relaxed)
    }

    fn read<R>(&self, read: impl FnOnce(&Applied) -> R) -> R {
        read(&self.applied.read().expect(NO_PANIC))
    }

    fn write<R>(&self, change: impl FnOnce(&mut Applied) -> R) -> R {
        change(&mut self.applied.write().expect(NO_PANIC))
    }

    fn tell(&self) {
        let revision = self.with_state(State::revision);
        self.changes.send_if_modified(|told| {
            let is_new = *told != revision;
            *told = revision;
            is_new
        });
    }
}

impl Machine {
    /// The state that the store's snapshot holds; an empty one without.
    pub(super) async fn open(store: Store) -> Result<Self, MachineError> {
        let applied = match store.snapshot().await? {
            None => Applied {
                state: State::new(""),
                last: None,
                membership: StoredMembership::default(),
            },
            Some(snapshot) => Applied {
                state: *restore(Arc::new(snapshot.chunks)).await?,
                last: snapshot.head.last.map(log_id),
                membership: stored_membership(&snapshot.head.membership)?,
            },
        };
        let (changes, _) = watch::channel(applied.state.revision());
        let shared = Arc::new(Shared {
            applied: RwLock::new(applied),
            changes,
            unsaved_bytes: AtomicUsize::new(0),
        });
        Ok(Self { shared, store })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Applies one entry.
    fn apply_entry(&self, id: LogId, payload: &EntryPayload) -> Outcome {
        self.shared.write(|applied| {
            applied.last = Some(id);
            let response = match payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(command) => {
                    let bytes = command.bytes().len();
                    self.shared
                        .unsaved_bytes
                        .fetch_add(bytes, Ordering::Relaxed);
                    Some(applied.state.apply(command.entry()))
                }
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(id), membership.clone());
                    None
                }
            };
            Outcome {
                revision: applied.state.revision(),
                response,
            }
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self
            .shared
            .read(|applied| (applied.last, applied.membership.clone())))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_entry(entry.log_id, &entry.payload);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.shared.tell();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.shared.unsaved_bytes.store(0, Ordering::Relaxed);
        Builder {
            store: self.store.clone(),
            applied: self.shared.read(Applied::clone),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let Image { chunks, state } = image;
        let state = match state {
            Some(state) => state,
            None => restore(Arc::clone(&chunks))
                .await
                .map_err(io::Error::other)?,
        };
        save(&self.store, meta, &chunks).await?;
        self.shared.write(|applied| {
            applied.state = *state;
            applied.last = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
        });
        self.shared.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(stored) = self.store.snapshot().await.map_err(io_error)? else {
            return Ok(None);
        };
        let last_membership = stored_membership(&stored.head.membership);
        Ok(Some(Snapshot {
            meta: SnapshotMeta {
                last_log_id: stored.head.last.map(log_id),
                last_membership: last_membership.map_err(io::Error::other)?,
            },
            snapshot: Image {
                chunks: Arc::new(stored.chunks),
                state: None,
            },
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = std::mem::replace(&mut self.applied.state, State::new(""));
        let encoded = spawn_blocking(move || {
            let chunks: Result<_, RecordError> = state.snapshot();
            chunks
        });
        let chunks = encoded.await.map_err(io::Error::other)?;
        let chunks = Arc::new(chunks.map_err(io::Error::other)?);
        let meta = SnapshotMeta {
            last_log_id: self.applied.last,
            last_membership: self.applied.membership.clone(),
        };
        save(&self.store, &meta, &chunks).await?;
        Ok(Snapshot {
            meta,
            snapshot: Image {
                chunks,
                state: None,
            },
        })
    }
}

async fn save(store: &Store, meta: &SnapshotMeta, chunks: &[Vec<u8>]) -> io::Result<()> {
    let last = meta.last_log_id.as_ref().map(log_id_record);
    let membership = stored_membership_record(&meta.last_membership);
    let saved = store.save_snapshot(last, membership, chunks).await;
    saved.map_err(io_error)
}
