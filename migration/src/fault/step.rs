//! The steps of a migration, by name: what the machines have their drivers do.

use std::fmt;
use std::str::FromStr;

use godwit_proto::codes::CodedError;
use godwit_proto::migrate::{FromSource, FromTarget};

use super::plan::PlanError;
use crate::{source, target};

/// Where a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What becomes of a step that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The machine is told, and decides.
    Told,
    /// As of every message that cannot be sent: the link counts as lost.
    LinkLost,
    /// It is left out, with a line in the log.
    LeftOut,
    /// It cannot fail.
    Never,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $side:ident $text:literal $on_error:ident,)*) => {
        /// Something that a machine has its driver do. Displayed and parsed as `SIDE:NAME`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            /// Every step, in about the order in which they are taken.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Where it is taken.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// Its name, without the side.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What becomes of it when it fails.
            #[must_use]
            pub const fn on_error(self) -> OnError {
                match self { $(Self::$name => OnError::$on_error,)* }
            }
        }
    };
}

steps! {
    /// The offer is sent.
    SendOffer = Source "send-offer" LinkLost,
    /// Writes are logged from now on.
    StartDirtyLog = Source "start-dirty-log" Told,
    /// A round is announced.
    SendRoundBegin = Source "send-round-begin" LinkLost,
    /// Pages are read, encoded and sent.
    SendRound = Source "send-round" Told,
    /// A round's end is told.
    SendRoundEnd = Source "send-round-end" LinkLost,
    /// The log is read.
    CollectDirty = Source "collect-dirty" Told,
    /// vCPUs are slowed, or freed.
    SetThrottle = Source "set-throttle" Told,
    /// The change of owner is announced.
    OpenWindow = Source "open-window" Told,
    /// That is taken back.
    CloseWindow = Source "close-window" Never,
    /// The guest stops.
    PauseGuest = Source "pause-guest" Told,
    /// Its state is saved.
    SaveState = Source "save-state" Told,
    /// The paused guest's memory is digested.
    DigestMemory = Source "digest-memory" Told,
    /// The target hears that the guest is paused.
    SendSwitch = Source "send-switch" LinkLost,
    /// Stale pages are announced.
    SendStale = Source "send-stale" LinkLost,
    /// Missing pages are listed.
    SendMissing = Source "send-missing" LinkLost,
    /// Digests are sent.
    SendDigests = Source "send-digests" LinkLost,
    /// The state is sent.
    SendState = Source "send-state" LinkLost,
    /// The guest is given up; a failure keeps its disks locked.
    Relinquish = Source "relinquish" LeftOut,
    /// The target hears of it.
    SendRelinquish = Source "send-relinquish" LinkLost,
    /// Pages follow the guest.
    SendPages = Source "send-pages" Told,
    /// The target hears that all pages were sent.
    SendPushDone = Source "send-push-done" LinkLost,
    /// The target is connected with again.
    Redial = Source "redial" Never,
    /// What is said first then.
    SendRecover = Source "send-recover" LinkLost,
    /// The guest goes on at the source.
    ResumeSource = Source "resume-guest" Told,
    /// What is under way is dropped.
    StopSending = Source "stop-sending" Never,
    /// The target hears that the source keeps the guest.
    SourceAbort = Source "send-abort" LinkLost,
    /// Writes are not logged any more.
    StopDirtyLog = Source "stop-dirty-log" LeftOut,
    /// Whoever cancelled hears that it is too late.
    SourceTooLate = Source "cancel-too-late" Never,
    /// Memory is freed.
    FreeMemory = Source "free-memory" Never,
    /// It is over.
    SourceFinish = Source "finish" Never,

    /// The offer is checked, and the guest built.
    Prepare = Target "prepare" Told,
    /// The guest is accepted.
    SendAccept = Target "send-accept" LinkLost,
    /// It is refused.
    SendRefuse = Target "send-refuse" LinkLost,
    /// Pages that came are put into memory.
    ApplyBatch = Target "apply-batch" Told,
    /// A round is acknowledged.
    SendRoundAck = Target "send-round-ack" LinkLost,
    /// Stale pages are given up.
    GiveUp = Target "give-up" Told,
    /// The source hears of it.
    SendGaveUp = Target "send-gave-up" LinkLost,
    /// Memory is compared with the source's digests.
    CheckDigests = Target "check-digests" Told,
    /// Missing pages are made to wait.
    RegisterMissing = Target "register-missing" Told,
    /// The state is restored.
    RestoreState = Target "restore-state" Told,
    /// The source hears that all is ready.
    SendReady = Target "send-ready" LinkLost,
    /// The guest runs.
    ResumeTarget = Target "resume-guest" Told,
    /// The source hears that it does not.
    SendNotStarted = Target "send-not-started" LinkLost,
    /// The network hears where the guest is.
    AnnounceNetwork = Target "announce-network" LeftOut,
    /// The source hears that the guest runs.
    SendResumed = Target "send-resumed" LinkLost,
    /// Pages that something waits for are asked for.
    RequestPages = Target "request-pages" LinkLost,
    /// Pages that followed the guest are put into memory.
    InstallPages = Target "install-pages" Told,
    /// A source that is back hears what has arrived.
    SendReceived = Target "send-received" LinkLost,
    /// Nothing waits for memory any more.
    MemoryWhole = Target "memory-whole" Never,
    /// The change of owner is committed.
    Commit = Target "commit" Never,
    /// The source hears that all is done.
    SendComplete = Target "send-complete" LinkLost,
    /// The source hears that the target gives up.
    TargetAbort = Target "send-abort" LinkLost,
    /// The source is asked to stop.
    SendCancel = Target "send-cancel" LinkLost,
    /// Whoever cancelled hears that it is too late.
    TargetTooLate = Target "cancel-too-late" Never,
    /// What was built is taken apart.
    Discard = Target "discard" Never,
    /// It is over.
    TargetFinish = Target "finish" Never,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.side(), self.name())
    }
}

impl FromStr for Step {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let found = Self::ALL.iter().find(|step| step.to_string() == text);
        found.copied().ok_or_else(|| PlanError::NoSuchStep {
            step: text.to_owned(),
        })
    }
}

/// What a driver is told to do, as a step that can be struck.
pub(crate) trait Struck: Sized {
    /// What a driver tells its machine.
    type Event;

    /// Which step it is. `None`: a sign of life, which belongs to no step.
    fn step(&self) -> Option<Step>;

    /// What a machine is told when its user wants it to stop.
    const CANCELLED: Self::Event;

    /// What the machine is told of its failure; `None` when it is told nothing.
    fn failed(&self, error: CodedError) -> Option<Self::Event>;
}

impl Struck for source::Command {
    type Event = source::Event;

    const CANCELLED: source::Event = source::Event::Cancel;

    fn step(&self) -> Option<Step> {
        Some(match self {
            Self::SendControl(message) => return said_by_source(message),
            Self::StartDirtyLog => Step::StartDirtyLog,
            Self::CollectDirty => Step::CollectDirty,
            Self::SendRound { .. } => Step::SendRound,
            Self::StopSending => Step::StopSending,
            Self::SetThrottle(_) => Step::SetThrottle,
            Self::OpenWindow => Step::OpenWindow,
            Self::CloseWindow => Step::CloseWindow,
            Self::PauseGuest => Step::PauseGuest,
            Self::SaveState => Step::SaveState,
            Self::DigestMemory(_) => Step::DigestMemory,
            Self::ResumeGuest => Step::ResumeSource,
            Self::StopDirtyLog => Step::StopDirtyLog,
            Self::Relinquish(_) => Step::Relinquish,
            Self::SendPages { .. } => Step::SendPages,
            Self::Redial => Step::Redial,
            Self::FreeMemory => Step::FreeMemory,
            Self::CancelTooLate => Step::SourceTooLate,
            Self::Finish(_) => Step::SourceFinish,
        })
    }

    fn failed(&self, error: CodedError) -> Option<source::Event> {
        let step = match self {
            Self::SendControl(_) => return Some(source::Event::LinkLost),
            Self::StartDirtyLog => source::Step::StartDirtyLog,
            Self::CollectDirty => source::Step::CollectDirty,
            Self::SendRound { .. } => source::Step::SendRound,
            Self::SetThrottle(_) => source::Step::SetThrottle,
            Self::OpenWindow => source::Step::OpenWindow,
            Self::PauseGuest => source::Step::PauseGuest,
            Self::SaveState => source::Step::SaveState,
            Self::DigestMemory(_) => source::Step::DigestMemory,
            Self::ResumeGuest => source::Step::ResumeGuest,
            Self::SendPages { .. } => source::Step::SendPages,
            _ => return None,
        };
        Some(source::Event::Failed { step, error })
    }
}

fn said_by_source(message: &FromSource) -> Option<Step> {
    Some(match message {
        FromSource::Offer(_) => Step::SendOffer,
        FromSource::RoundBegin { .. } => Step::SendRoundBegin,
        FromSource::RoundEnd { .. } => Step::SendRoundEnd,
        FromSource::Switch { .. } => Step::SendSwitch,
        FromSource::Stale { .. } => Step::SendStale,
        FromSource::Missing { .. } => Step::SendMissing,
        FromSource::State { .. } => Step::SendState,
        FromSource::Digests { .. } => Step::SendDigests,
        FromSource::Relinquish { .. } => Step::SendRelinquish,
        FromSource::PushDone => Step::SendPushDone,
        FromSource::Recover { .. } => Step::SendRecover,
        FromSource::Abort(_) => Step::SourceAbort,
        FromSource::Ping { .. } | FromSource::Pong { .. } => return None,
    })
}

impl Struck for target::Command {
    type Event = target::Event;

    const CANCELLED: target::Event = target::Event::Cancel;

    fn step(&self) -> Option<Step> {
        Some(match self {
            Self::SendControl(message) => return said_by_target(message),
            Self::Prepare(_) => Step::Prepare,
            Self::RequestPages(_) => Step::RequestPages,
            Self::GiveUp(_) => Step::GiveUp,
            Self::CheckDigests(_) => Step::CheckDigests,
            Self::RegisterMissing(_) => Step::RegisterMissing,
            Self::RestoreState(_) => Step::RestoreState,
            Self::ResumeGuest(_) => Step::ResumeTarget,
            Self::AnnounceNetwork => Step::AnnounceNetwork,
            Self::MemoryWhole => Step::MemoryWhole,
            Self::Commit(_) => Step::Commit,
            Self::Discard => Step::Discard,
            Self::CancelTooLate => Step::TargetTooLate,
            Self::Finish(_) => Step::TargetFinish,
        })
    }

    fn failed(&self, error: CodedError) -> Option<target::Event> {
        let step = match self {
            Self::SendControl(_) | Self::RequestPages(_) => return Some(target::Event::LinkLost),
            Self::Prepare(_) => return Some(target::Event::Refused(vec![error])),
            Self::GiveUp(_) => target::Step::GiveUp,
            Self::CheckDigests(_) => target::Step::CheckDigests,
            Self::RegisterMissing(_) => target::Step::RegisterMissing,
            Self::RestoreState(_) => target::Step::RestoreState,
            Self::ResumeGuest(_) => target::Step::ResumeGuest,
            _ => return None,
        };
        Some(target::Event::Failed { step, error })
    }
}

fn said_by_target(message: &FromTarget) -> Option<Step> {
    Some(match message {
        FromTarget::Accept(_) => Step::SendAccept,
        FromTarget::Refuse(_) => Step::SendRefuse,
        FromTarget::RoundAck { .. } => Step::SendRoundAck,
        FromTarget::GaveUp => Step::SendGaveUp,
        FromTarget::Ready => Step::SendReady,
        FromTarget::Resumed(_) => Step::SendResumed,
        FromTarget::NotStarted { .. } => Step::SendNotStarted,
        FromTarget::PageRequest(_) => Step::RequestPages,
        FromTarget::Received { .. } => Step::SendReceived,
        FromTarget::Complete => Step::SendComplete,
        FromTarget::Abort(_) => Step::TargetAbort,
        FromTarget::Cancel => Step::SendCancel,
        // The machine does not say it.
        FromTarget::FirstFrame { .. } => return None,
        FromTarget::Ping { .. } | FromTarget::Pong { .. } => return None,
    })
}
