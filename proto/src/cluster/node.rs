//! Members of the cluster.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Meta, NodeCpu};
use crate::id::{NetworkId, NodeId, OperationId, PoolId};
use crate::record;
use crate::record::Kind;

/// A member of the cluster.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Name, labels, age.
    pub meta: Meta,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// SHA-256 of its certificate; it speaks for itself with this one only.
    pub certificate: [u8; 32],
    /// What it has for guests.
    pub capacity: Capacity,
    /// What its processors can do.
    pub cpu: NodeCpu,
    /// What fails together with it (a rack, a power feed); empty when nothing does.
    pub failure_domain: String,
    /// Pools that it reaches.
    pub pools: Vec<PoolId>,
    /// Networks that it has.
    pub networks: Vec<NetworkId>,
    /// Whether it holds a lease.
    pub state: NodeState,
    /// Whether guests may be placed on it.
    pub scheduling: Scheduling,
}
record!(Node, Kind::Node, version = 1);

/// What a node has for guests.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// All its memory in bytes.
    pub memory_bytes: u64,
    /// Of that, what guests cannot have, in bytes.
    pub reserved_bytes: u64,
    /// Its logical processors.
    pub cpus: u32,
}

/// Whether a node may run guests that could be started elsewhere.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It holds a lease.
    Ready,
    /// It was admitted and holds no lease yet.
    Joining,
    /// Its lease has lapsed: every guest that needs one stands still there, or is gone.
    Lost,
}

/// Whether guests may be placed on a node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// They may.
    Enabled,
    /// They may not; those that are there stay.
    Cordoned {
        /// Why, for people.
        reason: String,
    },
    /// They may not; those that are there are moved away.
    Draining {
        /// The drain.
        operation: OperationId,
    },
}
