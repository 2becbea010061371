//! The store as the library's log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::types::{
    self, Entry, LogId, TypeConfig, Vote, log_id, log_id_record, logged, vote, vote_record,
};
use crate::store::{Store, StoreError};

/// The most that is read of the log for one message to a follower, in bytes.
const READ_BYTES: usize = 1 << 20;

/// The store as the library's log.
#[derive(Clone, Debug)]
pub(super) struct Log(pub(super) Store);

/// As the library carries errors.
pub(super) fn io_error(error: Arc<StoreError>) -> io::Error {
    io::Error::other(error)
}

impl Log {
    async fn read(&self, start: u64, end: u64, budget_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = self.0.entries(start..end, budget_bytes).await;
        let entries = entries.map_err(io_error)?.into_iter();
        let entries = entries.map(types::entry);
        entries.collect::<Result<_, _>>().map_err(io::Error::other)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.vote().map(vote))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let ends = self.0.ends();
        Ok(LogState {
            last_purged_log_id: ends.purged.map(log_id),
            last_log_id: ends.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let saved = self.0.save_vote(vote_record(vote)).await;
        saved.map_err(io_error)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.save_committed(committed.as_ref().map(log_id_record));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.committed().map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(logged).collect();
        let done = move |result: Result<(), Arc<StoreError>>| {
            callback.io_completed(result.map_err(io_error));
        };
        self.0.append(entries, done).await.map_err(io_error)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.as_ref().map(log_id_record);
        self.0.truncate_after(last).await.map_err(io_error)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.purge(log_id_record(&upto)).await.map_err(io_error)
    }
}
