//! What a store holds beside the log.

use rkyv::{Archive, Deserialize, Serialize};

use super::{LogId, StoredMembership};
use crate::id::{ClusterId, NodeId};
use crate::record;
use crate::record::Kind;

/// Whose store it is. Written once, when it is made.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}
record!(StoreIdentity, Kind::RaftIdentity, version = 1);

/// How far things have gone.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The last entry known to be committed: at least up to here the log never changes.
    pub committed: Option<LogId>,
    /// The last entry that was dropped from the log because a snapshot has it.
    pub purged: Option<LogId>,
}
record!(Marks, Kind::RaftMarks, version = 1);

/// What a snapshot is of, and what belongs to it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Which of the store's snapshots it is: its chunks are kept under this number.
    pub number: u64,
    /// The last entry that it has in it.
    pub last: Option<LogId>,
    /// The membership as of that entry.
    pub membership: StoredMembership,
    /// How many chunks it has.
    pub chunks: u32,
    /// CRC-32C of each chunk, in order.
    pub checksums: Vec<u32>,
}
record!(SnapshotHead, Kind::RaftSnapshot, version = 1);
