//! Under which right a guest process runs its guest, when a cluster gave it the guest.
//!
//! A process without a mandate runs its guest for whoever steers it. With one it starts the guest's
//! vCPUs only while it may, and stops them itself when its proof runs out: the daemon may be dead by
//! then. The rule is `godwit_control_plane::ownership::Runner`'s.

use rkyv::{Archive, Deserialize, Serialize};

use super::ExitReason;
use crate::codes::CodedError;
use crate::id::{Epoch, GuestId, MigrationId};

/// A right to run a guest. A later one, with a higher epoch, takes the place of one that was relinquished.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// The guest.
    pub guest: GuestId,
    /// Under which epoch it may run.
    pub epoch: Epoch,
    /// Whether it could be started elsewhere, and so may run only with a live proof.
    pub leased: bool,
    /// How the guest comes to this process.
    pub origin: Origin,
}

/// How a guest comes to a process.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody could run it before.
    Fresh,
    /// It was taken from a node that was lost.
    FailedOver,
    /// It is handed over, by this migration.
    Moved(MigrationId),
}

/// A proof that a mandate holds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// Until when it is good, in nanoseconds of this host's `CLOCK_BOOTTIME`, which goes on while the host
    /// sleeps.
    pub until_ns: u64,
}

/// What a guest process says of its mandate.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The mandate; `None` in a process that has none.
    pub mandate: Option<Mandate>,
    /// What became of it.
    pub state: MandateState,
    /// The last migration of the guest to elsewhere, if there was one.
    pub departure: Option<Departure>,
}

/// What became of a mandate.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MandateState {
    /// The guest has not run under it.
    Waiting,
    /// The guest runs under it, or is paused as asked.
    Running,
    /// The guest ran and stands still, for want of a proof.
    Suspended,
    /// The guest never runs under it again.
    Over,
    /// The guest has ended.
    Ended(ExitReason),
}

/// A migration of a guest to elsewhere.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Which.
    pub migration: MigrationId,
    /// How far it is.
    pub stage: Leaving,
}

/// How far a migration of a guest to elsewhere is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Memory is copied.
    Copying,
    /// It would hand the guest over and waits for [`Request::OpenWindow`](super::Request::OpenWindow).
    AwaitsWindow,
    /// It may hand the guest over at any moment, or has: then [`MandateState::Over`] says so.
    MaySwitch,
    /// It is over.
    Ended {
        /// What became of the guest.
        parting: Parting,
        /// The receipt, JSON.
        receipt: String,
    },
}

/// What became of a guest that was to be moved.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It runs at the target.
    Moved,
    /// It was not given up.
    Kept(CodedError),
    /// It was given up and never ran at the target: it may go on here under a fresh epoch.
    NeverRan(CodedError),
    /// It was given up, and the target cannot be asked any more.
    Unconfirmed(CodedError),
}
