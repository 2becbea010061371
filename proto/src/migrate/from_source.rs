//! What the source says.

use rkyv::{Archive, Deserialize, Serialize};

use super::Offer;
use crate::codes::CodedError;
use crate::id::{Epoch, MigrationId};

/// A message of the source.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum FromSource {
    /// The first message.
    Offer(Box<Offer>),
    /// Pages of this round follow on the bulk streams.
    RoundBegin {
        /// The round, from 1, each one higher than the last.
        round: u32,
        /// Pages it will send.
        pages: u64,
    },
    /// All pages of this round have been given to the bulk streams.
    RoundEnd {
        /// The round.
        round: u32,
        /// What was sent.
        totals: RoundTotals,
    },
    /// The guest is paused.
    Switch {
        /// How the rest follows.
        kind: SwitchKind,
    },
    /// Pages that the target does not have or has of old, before [`FromSource::State`].
    Missing {
        /// Runs, rising, apart from one another and from those of earlier messages; at most
        /// [`MAX_RUNS`](super::MAX_RUNS).
        runs: Vec<PageRun>,
        /// Whether no more follow.
        last: bool,
    },
    /// The guest still runs; these pages that the target has of old will be among those of
    /// [`FromSource::Missing`]: it can give them up now.
    Stale {
        /// Runs, rising, apart from one another; at most [`MAX_RUNS`](super::MAX_RUNS).
        runs: Vec<PageRun>,
        /// Whether the target is to say [`FromTarget::GaveUp`](super::FromTarget::GaveUp) now.
        last: bool,
    },
    /// The guest's state without its memory: a [sequence of records](crate::record::RecordWriter).
    State {
        /// The sequence.
        bytes: Vec<u8>,
    },
    /// Digests of pages that the target has, before [`FromSource::State`].
    Digests {
        /// Rising, apart; at most [`MAX_DIGESTS`](super::MAX_DIGESTS).
        runs: Vec<RunDigest>,
        /// Whether no more follow.
        last: bool,
    },
    /// The source will never again run the guest under this epoch.
    Relinquish {
        /// The epoch it gives up.
        epoch: Epoch,
    },
    /// Every page has been sent at least once since the last [`FromSource::Recover`].
    PushDone,
    /// First message on a new connection after the source relinquished; says that again.
    Recover {
        /// The attempt.
        migration: MigrationId,
        /// The epoch that was given up.
        epoch: Epoch,
    },
    /// It is over, the guest stays with the source.
    Abort(CodedError),
    /// The peer is asked for a sign of life.
    Ping {
        /// Comes back in the pong.
        nonce: u64,
    },
    /// The answer to a ping.
    Pong {
        /// From the ping.
        nonce: u64,
    },
}

/// How memory follows a paused guest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchKind {
    /// In a last round of this number.
    LastRound(u32),
    /// After the guest: the pages of [`FromSource::Missing`].
    PostCopy,
    /// It has been handed over as a file.
    Local,
}

/// Pages one after the other.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The first.
    pub first: u64,
    /// How many, at least 1.
    pub count: u64,
}

/// What a round sent.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTotals {
    /// Batches on each bulk stream.
    pub batches: Vec<u64>,
    /// Pages in all of them.
    pub pages: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// The digest of a run of pages.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunDigest {
    /// The pages.
    pub run: PageRun,
    /// XXH3-64 (seed 0) of their bytes.
    pub digest: u64,
}
