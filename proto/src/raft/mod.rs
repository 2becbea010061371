//! What Raft keeps on disk and says to its peers.
//!
//! These records are ours: a change of the library that runs Raft changes none of them. On disk,
//! see `docs/spec/store.md`; between nodes, a [`RaftRequest`] is answered by a [`RaftReply`], one
//! record each.
//!
//! Nothing here is checked for meaning, only for form. Who reads a message has to check that its
//! sender is who the transport says, that it is meant for this node and cluster, and that numbers
//! fit together.

mod log;
mod message;
mod store;

pub use log::{LogEntry, LogId, LogPayload, Member, Membership, StoredMembership, Vote};
pub use message::{
    AppendReply, AppendRequest, MAX_MESSAGE_BYTES, MAX_PIECE_BYTES, RaftCall, RaftReply,
    RaftRequest, SnapshotPiece, SnapshotReply, TransferReply, TransferRequest, VoteReply,
    VoteRequest,
};
pub use store::{Marks, SnapshotHead, StoreIdentity};
