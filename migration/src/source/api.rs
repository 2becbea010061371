//! What the source's driver tells its machine, and what it is told to do.

use godwit_proto::codes::CodedError;
use godwit_proto::id::Epoch;
use godwit_proto::migrate::{FromSource, FromTarget, PageRun, RunDigest};

#[cfg(doc)]
use super::Source;
use crate::PageSet;
use crate::report::{BytesByKind, Outcome};

/// What the driver tells the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The target said something, on the control or fault stream.
    Control(FromTarget),
    /// [`Command::StartDirtyLog`] is done.
    DirtyLogStarted,
    /// [`Command::CollectDirty`] is done: pages written since they were last armed.
    Dirty(PageSet),
    /// [`Command::SendRound`] is done: all batches were given to the link.
    RoundSent(RoundSent),
    /// [`Command::OpenWindow`] is done: the change of owner is announced.
    WindowOpened,
    /// [`Command::PauseGuest`] is done.
    Paused,
    /// [`Command::SaveState`] is done.
    Saved(Vec<u8>),
    /// [`Command::DigestMemory`] is done.
    Digests(Vec<RunDigest>),
    /// [`Command::ResumeGuest`] is done.
    Resumed,
    /// [`Command::SendPages`] is done.
    PagesSent {
        /// Which.
        run: PageRun,
        /// Bytes on the wire.
        bytes: BytesByKind,
    },
    /// The control plane says that the target's ownership is committed; as good as
    /// [`FromTarget::Complete`].
    CommitSeen,
    /// A command failed.
    Failed {
        /// Which.
        step: Step,
        /// Why.
        error: CodedError,
    },
    /// What came on the control stream, or for the fault stream, is no message of a target (MIG-04).
    Malformed(CodedError),
    /// The connection is dead or gone.
    LinkLost,
    /// [`Command::Redial`] is done: there is a new connection, and nothing was said on it.
    LinkRestored,
    /// The user wants it to stop.
    Cancel,
    /// Time has passed; due at [`Source::deadline`].
    Tick,
}

/// A command that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// [`Command::StartDirtyLog`].
    StartDirtyLog,
    /// [`Command::CollectDirty`].
    CollectDirty,
    /// [`Command::SendRound`].
    SendRound,
    /// [`Command::SetThrottle`].
    SetThrottle,
    /// [`Command::OpenWindow`]; also when the control plane refuses.
    OpenWindow,
    /// [`Command::PauseGuest`]; the guest then runs.
    PauseGuest,
    /// [`Command::SaveState`].
    SaveState,
    /// [`Command::DigestMemory`].
    DigestMemory,
    /// [`Command::ResumeGuest`].
    ResumeGuest,
    /// [`Command::SendPages`].
    SendPages,
}

/// What a round put on the link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundSent {
    /// The round.
    pub round: u32,
    /// Batches by bulk stream.
    pub batches: Vec<u64>,
    /// Pages.
    pub pages: u64,
    /// Of those, pages that were neither zero nor unchanged.
    pub content_pages: u64,
    /// Bytes.
    pub bytes: BytesByKind,
}

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundKind {
    /// Memory of a guest that runs: its pages are armed first.
    Copy,
    /// The last pages of a guest that is paused: nothing is armed.
    Last,
    /// The first sample for a forecast: all memory is armed first. As in every sample, pages that were
    /// never touched are left out.
    FirstSample,
    /// A further one: nothing is armed.
    Sample,
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send on the control stream. Dropped when the link is down.
    SendControl(FromSource),
    /// Log the pages that the guest and its devices write: [`Event::DirtyLogStarted`].
    StartDirtyLog,
    /// Read the log: [`Event::Dirty`].
    CollectDirty,
    /// Arm what the kind of the round says; then read, encode and send `pages` on the bulk streams, marked
    /// with the round: [`Event::RoundSent`].
    SendRound {
        /// The round.
        round: u32,
        /// Its pages.
        pages: PageSet,
        /// What it is for.
        kind: RoundKind,
    },
    /// Drop what is not sent yet; no [`Event::RoundSent`] is expected any more.
    StopSending,
    /// Take this part of their time from vCPUs; 0 to 99 percent.
    SetThrottle(u8),
    /// Announce the change of owner: [`Event::WindowOpened`].
    OpenWindow,
    /// Take that back.
    CloseWindow,
    /// [`Event::Paused`].
    PauseGuest,
    /// [`Event::Saved`].
    SaveState,
    /// Digest these pages of the paused guest: [`Event::Digests`].
    DigestMemory(PageSet),
    /// Let the guest run on here, also when a pause is under way: [`Event::Resumed`].
    ResumeGuest,
    /// Stop logging.
    StopDirtyLog,
    /// Promise never to run this epoch again. Only memory is written; it cannot fail.
    Relinquish(Epoch),
    /// Send pages after the guest: [`Event::PagesSent`].
    SendPages {
        /// Which.
        run: PageRun,
        /// A vCPU waits: on the fault stream, before all others.
        requested: bool,
    },
    /// Drop the connection with all that is queued on it, and connect again until that succeeds or
    /// [`Command::Finish`]: [`Event::LinkRestored`].
    Redial,
    /// The guest's memory is not needed any more. Digests may be kept.
    FreeMemory,
    /// Tell who cancelled that the target has the guest.
    CancelTooLate,
    /// It is over; the receipt is [`Source::receipt`].
    Finish(Outcome),
}

/// Who wants a migration, for the receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub asked_by: String,
    /// Why.
    pub why: String,
}
