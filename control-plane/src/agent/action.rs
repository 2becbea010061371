//! What a node is to do next.

use godwit_proto::cluster::{Command, GuestMachine, Ledger};
use godwit_proto::id::{Epoch, GuestId, MigrationId, NodeId};

use crate::ownership::Origin;

/// Something to be done. Doing it twice is as good as doing it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the ledger to the disk, all of it, and then say so by
    /// [`Agent::recorded`](super::Agent::recorded). Nothing that depends on it is asked for before.
    Record(Ledger),
    /// Make a guest process and boot the guest in it; asked for once.
    Start(Box<Launch>),
    /// Make a guest process that waits for the guest; asked for once.
    PrepareReceive {
        /// The migration.
        migration: MigrationId,
        /// Who is to send it.
        source: NodeId,
        /// The process.
        launch: Box<Launch>,
    },
    /// Stop the guest: first ask it to power off, then insist.
    Stop {
        /// The guest.
        guest: GuestId,
        /// The epoch of its process.
        epoch: Epoch,
    },
    /// End the process at once, whatever it does, and forget how it ended: this copy of the guest is
    /// not wanted.
    Destroy {
        /// The guest.
        guest: GuestId,
        /// The epoch of the process; one of another epoch is left alone.
        epoch: Epoch,
    },
    /// Tell the process that it needs a proof to run from now on, or none.
    SetLeased {
        /// The guest.
        guest: GuestId,
        /// The epoch of its process.
        epoch: Epoch,
        /// Whether it does.
        leased: bool,
    },
    /// Let a copy that was given up go on, under a fresh epoch: the target never ran it. A migration
    /// that it still tries is cancelled first.
    Revive {
        /// The guest.
        guest: GuestId,
        /// The epoch of its process.
        from: Epoch,
        /// The epoch under which it goes on.
        epoch: Epoch,
    },
    /// Begin to give the guest away.
    BeginSend {
        /// The migration.
        migration: MigrationId,
        /// The guest.
        guest: GuestId,
        /// The epoch of its process.
        epoch: Epoch,
        /// Under which one it runs at the target.
        successor: Epoch,
        /// How to reach the target.
        token: String,
    },
    /// The window is open: hand over at any moment.
    AllowSwitch {
        /// The migration.
        migration: MigrationId,
        /// The guest.
        guest: GuestId,
    },
    /// Keep the guest if it was not given up yet.
    CancelSend {
        /// The migration.
        migration: MigrationId,
        /// The guest.
        guest: GuestId,
    },
    /// Have this committed, through whoever leads.
    Propose(Command),
}

/// A guest process to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The guest.
    pub guest: GuestId,
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it runs on a proof only.
    pub leased: bool,
    /// What has to happen before it first runs.
    pub origin: Origin,
    /// The directory of the pool in which its lease on a disk is kept.
    pub lease_pool: Option<String>,
    /// What it is made of.
    pub machine: GuestMachine,
}
