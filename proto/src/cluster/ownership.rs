//! Who may run a guest.
//!
//! ```text
//!            Start: epoch+1                  Prepare: epoch+1 reserved
//!  Nobody ------------------> Node(n, e) ------------------------------> Moving(n, e -> m, e+1)
//!     ^                        ^  |  ^                                     |  window closed
//!     |  reported stopped      |  |  |   SourceKept, TargetGone: n, e      |  OpenWindow
//!     '------------------------+--'  '-------------------------------------+  window open
//!                              |        Complete, SourceGone: m, e+1       |
//!                              |        TargetNeverRan: n, a fresh epoch   |
//!                              '-------------------------------------------'
//!     after every lease that could prove an owner has lapsed: Failover to a node, a fresh epoch
//! ```
//!
//! An epoch that was given out or reserved once is never given out again.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{Epoch, MigrationId, NodeId};

/// Who may run a guest, and the highest epoch that was ever given out for it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The highest epoch given out or reserved.
    pub highest: Epoch,
    /// Who may run it.
    pub owner: Owner,
    /// The epoch under which the owner gave up a copy of the guest that never ran anywhere since:
    /// that copy may go on under the owner's epoch. Any other copy of an earlier epoch is stale.
    pub revives: Option<Epoch>,
    /// It was taken from a lost node, and whoever has it since has not told that it runs: the lost node
    /// may run it still, on its lease on the disk.
    pub lingers: bool,
}

/// Who may run a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// One node.
    Node {
        /// The node.
        node: NodeId,
        /// The epoch under which it does.
        epoch: Epoch,
    },
    /// A node that is about to hand it over.
    Moving(Handoff),
}

/// A guest that is about to be handed over.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// The migration.
    pub migration: MigrationId,
    /// Who runs it until it relinquishes.
    pub source: NodeId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Who runs it then.
    pub target: NodeId,
    /// Under which epoch.
    pub successor: Epoch,
    /// Whether it may be handed over yet.
    pub window: Window,
}

/// Whether a guest may be handed over.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Not yet: the target cannot have run it.
    Closed,
    /// At any moment: either may run it.
    Open,
}

impl Ownership {
    /// That of a guest which never ran.
    pub const NEW: Self = Self {
        highest: Epoch::new(0),
        owner: Owner::Nobody,
        revives: None,
        lingers: false,
    };

    /// The nodes that may run the guest at this moment: none, one, or both ends of an open window.
    pub fn runners(&self) -> impl Iterator<Item = (NodeId, Epoch)> + use<> {
        let (first, second) = match self.owner {
            Owner::Nobody => (None, None),
            Owner::Node { node, epoch } => (Some((node, epoch)), None),
            Owner::Moving(handoff) => (
                Some((handoff.source, handoff.epoch)),
                match handoff.window {
                    Window::Closed => None,
                    Window::Open => Some((handoff.target, handoff.successor)),
                },
            ),
        };
        first.into_iter().chain(second)
    }

    /// The nodes that hold memory and processors for the guest: its owner, and where it is going.
    pub fn hosts(&self) -> impl Iterator<Item = NodeId> + use<> {
        let (first, second) = match self.owner {
            Owner::Nobody => (None, None),
            Owner::Node { node, .. } => (Some(node), None),
            Owner::Moving(handoff) => (Some(handoff.source), Some(handoff.target)),
        };
        first.into_iter().chain(second)
    }
}
