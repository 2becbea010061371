//! What a whole state is written as, beside its objects.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Applied, ObjectRef};
use crate::id::{BaselineId, NodeId, RequestId, Revision, Timestamp};
use crate::record;
use crate::record::Kind;

/// The first record of a state.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHeader {
    /// The revision of the state.
    pub revision: Revision,
    /// The latest time that an entry brought.
    pub now: Timestamp,
    /// The highest id of a baseline ever given out.
    pub last_baseline: BaselineId,
    /// Watchers that have seen this revision, or a later one, can go on.
    pub oldest_change: Revision,
    /// Who leads, if anybody ever did.
    pub reign: Option<Reign>,
    /// Objects that follow, to find a state that is cut short.
    pub objects: u64,
}
record!(StateHeader, Kind::ClusterState, version = 1);

/// A leader, from its election to the next one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The leader.
    pub node: NodeId,
    /// The revision at which it began.
    pub since: Revision,
}

/// An idempotency key that was used.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoneRequest {
    /// The key.
    pub id: RequestId,
    /// A digest of what was asked, to tell a repetition from a mistake.
    pub digest: u64,
    /// What was answered.
    pub applied: Applied,
}
record!(DoneRequest, Kind::DoneRequest, version = 1);

/// A change of an object, as watchers are told.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that it made.
    pub revision: Revision,
    /// The object.
    pub object: ObjectRef,
    /// Whether the object is gone.
    pub deleted: bool,
}
record!(Change, Kind::Change, version = 1);
