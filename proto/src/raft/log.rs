//! The log, and what it is about.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::NodeId;
use crate::record;
use crate::record::Kind;

/// A node as Raft knows it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Host and port at which other nodes reach it.
    pub address: String,
}

/// The place of an entry in the log. Two entries with the same one are the same.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogId {
    /// The term in which it was proposed.
    pub term: u64,
    /// Who led then. One term can have two leaders, the one with the higher id after the other.
    pub leader: NodeId,
    /// Its number, from 0, without gaps.
    pub index: u64,
}

/// Whom a node follows, or would: it only ever goes up, by term, then node, then committed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate or leader of the term.
    pub node: NodeId,
    /// Whether a quorum has granted it: the node leads.
    pub committed: bool,
}
record!(Vote, Kind::RaftVote, version = 1);

/// Who belongs to the cluster, and who votes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voters. Two sets while voters change: both have to agree then.
    pub configs: Vec<Vec<NodeId>>,
    /// Every node, voters among them.
    pub members: Vec<Member>,
}

/// A membership with the entry that it stands in.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMembership {
    /// The entry; none in a cluster that has not begun.
    pub log: Option<LogId>,
    /// The membership.
    pub membership: Membership,
}

/// An entry of the log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub id: LogId,
    /// What it says.
    pub payload: LogPayload,
}
record!(LogEntry, Kind::RaftLogEntry, version = 1);

/// What an entry of the log says.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum LogPayload {
    /// Nothing: a leader's first entry.
    Blank,
    /// An encoded [`crate::cluster::Entry`].
    Command(Vec<u8>),
    /// From here on these are the members.
    Membership(Membership),
}
