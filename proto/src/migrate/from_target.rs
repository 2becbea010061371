//! What the target says.

use rkyv::{Archive, Deserialize, Serialize};

use super::PageRun;
use crate::codes::CodedError;
use crate::id::Epoch;

/// A message of the target.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum FromTarget {
    /// The guest is built and can be taken over.
    Accept(Accept),
    /// It cannot, for all of these reasons; at most [`MAX_REASONS`](super::MAX_REASONS).
    Refuse(Vec<CodedError>),
    /// Every batch of the round is in memory.
    RoundAck {
        /// The round.
        round: u32,
    },
    /// The pages of [`FromSource::Stale`](super::FromSource::Stale) are given up.
    GaveUp,
    /// Every page that was promised is in memory, and the state is restored.
    Ready,
    /// The guest runs at the target. Said again after a [`FromSource::Recover`](super::FromSource::Recover).
    Resumed(ResumeTimes),
    /// The guest has not run and never will under the epoch that was handed over.
    NotStarted {
        /// The epoch that was given up to the target.
        epoch: Epoch,
        /// Why.
        error: CodedError,
    },
    /// A vCPU waits for these pages. On the fault stream.
    PageRequest(PageRun),
    /// A piece of the bitmap of pages that have arrived, in answer to a
    /// [`FromSource::Recover`](super::FromSource::Recover).
    Received {
        /// The first page the piece speaks of, a multiple of 64.
        first: u64,
        /// A bit for each page, lowest first; at most [`MAX_BITMAP_WORDS`](super::MAX_BITMAP_WORDS).
        words: Vec<u64>,
        /// Whether no more follow.
        last: bool,
    },
    /// Memory is complete and the change of owner committed: the source may free its memory.
    Complete,
    /// It is over, the guest stays with the source.
    Abort(CodedError),
    /// The target's side asks to stop while that is possible.
    Cancel,
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
    /// After [`FromTarget::Complete`], the last word: when the guest was heard on its network again.
    FirstFrame {
        /// From the running guest to the first frame that it sent, nanoseconds by the target's clock;
        /// `None` when it uses no network, or sent none until memory was whole and 1 s had passed.
        after_resume_ns: Option<u64>,
    },
}

/// How the target takes a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Whether its memory is that of the guest at the end of [`Offer::retained`](super::Offer::retained),
    /// so that pages of the same digest need not be sent.
    pub retained: bool,
    /// Whether the guest can run there before its memory is there.
    pub post_copy: bool,
}

/// The target's part of the blackout, nanoseconds, by its own clock.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumeTimes {
    /// From the last page or byte of state to the restored state.
    pub restore_ns: u64,
    /// From the relinquish to the running guest.
    pub resume_ns: u64,
}
