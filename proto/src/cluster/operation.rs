//! What the cluster does over a longer time.

use rkyv::{Archive, Deserialize, Serialize};

use super::Meta;
use crate::codes::CodedError;
use crate::id::{GuestId, NodeId, OperationId, Timestamp};
use crate::record;
use crate::record::Kind;

/// Something long.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// Name, age.
    pub meta: Meta,
    /// What is done.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// Guests that are still to be dealt with, and why they are not yet; the first few.
    pub blockers: Vec<Blocker>,
}
record!(Operation, Kind::Operation, version = 1);

/// What is done.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// A node is emptied. No guest is ever stopped because moving it failed.
    Drain {
        /// The node.
        node: NodeId,
    },
}

/// How far an operation is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It begins nothing new until it is resumed.
    Paused,
    /// It is done.
    Done {
        /// When.
        at: Timestamp,
    },
    /// It was given up.
    Aborted {
        /// When.
        at: Timestamp,
        /// Why, for people.
        reason: String,
    },
}

impl OperationState {
    /// Whether nothing more comes.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Aborted { .. })
    }
}

/// A guest that holds an operation up.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The guest.
    pub guest: GuestId,
    /// Why, and what would help.
    pub error: CodedError,
}
