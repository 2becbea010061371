//! What a node asks.

use rkyv::{Archive, Deserialize, Serialize};

#[cfg(doc)]
use super::PeerResponse;
use crate::id::{GuestId, MigrationId};
use crate::process::ConsoleKind;

/// What a node asks of another.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Make me a node of the cluster: [`PeerResponse::Joined`].
    Join(JoinRequest),
    /// A message between replicas: [`PeerResponse::Raft`].
    Raft(Vec<u8>),
    /// Commit this log entry, if you lead: [`PeerResponse::Proposed`].
    Propose(Vec<u8>),
    /// Which revision has all that was committed until now? If you lead: [`PeerResponse::Revision`].
    ReadRevision,
    /// I live, and this is what my guests do; renew my lease, if you lead: [`PeerResponse::Heartbeat`].
    Heartbeat(Vec<u8>),
    /// I lead, and something has changed for you: send a heartbeat now. [`PeerResponse::Done`].
    Wake,
    /// How far is this migration, of which you are the source? [`PeerResponse::Text`].
    Progress {
        /// The migration.
        migration: MigrationId,
    },
    /// Give this migration up, of which you are the source: [`PeerResponse::Done`].
    Cancel {
        /// The migration.
        migration: MigrationId,
    },
    /// Connect this stream with a console of a guest of yours: [`PeerResponse::Done`], then raw bytes.
    Console {
        /// The guest.
        guest: GuestId,
        /// Which of its consoles.
        which: ConsoleKind,
    },
}

/// What a machine brings that wants to be a node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The secret of a join token.
    pub secret: [u8; 16],
    /// Its public key: an uncompressed point of P-256, 65 bytes.
    pub public_key: Vec<u8>,
    /// The version of its program.
    pub program: String,
}
