//! Proofs that a guest may run.

use rkyv::{Archive, Deserialize, Serialize};

use super::Meta;
use crate::id::{Epoch, GuestId, Incarnation, NodeId};
use crate::record;
use crate::record::Kind;

/// A node's right to run guests that could be started elsewhere.
///
/// Renewals are not committed: they are between the leader and the node. What is committed is that a
/// node has a lease at all (so that the next leader knows to wait for it) and that it has lapsed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is; there is one for each node.
    pub node: NodeId,
    /// Name (the node's), age.
    pub meta: Meta,
    /// How long it lasts.
    pub profile: LeaseProfile,
    /// Which time round.
    pub incarnation: Incarnation,
    /// Whether it is held.
    pub state: LeaseState,
}
record!(Lease, Kind::Lease, version = 1);

/// Whether a lease is held.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It may be renewed at any moment.
    Held,
    /// It is known to have run out, and is not renewed again.
    Lapsed,
}

/// How long leases last.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseProfile {
    /// From a renewal to its end, in milliseconds.
    pub duration_ms: u32,
    /// Between renewals, in milliseconds.
    pub renew_ms: u32,
}

impl LeaseProfile {
    /// 10 s, renewed every 2 s.
    pub const DEFAULT: Self = Self {
        duration_ms: 10_000,
        renew_ms: 2_000,
    };
    /// 3 s, renewed every second.
    pub const FAST: Self = Self {
        duration_ms: 3_000,
        renew_ms: 1_000,
    };
}

/// What lies on a shared pool for each guest that could be started elsewhere: who runs it.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct DiskLease {
    /// The guest.
    pub guest: GuestId,
    /// Who runs it.
    pub owner: DiskOwner,
    /// Counts renewals: while it changes, the owner lives.
    pub counter: u64,
    /// Who takes over from the owner, as soon as it relinquishes.
    pub successor: Option<DiskOwner>,
    /// The owner has stopped the guest and will not run it again: it can be taken at once.
    pub released: bool,
}
record!(DiskLease, Kind::DiskLease, version = 1);

/// What lies beside it, in a sector of its own: somebody asks the owner to yield. A request that is
/// overwritten or lost costs time and nothing else.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRequest {
    /// The guest.
    pub guest: GuestId,
    /// Who asks, and under which epoch they would run it.
    pub by: DiskOwner,
}
record!(DiskRequest, Kind::DiskRequest, version = 1);

/// A node and the epoch under which it runs a guest.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct DiskOwner {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: Epoch,
}
