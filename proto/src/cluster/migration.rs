//! Attempts to move a guest.

use rkyv::{Archive, Deserialize, Serialize};

use super::Meta;
use crate::codes::CodedError;
use crate::id::{Epoch, GuestId, MigrationId, NodeId, OperationId, Timestamp};
use crate::record;
use crate::record::Kind;

/// One attempt to move a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// Name (that of the guest and a number), age.
    pub meta: Meta,
    /// The guest.
    pub guest: GuestId,
    /// Where it comes from.
    pub source: NodeId,
    /// The epoch under which the source runs it.
    pub epoch: Epoch,
    /// Where it goes.
    pub target: NodeId,
    /// The epoch under which the target is to run it.
    pub successor: Epoch,
    /// SHA-256 of the target's certificate, which the source accepts and no other.
    pub target_certificate: [u8; 32],
    /// What the source needs to reach the target's guest process: addresses, fingerprint, a secret
    /// that is good once. There from when the target is ready until the migration ends.
    pub token: Option<String>,
    /// Why it is moved.
    pub reason: MigrationReason,
    /// How far it is.
    pub phase: MigrationPhase,
    /// The receipt as JSON, when there is one.
    pub receipt: Option<String>,
}
record!(Migration, Kind::Migration, version = 1);

/// Why a guest is moved.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MigrationReason {
    /// Somebody asked.
    Asked,
    /// Its node is emptied.
    Drain(OperationId),
    /// Load is evened out.
    Rebalance,
}

/// How far a migration is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MigrationPhase {
    /// The target prepares, memory is copied; the target cannot run the guest.
    Prepared,
    /// The guest may be handed over at any moment.
    WindowOpen,
    /// The guest runs at the target.
    Completed {
        /// When that was committed.
        at: Timestamp,
    },
    /// It did not come to that.
    Aborted {
        /// When that was committed.
        at: Timestamp,
        /// Why.
        error: CodedError,
    },
}

impl MigrationPhase {
    /// Whether nothing more comes.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Aborted { .. })
    }
}
