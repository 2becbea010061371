//! What the target's driver tells its machine, and what it is told to do.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::Epoch;
use godwit_proto::migrate::{Accept, FromSource, FromTarget, Offer, PageRun, RunDigest};

#[cfg(doc)]
use super::Target;
use crate::PageSet;

/// What the driver tells the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The source said something on the control stream.
    Control(FromSource),
    /// [`Command::Prepare`] is done.
    Prepared(Accept),
    /// [`Command::Prepare`] found reasons to refuse: all of them.
    Refused(Vec<CodedError>),
    /// A batch from a bulk stream was checked and is in memory.
    BatchApplied {
        /// The round it is marked with.
        round: u32,
        /// The stream it came on, from 0.
        stream: u16,
        /// Its pages.
        pages: u64,
    },
    /// [`Command::GiveUp`] is done.
    GivenUp,
    /// [`Command::CheckDigests`] is done.
    DigestsChecked {
        /// Runs that differ.
        wrong: u64,
    },
    /// [`Command::RegisterMissing`] is done.
    MissingRegistered,
    /// [`Command::RestoreState`] is done.
    Restored,
    /// [`Command::ResumeGuest`] is done: it runs.
    Resumed,
    /// [`Command::Commit`] is done.
    Committed,
    /// A vCPU or device waits for these missing pages, neighbours included.
    Fault(PageRun),
    /// Pages that followed the guest are in memory.
    PagesInstalled(PageRun),
    /// The guest that runs here has ended: nobody needs its memory any more.
    GuestEnded,
    /// A command failed.
    Failed {
        /// Which.
        step: Step,
        /// Why.
        error: CodedError,
    },
    /// What came on the control stream is no message of a source (MIG-04).
    Malformed(CodedError),
    /// The connection is dead or gone.
    LinkLost,
    /// The source connected again; nothing was said yet.
    LinkRestored,
    /// The user wants it to stop.
    Cancel,
    /// Time has passed; due at [`Target::deadline`].
    Tick,
}

/// A command, or work of the driver, that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// [`Command::Prepare`], other than by refusing.
    Prepare,
    /// Putting a batch into memory.
    ApplyBatch,
    /// [`Command::GiveUp`].
    GiveUp,
    /// [`Command::CheckDigests`].
    CheckDigests,
    /// [`Command::RegisterMissing`].
    RegisterMissing,
    /// [`Command::RestoreState`].
    RestoreState,
    /// [`Command::ResumeGuest`]; the guest has not run an instruction.
    ResumeGuest,
    /// Putting a page that followed the guest into memory.
    InstallPages,
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Check the offer and build the guest, without writing a disk: [`Event::Prepared`] or
    /// [`Event::Refused`].
    Prepare(Box<Offer>),
    /// Send on the control stream. Dropped when the link is down.
    SendControl(FromTarget),
    /// Send a [`FromTarget::PageRequest`] on the fault stream. Dropped when the link is down.
    RequestPages(PageRun),
    /// Give up what memory holds of these pages, for new content follows the guest:
    /// [`Event::GivenUp`].
    GiveUp(PageSet),
    /// Compare pages in memory: [`Event::DigestsChecked`].
    CheckDigests(Vec<RunDigest>),
    /// Make accesses to these pages wait, whatever they hold now: [`Event::MissingRegistered`].
    RegisterMissing(PageSet),
    /// Restore the state, which may touch missing pages: [`Event::Restored`].
    RestoreState(Vec<u8>),
    /// Run the guest under this epoch, if the proof that it is ours is alive: [`Event::Resumed`].
    ResumeGuest(Epoch),
    /// Tell the network where the guest is now.
    AnnounceNetwork,
    /// All memory is here and the owner committed: nothing has to wait for pages any more, and the
    /// guest may be moved on. Done before the source is told.
    MemoryWhole,
    /// Commit the change of owner; tried until it succeeds: [`Event::Committed`].
    Commit(Epoch),
    /// Destroy the guest that was built here. It has not run.
    Discard,
    /// Tell who cancelled that the guest may be ours already.
    CancelTooLate,
    /// It is over. The machine may be kept for a while, to answer a source that redials: it then
    /// only gives [`Command::SendControl`].
    Finish(Outcome),
}

/// How it ended, seen from the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs here with all its memory, and that is committed.
    Completed,
    /// Refused, for all of these reasons.
    Refused(Vec<CodedError>),
    /// The guest never ran here.
    NeverRan(CodedError),
    /// The guest runs here and waits for pages that cannot be had any more.
    PagesLost {
        /// How many pages.
        pages: u64,
        /// Why.
        error: CodedError,
    },
}

impl Outcome {
    /// Whether the source came only to see what a move would be like (MIG-80).
    pub fn is_forecast(&self) -> bool {
        matches!(self, Self::NeverRan(error) if error.code() == ErrorCode::OnlyForecast)
    }
}

/// What the target bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most pages of a guest, at most 2^40; sets of pages take a bit for each.
    pub max_pages: u64,
    /// From the connection to the offer; 10 s.
    pub offer_timeout: Duration,
    /// Building the guest; 60 s.
    pub prepare_timeout: Duration,
    /// Nothing heard before the guest is ready; 120 s.
    pub silence: Duration,
    /// How long a cut link may stay cut once the source may have relinquished; 300 s.
    pub recovery_window: Duration,
}

impl Limits {
    /// The usual limits, for guests of up to `max_pages`.
    pub fn new(max_pages: u64) -> Self {
        Self {
            max_pages: max_pages.min(1 << 40),
            offer_timeout: Duration::from_secs(10),
            prepare_timeout: Duration::from_secs(60),
            silence: Duration::from_secs(120),
            recovery_window: Duration::from_secs(300),
        }
    }
}
