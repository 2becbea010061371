//! What guests use beside memory and processors.

use rkyv::{Archive, Deserialize, Serialize};

use super::Meta;
use crate::id::{GuestId, NetworkId, NodeId, PoolId, VolumeId};
use crate::record;
use crate::record::Kind;

/// A directory in which volumes are files.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Name, labels, age.
    pub meta: Meta,
    /// Whether nodes see the same files in it.
    pub kind: PoolKind,
    /// Its path on every node that reaches it.
    pub path: String,
}
record!(Pool, Kind::Pool, version = 1);

/// Whether nodes see the same files in a pool.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Each node has its own.
    Local,
    /// All have the same; leases on guests' disks are kept here.
    Shared,
}

/// A raw disk image in a pool.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id, which is also its file's name.
    pub id: VolumeId,
    /// Name, labels, age.
    pub meta: Meta,
    /// The pool.
    pub pool: PoolId,
    /// The node that has it, in a local pool.
    pub node: Option<NodeId>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The guest whose disk it is.
    pub attached: Option<GuestId>,
}
record!(Volume, Kind::Volume, version = 1);

/// A bridge that exists on nodes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Name, labels, age.
    pub meta: Meta,
    /// The bridge's name on every node that has it.
    pub bridge: String,
}
record!(Network, Kind::Network, version = 1);
