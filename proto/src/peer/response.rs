//! What a node answers.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codes::CodedError;
use crate::id::{NodeId, Revision};

/// What a node answers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum PeerResponse {
    /// Done.
    Done,
    /// You may be a node.
    Joined(Joined),
    /// The answer of a replica.
    Raft(Vec<u8>),
    /// What became of the entry: a [`crate::cluster::Response`] record.
    Proposed(Vec<u8>),
    /// The revision that has it.
    Revision(Revision),
    /// The answer to a heartbeat.
    Heartbeat(Vec<u8>),
    /// JSON, when there is something to tell.
    Text(Option<String>),
    /// I do not lead; perhaps this one does.
    NotLeader(Option<Peer>),
    /// It was not done.
    Error(CodedError),
}

/// What makes a machine a node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub node: NodeId,
    /// The certificate of the cluster's authority, DER.
    pub authority: Vec<u8>,
    /// The node's own, DER.
    pub certificate: Vec<u8>,
    /// Nodes that it can ask.
    pub peers: Vec<Peer>,
}

/// A node and where it is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The node.
    pub id: NodeId,
    /// Host and port.
    pub address: String,
}
