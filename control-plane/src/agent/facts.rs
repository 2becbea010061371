//! What is so on a node: its guest processes, and what they say.

use godwit_proto::codes::CodedError;
use godwit_proto::id::{Epoch, GuestId, MigrationId};

/// A guest process of this node.
///
/// One that has ended is listed until its end is no longer asked for: until it is told to be
/// destroyed. One that is about to be made is listed from the moment its
/// [`Start`](super::Action::Start) or [`PrepareReceive`](super::Action::PrepareReceive) is taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The guest.
    pub guest: GuestId,
    /// The epoch under which the process was made, or goes on.
    pub epoch: Epoch,
    /// Whether it runs on a proof only.
    pub leased: bool,
    /// What the guest does.
    pub doing: Doing,
    /// The migration that it is given away by, now or last.
    pub sending: Option<Sending>,
    /// Pages of 4 KiB that the guest writes in a second.
    pub dirty_pages_per_second: Option<u64>,
    /// The receipt, as JSON, of the migration by which it came.
    pub receipt: Option<String>,
}

/// What a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Its process is being made, or waits for a first proof.
    Starting,
    /// It runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// It was not handed over yet.
    Receiving {
        /// The migration by which it comes.
        migration: MigrationId,
        /// How the source reaches the process, once it listens.
        token: Option<String>,
    },
    /// It has ended, and never runs again under this epoch.
    Ended(End),
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was stopped, or powered itself off: it ran, and said so itself.
    Stopped,
    /// It crashed, or could not be started, or its process died.
    Failed(CodedError),
    /// It was to come from elsewhere, and its process said itself that it never ran here and will
    /// not. Of one that died that is not known.
    NeverRan(CodedError),
}

/// A guest that is given away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The migration.
    pub migration: MigrationId,
    /// How far it is.
    pub stage: Stage,
}

/// How far a guest process is with giving its guest away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It copies.
    Copying,
    /// It wants to be allowed to switch.
    WantsWindow,
    /// It was allowed to.
    MaySwitch,
    /// It did not give the guest up, and will not by this migration.
    Kept(CodedError),
    /// It gave the guest up.
    Relinquished {
        /// It still has pages that the target needs.
        serving: bool,
        /// Why it does not know what became of the guest, once it has tried for long enough.
        lost: Option<CodedError>,
    },
}

impl Found {
    /// Whether it gave its guest up.
    #[must_use]
    pub fn is_relinquished(&self) -> bool {
        let stage = self.sending.as_ref().map(|sending| &sending.stage);
        matches!(stage, Some(Stage::Relinquished { .. }))
    }

    /// Whether somebody else's guest lacks what it has.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        let stage = self.sending.as_ref().map(|sending| &sending.stage);
        let serves = matches!(stage, Some(Stage::Relinquished { serving: true, .. }));
        serves && !matches!(self.doing, Doing::Ended(_))
    }

    /// Whether it may run its guest now or later.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.doing, Doing::Ended(_)) && !self.is_relinquished()
    }
}
