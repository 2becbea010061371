//! What a node does: it compares what it is to do with what is so, and pledges what it can never take
//! back before it acts on it.
//!
//! ```text
//! desired state ──┐
//! ledger ─────────┼──> Agent::decide ──> actions
//! processes found ┘
//! ```
//!
//! [`Agent`] is what a node's daemon knows; a daemon that was started anew makes one from its ledger.
//! Guest processes go on without any of this: they hold deadlines, and stop by themselves
//! ([`ownership`](crate::ownership)).
//!
//! It obeys no desired state that is older than one it has seen, now or before it was started anew
//! (CLU-10). It makes a process for an epoch once (CLU-11). It destroys a guest only if a state that is
//! newer than the guest's process says that it is not this node's (CLU-12). Without a desired state it
//! does nothing at all.

mod action;
mod decide;
mod facts;
mod moves;
mod proposals;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use godwit_proto::cluster::{
    DesiredState, Heartbeat, HeartbeatAnswer, LeaseAnswer, Ledger, Pledge, Role, Window,
};
use godwit_proto::id::{Epoch, GuestId, Incarnation, MigrationId, NodeId, Revision};

use crate::lease::{ClockBound, Grant, NodeLease};
use proposals::Proposals;

pub use action::{Action, Launch};
pub use facts::{Doing, End, Found, Sending, Stage};

/// What a node's daemon knows and has promised.
#[derive(Clone, Debug)]
pub struct Agent {
    node: NodeId,
    /// Whether guest processes of this cluster keep leases on shared pools.
    disk_leases: bool,
    lease: NodeLease,
    desired: Option<DesiredState>,
    /// As it is on the disk.
    ledger: BTreeMap<GuestId, Pledge>,
    /// No older desired state is obeyed.
    seen: Revision,
    /// Epochs that were pledged to be begun and not yet asked to be.
    due: BTreeSet<(GuestId, Epoch)>,
    /// Migrations whose target knows that the window is open.
    informed: BTreeSet<MigrationId>,
    proposals: Proposals,
}

/// Why a desired state is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// It is for another node.
    #[error("the desired state is that of node {node}")]
    OtherNode {
        /// Which one.
        node: NodeId,
    },
    /// It is an old one.
    #[error("the desired state is that of revision {found}, and {seen} was seen")]
    Older {
        /// Its revision.
        found: Revision,
        /// The newest that was seen.
        seen: Revision,
    },
}

/// Proof that a guest may run, for its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The guest.
    pub guest: GuestId,
    /// The epoch; it is for the process of this epoch and for no other.
    pub epoch: Epoch,
    /// Until when, by this machine's monotonic clock.
    pub until: Duration,
}

impl Agent {
    /// That of a daemon that was just started, with what its ledger says; an empty one if there is
    /// none.
    #[must_use]
    pub fn new(node: NodeId, bound: ClockBound, disk_leases: bool, ledger: &Ledger) -> Self {
        let pledges = ledger.pledges.iter();
        Self {
            node,
            disk_leases,
            lease: NodeLease::new(bound),
            desired: None,
            ledger: pledges.map(|pledge| (pledge.guest, *pledge)).collect(),
            seen: ledger.seen,
            due: BTreeSet::new(),
            informed: BTreeSet::new(),
            proposals: Proposals::default(),
        }
    }

    /// What it is to do, as far as it knows.
    #[must_use]
    pub const fn desired(&self) -> Option<&DesiredState> {
        self.desired.as_ref()
    }

    /// What to tell the leader. The moment at which it is sent is to be remembered until the answer.
    #[must_use]
    pub fn heartbeat(&self, sequence: u64) -> Heartbeat {
        let desired = self.desired.as_ref();
        let incarnation = desired.and_then(|desired| desired.incarnation);
        Heartbeat {
            node: self.node,
            sequence,
            incarnation: incarnation.unwrap_or(Incarnation::new(0)),
            seen: desired.map_or(Revision::new(0), |desired| desired.revision),
        }
    }

    /// The leader answered a heartbeat that was sent at `asked`.
    ///
    /// # Errors
    /// Why what came with it is not obeyed. The lease may be renewed all the same.
    pub fn answered(
        &mut self,
        asked: Duration,
        answer: &HeartbeatAnswer,
    ) -> Result<(), LearnError> {
        if let LeaseAnswer::Renewed {
            incarnation,
            valid_for_ms,
        } = answer.lease
        {
            let valid_for = Duration::from_millis(valid_for_ms.into());
            let grant = Grant {
                incarnation,
                valid_for,
            };
            self.lease.renewed(asked, grant);
        }
        self.informed.extend(&answer.informed);
        match &answer.desired {
            Some(desired) => self.learn(desired),
            None => Ok(()),
        }
    }

    /// A desired state came.
    ///
    /// # Errors
    /// Why it is not obeyed.
    pub fn learn(&mut self, desired: &DesiredState) -> Result<(), LearnError> {
        if desired.node != self.node {
            return Err(LearnError::OtherNode { node: desired.node });
        }
        if desired.revision < self.seen {
            return Err(LearnError::Older {
                found: desired.revision,
                seen: self.seen,
            });
        }
        self.seen = desired.revision;
        let moves = desired.guests.iter().filter_map(|guest| match &guest.role {
            Role::Owner => None,
            Role::Source(moving) | Role::Target(moving) => Some(moving.migration),
        });
        let moves: BTreeSet<MigrationId> = moves.collect();
        self.informed.retain(|migration| moves.contains(migration));
        self.desired = Some(desired.clone());
        Ok(())
    }

    /// What guest processes can be told that they may run on: to be sent on after each renewal and
    /// each new desired state. A guest is this node's for as long as this node holds the lease that it
    /// held when the guest was (CLU-13).
    pub fn proofs(&self) -> impl Iterator<Item = Proof> {
        let until = self.lease.until();
        let desired = self.desired.as_ref();
        let desired = desired.filter(|desired| {
            desired.incarnation == Some(self.lease.incarnation()) && until.is_some()
        });
        let guests = desired.into_iter().flat_map(|desired| &desired.guests);
        let owned = guests.filter(|guest| match &guest.role {
            Role::Owner | Role::Source(_) => true,
            Role::Target(moving) => moving.window == Window::Open,
        });
        owned.filter_map(move |guest| {
            Some(Proof {
                guest: guest.id,
                epoch: guest.epoch,
                until: until?,
            })
        })
    }

    /// The ledger lies on the disk.
    pub fn recorded(&mut self, ledger: &Ledger) {
        let before = std::mem::take(&mut self.ledger);
        for pledge in &ledger.pledges {
            let begun = before.get(&pledge.guest).map(|before| before.begun);
            if begun.unwrap_or_default() < pledge.begun {
                self.due.insert((pledge.guest, pledge.begun));
            }
            self.ledger.insert(pledge.guest, *pledge);
        }
    }
}
