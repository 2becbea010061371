//! What happened.

use rkyv::{Archive, Deserialize, Serialize};

use super::ObjectRef;
use crate::id::{Revision, Timestamp};
use crate::record;
use crate::record::Kind;

/// Something that happened.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that it made; several events can have the same.
    pub revision: Revision,
    /// When, by the clock of whoever proposed it.
    pub at: Timestamp,
    /// What it is about.
    pub object: ObjectRef,
    /// What it was.
    pub kind: EventKind,
    /// Who caused it.
    pub actor: String,
    /// The whole of it, for people.
    pub message: String,
}
record!(Event, Kind::Event, version = 1);

/// What happened, for programs.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An object was made.
    Created,
    /// What is wanted of an object changed.
    Updated,
    /// An object was removed.
    Deleted,
    /// A node got a lease.
    NodeReady,
    /// A node's lease lapsed.
    NodeLost,
    /// A guest was given to a node to be started.
    Started,
    /// A guest ended.
    Stopped,
    /// A guest failed.
    Failed,
    /// A guest was taken from a lost node.
    FailedOver,
    /// A migration was begun.
    MigrationPrepared,
    /// A migration may hand over.
    MigrationWindowOpen,
    /// A migration is done.
    MigrationCompleted,
    /// A migration was given up.
    MigrationAborted,
    /// An operation was begun, paused, resumed or ended.
    Operation,
    /// A leader was elected.
    Elected,
}
