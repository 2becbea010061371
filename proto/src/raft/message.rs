//! What replicas say to one another: one request, one reply.

use rkyv::{Archive, Deserialize, Serialize};

use super::{LogEntry, LogId, StoredMembership, Vote};
use crate::cluster::MAX_ENTRY_BYTES;
use crate::id::{ClusterId, NodeId};
use crate::record;
use crate::record::Kind;

/// The longest message, in bytes: any entry fits, and a piece of a snapshot.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The most bytes of a snapshot in one message.
pub const MAX_PIECE_BYTES: usize = 1 << 20;

const _: () =
    assert!(MAX_ENTRY_BYTES * 2 < MAX_MESSAGE_BYTES && MAX_PIECE_BYTES * 2 < MAX_MESSAGE_BYTES);

/// A request of one replica to another.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RaftRequest {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who asks.
    pub from: NodeId,
    /// Who is asked.
    pub to: NodeId,
    /// What.
    pub call: RaftCall,
}
record!(RaftRequest, Kind::RaftRequest, version = 1);

/// What is asked.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RaftCall {
    /// Take these entries; without any, a sign of life.
    Append(AppendRequest),
    /// Vote for me.
    Vote(VoteRequest),
    /// Would you vote for me?
    PreVote(VoteRequest),
    /// A part of a snapshot.
    Snapshot(SnapshotPiece),
    /// Lead in my place.
    Transfer(TransferRequest),
}

/// Entries of a leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The leader's.
    pub vote: Vote,
    /// The entry before the first.
    pub previous: Option<LogId>,
    /// The entries, each the successor of the one before.
    pub entries: Vec<LogEntry>,
    /// The last entry that is committed.
    pub committed: Option<LogId>,
}

/// A candidate's request.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The candidate's.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
    /// Whether the leader wants this election, so that its lease is no obstacle.
    pub transfer: bool,
}

/// A part of a snapshot. Parts come in order, each after the reply to the one before.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// The leader's.
    pub vote: Vote,
    /// The last entry that the snapshot has in it.
    pub last: Option<LogId>,
    /// The membership as of that entry.
    pub membership: StoredMembership,
    /// Which part, from 0. Part 0 begins anew.
    pub number: u32,
    /// Whether a chunk of the snapshot ends with it.
    pub ends_chunk: bool,
    /// Whether the snapshot ends with it.
    pub ends: bool,
    /// The bytes, at most [`MAX_PIECE_BYTES`].
    pub bytes: Vec<u8>,
}

/// A leader's request to lead in its place.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferRequest {
    /// The leader's.
    pub vote: Vote,
    /// Who is to lead.
    pub to: NodeId,
    /// What that node must have.
    pub last: Option<LogId>,
}

/// The reply to a [`RaftRequest`], of the variant of its call.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RaftReply {
    /// To entries.
    Append(AppendReply),
    /// To a request for a vote, or whether there would be one.
    Vote(VoteReply),
    /// To a part of a snapshot.
    Snapshot(SnapshotReply),
    /// To a request to lead.
    Transfer(TransferReply),
}
record!(RaftReply, Kind::RaftReply, version = 1);

/// What became of entries.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// All are on disk.
    Stored,
    /// Those up to here are.
    StoredUpTo(Option<LogId>),
    /// The entry before them is not the one that is here.
    Conflict,
    /// Somebody else leads.
    HigherVote(Vote),
}

/// A voter's reply.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The highest vote that it has seen.
    pub vote: Vote,
    /// Whether it was given to who asked.
    pub granted: bool,
    /// Its last entry.
    pub last: Option<LogId>,
}

/// What became of a part of a snapshot.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotReply {
    /// It was taken; part `next` should follow, or from 0 when it does not fit what came before.
    Taken {
        /// The next part.
        next: u32,
    },
    /// The whole is installed, unless the vote is higher than the sender's.
    Done(Vote),
}

/// What became of a request to lead.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferReply {
    /// An election has begun.
    Begun,
    /// Another vote is known here.
    OtherVote {
        /// The request's.
        expected: Vote,
        /// The one here.
        found: Vote,
    },
    /// The log here is not as far.
    Behind {
        /// The request's last entry.
        expected: Option<LogId>,
        /// The last one on disk here.
        found: Option<LogId>,
    },
}
