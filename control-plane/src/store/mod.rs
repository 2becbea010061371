//! A replica's log, vote and snapshot on disk: one file, written by one thread.
//!
//! ```text
//!  append, vote, purge ... ──> queue ──> thread: all that waits, one durable commit ──> answers
//!         |                                                     |
//!         └──> the end of the log, in memory ──> readers        └──> store.redb (redb)
//! ```
//!
//! The layout is specified in `docs/spec/store.md` and is ours: records of
//! [`raft`](godwit_proto::raft) with a version and a checksum each. The cluster's state is not in
//! here: it is built anew from snapshot and log at each start, so no applied entry waits for a disk.
//!
//! - What is answered with success survives `kill -9` and power loss: a commit is one `fdatasync`.
//! - Writes become durable in the order in which they were asked for; a commit is whole or absent.
//! - After the first write that fails (disk full, disk gone) nothing more is ever answered with
//!   success, until the store is opened again.
//! - Damage is an error that says what to do, never a log that is silently shorter. (One limit: a
//!   flipped bit in the very last commit before a crash cannot be told from a commit that the crash
//!   cut short. Both are undone.)
//!
//! It does not know what entries mean, nor Raft's rules. Not pure: it has a thread and a disk.

mod disk;
mod entry;
mod error;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_proto::raft::{LogId, SnapshotHead, StoreIdentity, StoredMembership, Vote};
use tokio::sync::{mpsc, oneshot};

pub use entry::{Command, Logged, Payload};
pub use error::StoreError;

use disk::{Content, Disk};
use window::Window;
use writer::{Done, Job, MAX_JOBS, Write};

/// How much of the end of the log is kept in memory unless said otherwise, in bytes.
pub const DEFAULT_WINDOW_BYTES: usize = 16 << 20;

/// Where a store is, and whose.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Its directory, for itself; made if it is not there.
    pub directory: PathBuf,
    /// Whose it is. A store of another owner is not opened.
    pub identity: StoreIdentity,
    /// How much of the end of the log is kept in memory, in bytes.
    pub window_bytes: usize,
}

/// A replica's log, vote and snapshot. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    jobs: mpsc::Sender<Job>,
}

struct Inner {
    /// Gone when the store is closed.
    disk: Mutex<Option<Arc<Disk>>>,
    view: Mutex<View>,
}

/// What readers see: all that was asked for, durable or not.
#[derive(Debug)]
struct View {
    window: Window,
    /// The last entry, also when it is purged.
    last: Option<LogId>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    snapshot: Option<SnapshotHead>,
    next_snapshot: u64,
    failure: Option<Arc<StoreError>>,
}

/// The ends of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The last entry that was dropped because a snapshot has it.
    pub purged: Option<LogId>,
    /// The last entry, also when it is purged.
    pub last: Option<LogId>,
}

/// A snapshot as it is kept.
#[derive(Clone, Debug)]
pub struct StoredSnapshot {
    /// What it is of.
    pub head: SnapshotHead,
    /// Its chunks.
    pub chunks: Vec<Vec<u8>>,
}

impl Store {
    /// Opens a store, or makes one. Reads and checks all that is in it; blocks.
    ///
    /// # Errors
    /// It cannot be read, is in use, damaged, or not of this owner.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let disk = Disk::open(&config.directory, &config.identity)?;
        Self::begin(disk, config.window_bytes)
    }

    fn begin(disk: Disk, window_bytes: usize) -> Result<Self, StoreError> {
        let content = disk.load(window_bytes)?;
        let kept = content.snapshot.as_ref().map(|head| head.number);
        disk.commit(|changes| changes.drop_other_chunks(kept))?;
        let (marks, last) = (content.marks, content.last);
        let inner = Arc::new(Inner {
            disk: Mutex::new(Some(Arc::new(disk))),
            view: Mutex::new(View::new(content)),
        });
        let (jobs, receiver) = mpsc::channel(MAX_JOBS);
        let spawned = writer::spawn(Arc::clone(&inner), receiver, last, marks);
        spawned.map_err(|source| StoreError::Io {
            path: PathBuf::from("writer thread"),
            source,
        })?;
        Ok(Self { inner, jobs })
    }

    /// The ends of the log.
    #[must_use]
    pub fn ends(&self) -> Ends {
        let view = self.inner.view();
        Ends {
            purged: view.purged,
            last: view.last,
        }
    }

    /// The vote that is on disk.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.inner.view().vote
    }

    /// The last entry that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.inner.committed()
    }

    /// The head of the snapshot.
    #[must_use]
    pub fn snapshot_head(&self) -> Option<SnapshotHead> {
        self.inner.snapshot()
    }

    /// The entries of `range` that are in the log, as many as fit `budget_bytes`, at least one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn entries(
        &self,
        range: Range<u64>,
        budget_bytes: usize,
    ) -> Result<Vec<Logged>, Arc<StoreError>> {
        let (range, recent) = self.inner.view().plan(range, budget_bytes);
        if range.is_empty() {
            return Ok(recent);
        }
        let disk = self.inner.disk()?;
        let older = tokio::task::spawn_blocking(move || disk.entries(range, budget_bytes)).await;
        let mut entries = older.map_err(|_| StoreError::Closed)??;
        let used: usize = entries.iter().map(Logged::weight).sum();
        // What follows in memory comes after it without a gap, or not at all.
        let mut next = entries.last().map(|entry| entry.id.index + 1);
        let recent = recent.into_iter().take_while(|entry| {
            let follows = next.is_none_or(|next| next == entry.id.index);
            next = Some(entry.id.index + 1);
            follows
        });
        if used < budget_bytes || entries.is_empty() {
            entries.extend(window::within(recent, budget_bytes.saturating_sub(used)));
        }
        Ok(entries)
    }

    /// Adds entries to the log. Readers see them when this returns; `done` is told when they are on
    /// disk.
    ///
    /// # Errors
    /// They do not follow the last entry, or the store has failed; `done` is not told then.
    pub async fn append(
        &self,
        entries: Vec<Logged>,
        done: impl FnOnce(Result<(), Arc<StoreError>>) + Send + 'static,
    ) -> Result<(), Arc<StoreError>> {
        let slot = self.slot().await?;
        self.inner.view().append(&entries)?;
        slot.send(Job {
            write: Write::Append(entries),
            done: Box::new(done),
        });
        Ok(())
    }

    /// Drops every entry after `last`, of all when there is none.
    ///
    /// # Errors
    /// The store has failed.
    pub async fn truncate_after(&self, last: Option<LogId>) -> Result<(), Arc<StoreError>> {
        let index = last.map_or(0, |last| last.index.saturating_add(1));
        let slot = self.slot().await?;
        self.inner.view().truncate(index, last);
        self.finish(slot, Write::TruncateFrom(index)).await
    }

    /// Drops every entry up to and with `upto`.
    ///
    /// # Errors
    /// The store has failed.
    pub async fn purge(&self, upto: LogId) -> Result<(), Arc<StoreError>> {
        let slot = self.slot().await?;
        self.inner.view().purge(upto);
        self.finish(slot, Write::Purge(upto)).await
    }

    /// Writes the vote.
    ///
    /// # Errors
    /// The store has failed.
    pub async fn save_vote(&self, vote: Vote) -> Result<(), Arc<StoreError>> {
        let slot = self.slot().await?;
        self.finish(slot, Write::Vote(vote)).await
    }

    /// Notes how far entries are committed. It is written with the next thing that is, and so may
    /// be behind after a crash.
    pub fn save_committed(&self, committed: Option<LogId>) {
        self.inner.view().committed = committed;
    }

    /// Writes a snapshot, chunk by chunk so that entries need not wait for it, and makes it the
    /// store's unless that has one of a later entry.
    ///
    /// # Errors
    /// The store has failed.
    pub async fn save_snapshot(
        &self,
        last: Option<LogId>,
        membership: StoredMembership,
        chunks: &[Vec<u8>],
    ) -> Result<(), Arc<StoreError>> {
        let number = self.inner.view().number_snapshot();
        let head = SnapshotHead {
            number,
            last,
            membership,
            chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            checksums: chunks.iter().map(|chunk| crc32c::crc32c(chunk)).collect(),
        };
        for (chunk, bytes) in (0..head.chunks).zip(chunks) {
            let bytes = bytes.clone();
            let slot = self.slot().await?;
            self.finish(
                slot,
                Write::Chunk {
                    number,
                    chunk,
                    bytes,
                },
            )
            .await?;
        }
        let slot = self.slot().await?;
        self.finish(slot, Write::Snapshot(head)).await
    }

    /// The snapshot, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn snapshot(&self) -> Result<Option<StoredSnapshot>, Arc<StoreError>> {
        // A snapshot that is replaced while it is read is read again; twice is an accident.
        for is_last in [false, false, true] {
            let Some(head) = self.inner.snapshot() else {
                return Ok(None);
            };
            let disk = self.inner.disk()?;
            let wanted = head.clone();
            let read = tokio::task::spawn_blocking(move || disk.chunks(&wanted)).await;
            match read.map_err(|_| StoreError::Closed)? {
                Ok(chunks) => return Ok(Some(StoredSnapshot { head, chunks })),
                Err(error) if is_last || self.inner.snapshot() == Some(head) => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Writes what waits, ends the thread and gives the file free. Nothing can be read or written
    /// afterwards, by any clone.
    pub async fn close(&self) {
        if let Ok(slot) = self.slot().await {
            // A store that failed before has nothing more to write.
            let _ = self.finish(slot, Write::Close).await;
        }
    }

    /// Room for one job. From here to [`Slot::send`] nothing waits, so memory and queue agree.
    async fn slot(&self) -> Result<Slot<'_>, Arc<StoreError>> {
        let permit = self.jobs.reserve().await;
        let failure = self.inner.view().failure.clone();
        match failure {
            Some(error) => Err(error),
            None => Ok(Slot(permit.map_err(|_| StoreError::Closed)?)),
        }
    }

    async fn finish(&self, slot: Slot<'_>, write: Write) -> Result<(), Arc<StoreError>> {
        let (done, outcome) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // Who asked may have gone.
            let _ = done.send(result);
        });
        slot.send(Job { write, done });
        outcome.await.map_err(|_| StoreError::Closed)?
    }
}

struct Slot<'a>(mpsc::Permit<'a, Job>);

impl Slot<'_> {
    fn send(self, job: Job) {
        self.0.send(job);
    }
}

impl Inner {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> Result<Arc<Disk>, StoreError> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.clone().ok_or(StoreError::Closed)
    }

    fn committed(&self) -> Option<LogId> {
        self.view().committed
    }

    fn snapshot(&self) -> Option<SnapshotHead> {
        self.view().snapshot.clone()
    }

    /// All before `end` is on disk, and so are vote and snapshot.
    fn durable(&self, end: u64, vote: Option<Vote>, snapshot: Option<SnapshotHead>) {
        let mut view = self.view();
        view.vote = vote.or(view.vote);
        view.snapshot = snapshot;
        if let Some(last) = end.checked_sub(1) {
            view.window.trim(last);
        }
    }

    fn fail(&self, error: Arc<StoreError>) {
        self.view().failure = Some(error);
    }

    fn close(&self) {
        self.view()
            .failure
            .get_or_insert(Arc::new(StoreError::Closed));
        let disk = self
            .disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(disk);
    }
}

impl View {
    fn new(content: Content) -> Self {
        let kept = content.snapshot.as_ref().map_or(0, |head| head.number);
        Self {
            window: content.window,
            last: content.last,
            purged: content.marks.purged,
            committed: content.marks.committed,
            vote: content.vote,
            snapshot: content.snapshot,
            next_snapshot: kept.saturating_add(1),
            failure: None,
        }
    }

    /// What of `range` has to be read from disk, and what is here.
    fn plan(&self, range: Range<u64>, budget_bytes: usize) -> (Range<u64>, Vec<Logged>) {
        let after = |id: Option<LogId>| id.map_or(0, |id| id.index.saturating_add(1));
        let start = range.start.max(after(self.purged));
        let end = range.end.min(after(self.last));
        let recent = self.window.read(start..end, budget_bytes);
        let until = self.window.first().unwrap_or(end).min(end);
        (start..until, recent)
    }

    fn append(&mut self, entries: &[Logged]) -> Result<(), StoreError> {
        let mut last = self.last;
        for entry in entries {
            if let Some(last) = last
                && entry.id.index != last.index.saturating_add(1)
            {
                return Err(StoreError::Gap {
                    last: last.index,
                    found: entry.id.index,
                });
            }
            last = Some(entry.id);
        }
        entries.iter().for_each(|e| self.window.push(e.clone()));
        self.last = last;
        Ok(())
    }

    fn truncate(&mut self, index: u64, last: Option<LogId>) {
        self.window.truncate(index);
        if self.last.is_some_and(|found| found.index >= index) {
            self.last = last;
        }
    }

    fn purge(&mut self, upto: LogId) {
        self.window.purge(upto.index);
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }

    fn number_snapshot(&mut self) -> u64 {
        let number = self.next_snapshot;
        self.next_snapshot = number.saturating_add(1);
        number
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
