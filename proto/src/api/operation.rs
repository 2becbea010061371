//! What the cluster does over a longer time.

use serde::{Deserialize, Serialize};

use super::{Failure, Named, Time};

/// Something long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was begun.
    pub created: Time,
    /// What is done: `drain`.
    pub kind: String,
    /// The node that it is about.
    pub node: Named,
    /// How far it is.
    pub state: OperationState,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Guests that hold it up; the first few.
    pub blockers: Vec<Blocker>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It begins nothing new.
    Paused,
    /// It is done.
    Done,
    /// It was given up.
    Aborted,
}

/// A guest that holds an operation up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The guest.
    pub guest: Named,
    /// Why, and what would help.
    pub failure: Failure,
}
