//! Why a replica does not do what it is asked.

use std::sync::Arc;

use godwit_proto::cluster::EntryError;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;
use godwit_proto::raft::Member;
use openraft::errors::{Fatal, RaftError};

use super::link::MessageError;
use super::machine::MachineError;
use super::types::TypeConfig;
use crate::state::RestoreError;
use crate::store::StoreError;

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its store.
    #[error("cannot open the replica's store")]
    Store(#[source] Arc<StoreError>),
    /// The state in the store's snapshot.
    #[error("cannot read the state in the store's snapshot")]
    State(#[source] RestoreError),
    /// Its timing.
    #[error("the replica's timing cannot be: {0}")]
    Timing(String),
    /// Raft refuses what the store holds.
    #[error("cannot begin with what the store holds: {0}")]
    Content(String),
}

impl OpenError {
    /// The failure as users are told, with what they can do.
    #[must_use]
    pub fn to_coded_error(&self) -> CodedError {
        match self {
            Self::Store(error) => error.to_coded_error(),
            Self::Timing(_) => CodedError::from_error(ErrorCode::ConfigInvalid, self),
            Self::State(_) | Self::Content(_) => CodedError::from_error(ErrorCode::Store, self)
                .with_fix(
                    "remove this node from the cluster, move the directory away and join again \
                     under a new id",
                ),
        }
    }
}

impl From<MachineError> for OpenError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Store(error) => Self::Store(error),
            MachineError::Restore(error) => Self::State(error),
            MachineError::Membership(error) => Self::Content(error.to_string()),
        }
    }
}

/// Why a cluster was not begun.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// There is one: this node has a log, or has voted.
    #[error("the node belongs to a cluster already")]
    Exists,
    /// The member is another node.
    #[error("node {0} is not this one")]
    OtherNode(NodeId),
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The replica has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It was shut down.
    #[error("the replica was shut down")]
    Shutdown,
    /// Its store failed, or its own checks: it acknowledges nothing more until it is opened again.
    #[error("the replica failed: {0}")]
    Failed(String),
}

impl From<Fatal<TypeConfig>> for Stopped {
    fn from(error: Fatal<TypeConfig>) -> Self {
        match error {
            Fatal::Stopped => Self::Shutdown,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Why a request of a peer was not answered.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The request is not one that this peer may send, or none at all.
    #[error("refused a message of a peer")]
    Message(#[from] MessageError),
    /// The snapshot that it sent cannot be read.
    #[error("refused a snapshot of a peer")]
    Snapshot(#[from] RestoreError),
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<RaftError<TypeConfig>> for HandleError {
    fn from(error: RaftError<TypeConfig>) -> Self {
        Self::Stopped(error.unwrap_fatal().into())
    }
}

impl From<Fatal<TypeConfig>> for HandleError {
    fn from(error: Fatal<TypeConfig>) -> Self {
        Self::Stopped(error.into())
    }
}

/// Why an entry was not committed, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none that is known. The entry was not taken.
    #[error("{}", not_leader(leader.as_ref()))]
    NotLeader {
        /// Who leads.
        leader: Option<Member>,
    },
    /// The leader reaches no majority of the voters. The entry was not taken.
    #[error("no majority of the voters can be reached")]
    NoQuorum,
    /// It is not known whether the entry is, or will be, committed: the majority was lost, or the
    /// lead, after it was taken. To ask again is safe with the same request id only.
    #[error("it is not known whether the entry was committed")]
    Undecided,
    /// The entry cannot be written.
    #[error("the entry cannot be written")]
    Entry(#[from] EntryError),
    /// The store failed. The replica has stopped.
    #[error("the store failed: {0}")]
    Storage(String),
    /// The replica was shut down.
    #[error("the replica was shut down")]
    Shutdown,
}

impl From<Stopped> for ProposeError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Shutdown => Self::Shutdown,
            Stopped::Failed(why) => Self::Storage(why),
        }
    }
}

/// Why nothing can be read that is sure to be the latest.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or none that is known.
    #[error("{}", not_leader(leader.as_ref()))]
    NotLeader {
        /// Who leads.
        leader: Option<Member>,
    },
    /// The leader reaches no majority of the voters.
    #[error("no majority of the voters can be reached")]
    NoQuorum,
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why the members were not changed, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads, or none that is known.
    #[error("{}", not_leader(leader.as_ref()))]
    NotLeader {
        /// Who leads.
        leader: Option<Member>,
    },
    /// The leader reaches no majority of the voters.
    #[error("no majority of the voters can be reached")]
    NoQuorum,
    /// It is not known whether the change was made; it may be half made, and is completed by
    /// making it again.
    #[error("it is not known whether the members were changed")]
    Undecided,
    /// Another change is under way.
    #[error("another change of the members is under way")]
    InProgress,
    /// The node is not a member.
    #[error("node {0} is not a member")]
    NotMember(NodeId),
    /// The node cannot vote yet: too much of the log is missing there.
    #[error("node {node} lacks {missing} entries of the log")]
    Lagging {
        /// The node.
        node: NodeId,
        /// How many entries it lacks.
        missing: u64,
    },
    /// There would be no voter left.
    #[error("the last voter cannot be removed")]
    LastVoter,
    /// Raft refuses the change.
    #[error("the members cannot be changed so: {0}")]
    Refused(String),
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

fn not_leader(leader: Option<&Member>) -> String {
    match leader {
        Some(leader) => format!("node {} at {} leads", leader.id, leader.address),
        None => "no node is known to lead".into(),
    }
}
