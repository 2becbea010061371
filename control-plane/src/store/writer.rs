//! The thread that writes: everything that waits becomes durable in one commit.

use std::sync::Arc;
use std::thread;

use godwit_proto::raft::{LogId, Marks, SnapshotHead, Vote};
use tokio::sync::mpsc;

use super::disk::{Changes, encode_entry};
use super::{Inner, Logged, StoreError};

/// Jobs that may wait. Who has more to write waits before that.
pub(super) const MAX_JOBS: usize = 1024;
/// A commit takes no further job when it has this much.
const MAX_COMMIT_BYTES: usize = 8 << 20;

/// Told when a job is durable, or that it never will be.
pub(super) type Done = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

/// Something to make durable.
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) done: Done,
}

/// What is to be made durable.
pub(super) enum Write {
    Append(Vec<Logged>),
    /// Drops every entry from this index on.
    TruncateFrom(u64),
    /// Drops every entry up to and with this one.
    Purge(LogId),
    Vote(Vote),
    Chunk {
        number: u64,
        chunk: u32,
        bytes: Vec<u8>,
    },
    /// Makes a snapshot the store's unless it has a later one. All its chunks are there.
    Snapshot(SnapshotHead),
    /// The last job.
    Close,
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(entries) => entries.iter().map(Logged::weight).sum(),
            Self::Chunk { bytes, .. } => bytes.len(),
            _ => 64,
        }
    }
}

/// What is on disk.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// The index after that of the last entry.
    end: u64,
    marks: Marks,
}

/// Begins the thread.
pub(super) fn spawn(
    inner: Arc<Inner>,
    jobs: mpsc::Receiver<Job>,
    last: Option<LogId>,
    marks: Marks,
) -> std::io::Result<()> {
    let end = index_after(last);
    let written = Written { end, marks };
    let run = move || run(&inner, jobs, written);
    thread::Builder::new()
        .name("godwit-store".into())
        .spawn(run)
        .map(drop)
}

fn run(inner: &Inner, mut jobs: mpsc::Receiver<Job>, mut written: Written) {
    let mut failure = None;
    let mut is_open = true;
    while is_open {
        let (batch, is_last) = next_batch(&mut jobs);
        is_open = !is_last;
        let (writes, done): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.write, job.done)).unzip();
        if failure.is_none()
            && let Err(error) = commit(inner, &writes, &mut written)
        {
            tracing::error!(%error, "the store failed; nothing more is acknowledged");
            let error = Arc::new(error);
            inner.fail(Arc::clone(&error));
            failure = Some(error);
        }
        if is_last {
            inner.close();
        }
        let outcome = failure.as_ref().map_or(Ok(()), |e| Err(Arc::clone(e)));
        done.into_iter().for_each(|done| done(outcome.clone()));
    }
}

/// All jobs that wait, at least one; whether they are the last.
fn next_batch(jobs: &mut mpsc::Receiver<Job>) -> (Vec<Job>, bool) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = jobs.blocking_recv();
    loop {
        let Some(job) = next else {
            // Nobody is left who could ask for more.
            return (batch, true);
        };
        bytes += job.write.bytes();
        let is_last = matches!(job.write, Write::Close);
        batch.push(job);
        if is_last || bytes >= MAX_COMMIT_BYTES || batch.len() == MAX_JOBS {
            return (batch, is_last);
        }
        next = match jobs.try_recv() {
            Ok(job) => Some(job),
            Err(mpsc::error::TryRecvError::Empty) => return (batch, false),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
        };
    }
}

fn commit(inner: &Inner, writes: &[Write], written: &mut Written) -> Result<(), StoreError> {
    let disk = inner.disk()?;
    let mut next = *written;
    let committed = inner.committed();
    let mut snapshot = inner.snapshot();
    disk.commit(|changes| {
        for write in writes {
            put(changes, write, &mut next, &mut snapshot)?;
        }
        // Only what is on disk here is noted as committed here: a quorum may be ahead of this disk.
        let committed = committed.filter(|id| id.index < next.end);
        next.marks.committed = later(next.marks.committed, committed);
        if next.marks != written.marks {
            changes.put_marks(&next.marks)?;
        }
        Ok(())
    })?;
    *written = next;
    let vote = writes.iter().rev().find_map(|write| match write {
        Write::Vote(vote) => Some(*vote),
        _ => None,
    });
    inner.durable(next.end, vote, snapshot);
    Ok(())
}

fn put(
    changes: &Changes<'_>,
    write: &Write,
    next: &mut Written,
    snapshot: &mut Option<SnapshotHead>,
) -> Result<(), StoreError> {
    match write {
        Write::Append(entries) => {
            let mut encoded = Vec::with_capacity(entries.len());
            for entry in entries {
                encoded.push((entry.id.index, encode_entry(entry)?));
            }
            changes.append(encoded.into_iter())?;
            next.end = entries.last().map_or(next.end, |e| index_after(Some(e.id)));
        }
        Write::TruncateFrom(index) => {
            changes.remove(*index..u64::MAX)?;
            next.end = next.end.min(*index);
        }
        Write::Purge(upto) => {
            let after = index_after(Some(*upto));
            changes.remove(0..after)?;
            next.marks.purged = later(next.marks.purged, Some(*upto));
            next.end = next.end.max(after);
        }
        Write::Vote(vote) => changes.put_vote(vote)?,
        Write::Chunk {
            number,
            chunk,
            bytes,
        } => changes.put_chunk(*number, *chunk, bytes)?,
        Write::Snapshot(head) => match snapshot.replace(head.clone()) {
            Some(before) if index_after(before.last) >= index_after(head.last) => {
                changes.drop_chunks(head.number)?;
                *snapshot = Some(before);
            }
            before => {
                changes.put_snapshot(head)?;
                if let Some(before) = before {
                    changes.drop_chunks(before.number)?;
                }
            }
        },
        Write::Close => {}
    }
    Ok(())
}

fn index_after(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}

/// The later of two.
fn later(one: Option<LogId>, other: Option<LogId>) -> Option<LogId> {
    match index_after(one) >= index_after(other) {
        true => one,
        false => other,
    }
}
