//! Why a command is refused.

use godwit_proto::cluster::{MigrationPhase, NodeState, ObjectRef};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, Revision};

use crate::scheduler::Rejection;

/// The most reasons that a refusal lists.
const MAX_CAUSES: usize = 16;

/// Why a command is refused. It has changed nothing then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it is about does not exist.
    #[error("there is no {object}")]
    NotFound {
        /// What.
        object: ObjectRef,
    },
    /// What it would make exists.
    #[error("{object} exists already")]
    Exists {
        /// What.
        object: ObjectRef,
    },
    /// Another object of the kind has the name.
    #[error("the name {name:?} is taken by {object}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        object: ObjectRef,
    },
    /// It was decided on what is no longer so.
    #[error("{object} changed at revision {found}, after revision {expected} that was read")]
    Conflict {
        /// What changed.
        object: ObjectRef,
        /// When it was read.
        expected: Revision,
        /// When it changed.
        found: Revision,
    },
    /// There are as many as can be.
    #[error("there are {max} {what} already, as many as there can be")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// A value is not possible.
    #[error("{field} {problem}")]
    Invalid {
        /// Which value.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something needs it.
    #[error("{object} is used by {user}")]
    InUse {
        /// What.
        object: ObjectRef,
        /// By what.
        user: String,
    },
    /// A guest is not in a state in which this can be done.
    #[error("guest {name} {found}")]
    GuestState {
        /// The guest's name.
        name: String,
        /// What it is or does.
        found: String,
        /// What would help.
        fix: &'static str,
    },
    /// Whoever tells of a guest no longer has it.
    #[error("guest {name} is at epoch {current}; epoch {found} there must not run it")]
    StaleEpoch {
        /// The guest's name.
        name: String,
        /// The highest epoch given out.
        current: Epoch,
        /// The one that was told.
        found: Epoch,
    },
    /// The node chosen cannot take the guest, or no longer can.
    #[error("node {node} cannot take guest {guest}")]
    DoesNotFit {
        /// The guest's name.
        guest: String,
        /// The node's name.
        node: String,
        /// Everything that speaks against it.
        rejections: Vec<Rejection>,
    },
    /// A node is not in a state in which this can be done.
    #[error("node {name} {}", state_text(*state))]
    NodeState {
        /// The node's name.
        name: String,
        /// What it is.
        state: NodeState,
        /// What would help.
        fix: &'static str,
    },
    /// Another node joined with this id.
    #[error("node {name} is known by another certificate")]
    OtherCertificate {
        /// The node's name.
        name: String,
    },
    /// A node lacks CPU features that new guests are promised.
    #[error("node {name} lacks CPU features of the cluster's baseline: {}", missing.join(", "))]
    BelowBaseline {
        /// The node's name.
        name: String,
        /// What it lacks.
        missing: Vec<String>,
        /// Whether it could join if the baseline fell.
        can_lower: bool,
    },
    /// A lease is held where it should not be, or the other way round.
    #[error("the lease of node {name} {found}")]
    LeaseState {
        /// The node's name.
        name: String,
        /// What it is.
        found: &'static str,
    },
    /// It was decided by a leader that has a successor.
    #[error("the reign that began at revision {reign} is over; that of revision {current} began")]
    Deposed {
        /// The leader's.
        reign: Revision,
        /// That of now.
        current: Revision,
    },
    /// A migration is not in a phase in which this can be done.
    #[error("the migration {}", phase_text(phase))]
    MigrationPhase {
        /// The phase.
        phase: MigrationPhase,
    },
    /// As many migrations are under way as may be.
    #[error("{count} migrations are under way {place}, as many as there may be")]
    TooManyMigrations {
        /// How many.
        count: u32,
        /// Where they are counted.
        place: String,
    },
    /// An operation has ended.
    #[error("the operation has ended")]
    OperationEnded,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
}

impl Refusal {
    pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The reason, for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Exists { .. } | Self::NameTaken { .. } | Self::OtherCertificate { .. } => {
                ErrorCode::AlreadyExists
            }
            Self::Conflict { .. } | Self::Deposed { .. } => ErrorCode::Conflict,
            Self::Limit { .. } => ErrorCode::LimitReached,
            Self::Invalid { .. } => ErrorCode::RequestInvalid,
            Self::InUse { .. } => ErrorCode::InUse,
            Self::GuestState { .. }
            | Self::LeaseState { .. }
            | Self::MigrationPhase { .. }
            | Self::OperationEnded => ErrorCode::WrongState,
            Self::StaleEpoch { .. } => ErrorCode::StaleEpoch,
            Self::DoesNotFit { .. } => ErrorCode::Unschedulable,
            Self::NodeState { .. } => ErrorCode::NodeNotReady,
            Self::BelowBaseline { .. } => ErrorCode::CpuIncompatible,
            Self::TooManyMigrations { .. } => ErrorCode::MigrationLimit,
            Self::KeyReused => ErrorCode::KeyReused,
        }
    }

    /// What would help.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Conflict { .. } => "read it again and decide anew".into(),
            Self::NameTaken { .. } => "choose another name".into(),
            Self::GuestState { fix, .. } | Self::NodeState { fix, .. } if !fix.is_empty() => {
                (*fix).into()
            }
            Self::StaleEpoch { .. } => "destroy this copy".into(),
            Self::DoesNotFit {
                node, rejections, ..
            } => {
                let steps = rejections.iter().map(|rejection| rejection.remedy(node));
                let steps: Option<Vec<String>> = steps.collect();
                steps.map_or_else(
                    || "let the scheduler choose".into(),
                    |steps| steps.join(", and "),
                )
            }
            Self::OtherCertificate { name } => {
                format!("if node {name} was wiped, remove it by force and join under a new id")
            }
            Self::BelowBaseline {
                can_lower: true, ..
            } => "join and lower the baseline: guests made from then on see less, and those that \
                  were made before cannot move to this node"
                .into(),
            Self::BelowBaseline {
                can_lower: false, ..
            } => "make a cluster for each CPU vendor".into(),
            Self::TooManyMigrations { .. } => "wait for one to end, or raise the limit".into(),
            Self::KeyReused => "use a new key for each request".into(),
            _ => return None,
        })
    }

    /// The refusal as told to who asked.
    #[must_use]
    pub fn to_coded_error(&self) -> CodedError {
        let mut error = CodedError::new(self.code(), self.to_string());
        if let Self::DoesNotFit { rejections, .. } = self {
            let causes = rejections.iter().take(MAX_CAUSES);
            error.causes = causes.map(ToString::to_string).collect();
        }
        match self.fix() {
            Some(fix) => error.with_fix(fix),
            None => error,
        }
    }
}

const fn state_text(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "is ready",
        NodeState::Joining => "has no lease yet",
        NodeState::Lost => "is lost: its lease has lapsed",
    }
}

const fn phase_text(phase: &MigrationPhase) -> &'static str {
    match phase {
        MigrationPhase::Prepared => "may not hand over yet",
        MigrationPhase::WindowOpen => "may hand over at any moment",
        MigrationPhase::Completed { .. } => "is completed",
        MigrationPhase::Aborted { .. } => "was aborted",
    }
}
