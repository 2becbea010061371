//! Migrations.

use serde::{Deserialize, Serialize};

use super::{Failure, Named, Time};

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Its id.
    pub id: String,
    /// Its name: that of the guest and a number.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was begun.
    pub created: Time,
    /// The guest.
    pub guest: Named,
    /// Where it comes from.
    pub source: Named,
    /// The epoch under which the source runs it.
    pub epoch: u64,
    /// Where it goes.
    pub target: Named,
    /// The epoch under which the target is to run it.
    pub successor: u64,
    /// Why it is moved.
    pub reason: Reason,
    /// How far it is.
    pub phase: MigrationPhase,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// Why it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Whether there is a receipt.
    pub has_receipt: bool,
}

/// Why a guest is moved: `"asked"`, `"rebalance"` or `{"drain": {"operation": "..."}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Somebody asked.
    Asked,
    /// Its node is emptied.
    Drain {
        /// The drain's id.
        operation: String,
    },
    /// Load is evened out.
    Rebalance,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationPhase {
    /// The target prepares, memory is copied.
    Prepared,
    /// The guest may be handed over at any moment.
    WindowOpen,
    /// The guest runs at the target.
    Completed,
    /// It did not come to that.
    Aborted,
}

impl MigrationPhase {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::WindowOpen => "window-open",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }

    /// Whether nothing more comes.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Completed | Self::Aborted)
    }
}
