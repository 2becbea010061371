//! What a migration says about itself: live progress, and the receipt at its end.
//!
//! Both serialise to JSON: times in milliseconds (`_ms`), with fractions.

mod table;

use std::time::Duration;

use godwit_proto::codes::CodedError;
use serde::{Serialize, Serializer};

use crate::policy::Reason;
pub(crate) use table::{Bytes, Ms};

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The target builds the guest.
    Preparing,
    /// Memory is copied while the guest runs.
    Copying,
    /// Samples are sent for a forecast; the guest is not moved.
    Forecasting,
    /// The change of owner is announced, the guest runs.
    OpeningWindow,
    /// The guest is paused.
    Switching,
    /// The source gave the guest up; the target is about to run it.
    HandedOver,
    /// The guest runs at the target, its memory follows.
    PostCopy,
    /// The link is cut after the source gave the guest up.
    Recovering,
    /// The guest is put back to running at the source.
    Unwinding,
    /// It is over.
    Finished,
}

/// Bytes on the wire, by what they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BytesByKind {
    /// Ranges of zero pages.
    pub zero: u64,
    /// Ranges of pages that the target has already.
    pub unchanged: u64,
    /// Differences to an earlier copy.
    pub delta: u64,
    /// Compressed blocks.
    pub zstd: u64,
    /// Pages as they are.
    pub raw: u64,
}

impl BytesByKind {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.zero + self.unchanged + self.delta + self.zstd + self.raw
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.zero += other.zero;
        self.unchanged += other.unchanged;
        self.delta += other.delta;
        self.zstd += other.zstd;
        self.raw += other.raw;
    }
}

/// What is shown while it runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// The round, from 1; 0 before the first.
    pub round: u32,
    /// Pages of this round, or that the target still lacks.
    pub remaining_pages: u64,
    /// Bytes sent so far.
    pub sent_bytes: u64,
    /// Measured bytes a second; 0 before the first measurement.
    pub link_rate: f64,
    /// Pages a second that the guest writes.
    pub dirty_rate: f64,
    /// Time taken from vCPUs, percent.
    pub throttle_percent: u8,
    /// Blackout of a switch now.
    #[serde(rename = "predicted_downtime_ms", serialize_with = "as_optional_ms")]
    pub predicted_downtime: Option<Duration>,
    /// Time left; only ever falls, see [`Eta`](crate::policy::Eta).
    #[serde(rename = "eta_ms", serialize_with = "as_optional_ms")]
    pub eta: Option<Duration>,
    /// Whether the time left is known to be more than [`Progress::eta`].
    pub eta_late: bool,
}

/// A round that is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundReport {
    /// The round, from 1.
    pub round: u32,
    /// When it began.
    #[serde(rename = "began_ms", serialize_with = "as_ms")]
    pub began: Duration,
    /// Until its acknowledgement.
    #[serde(rename = "duration_ms", serialize_with = "as_ms")]
    pub duration: Duration,
    /// Pages sent.
    pub pages: u64,
    /// Bytes sent.
    pub bytes: BytesByKind,
    /// Pages that the guest wrote meanwhile.
    pub dirty_pages: u64,
    /// Pages a second that the guest wrote.
    pub dirty_rate: f64,
    /// Measured bytes a second.
    pub link_rate: f64,
    /// Throttle during the round, percent.
    pub throttle_percent: u8,
    /// Blackout of a switch after it, as predicted.
    #[serde(rename = "predicted_downtime_ms", serialize_with = "as_ms")]
    pub predicted_downtime: Duration,
    /// Why what came next came next; `None` in the last round.
    pub reason: Option<Reason>,
}

/// Where the blackout went, as the source saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Blackout {
    /// From the order to pause until nothing ran.
    #[serde(rename = "pause_ms", serialize_with = "as_ms")]
    pub pause: Duration,
    /// From then until all last pages were given to the link; none in post-copy.
    #[serde(rename = "last_pages_ms", serialize_with = "as_ms")]
    pub last_pages: Duration,
    /// Saving the state, beside the last pages, and restoring it.
    #[serde(rename = "state_ms", serialize_with = "as_ms")]
    pub state: Duration,
    /// What no other part explains: the way there and back.
    #[serde(rename = "wire_ms", serialize_with = "as_ms")]
    pub wire: Duration,
    /// From the relinquish to the running guest, at the target.
    #[serde(rename = "resume_ms", serialize_with = "as_ms")]
    pub resume: Duration,
    /// From the order to pause until the source heard that the guest runs.
    #[serde(rename = "total_ms", serialize_with = "as_ms")]
    pub total: Duration,
    /// As the guest's peers saw it: until its first frame left at the target. At most one way of the
    /// link too long, for `total` ends at the source. `None` when the guest uses no network or was not
    /// heard within about 1 s, as one that is idle and whose driver cannot announce it.
    #[serde(rename = "outside_ms", serialize_with = "as_optional_ms")]
    pub outside: Option<Duration>,
}

/// How it ended, seen from the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest runs at the target with all its memory, and that is committed.
    Completed,
    /// The guest runs at the source as if nothing had been; it can be tried again.
    StayedAtSource(CodedError),
    /// The target refused, for all of these reasons; the guest never noticed.
    Refused(Vec<CodedError>),
    /// The guest is paused at the source and cannot be resumed there.
    SourceStuck(CodedError),
    /// The target has the guest and says that it never ran and never will: it may be revived at the
    /// source, under a fresh epoch.
    NeverStarted(CodedError),
    /// The target has the guest and cannot be reached. It may run there; it never will here under
    /// the old epoch.
    Unconfirmed(CodedError),
}

impl Outcome {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::StayedAtSource(_) => "stayed-at-source",
            Self::Refused(_) => "refused",
            Self::SourceStuck(_) => "source-stuck",
            Self::NeverStarted(_) => "never-started",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }

    /// Why it is not [`Outcome::Completed`].
    pub fn errors(&self) -> &[CodedError] {
        match self {
            Self::Completed => &[],
            Self::Refused(reasons) => reasons,
            Self::StayedAtSource(error)
            | Self::SourceStuck(error)
            | Self::NeverStarted(error)
            | Self::Unconfirmed(error) => std::slice::from_ref(error),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let errors: Vec<String> = self.errors().iter().map(ToString::to_string).collect();
        let codes: Vec<u8> = self.errors().iter().map(CodedError::exit_code).collect();
        let mut fields = serializer.serialize_struct("Outcome", 3)?;
        fields.serialize_field("result", self.name())?;
        fields.serialize_field("codes", &codes)?;
        fields.serialize_field("errors", &errors)?;
        fields.end()
    }
}

/// A phase and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// When it began.
    #[serde(rename = "began_ms", serialize_with = "as_ms")]
    pub began: Duration,
}

/// What a migration leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    /// The migration's id.
    pub migration: String,
    /// The guest's id.
    pub guest: String,
    /// Its name.
    pub name: String,
    /// Who asked for it.
    pub asked_by: String,
    /// Why.
    pub why: String,
    /// As asked for: `pre-copy`, `post-copy`, `hybrid`, `local`.
    pub mode: &'static str,
    /// How it ended; `None` while it lasts.
    pub outcome: Option<Outcome>,
    /// Phases, in order; times since the beginning.
    pub phases: Vec<PhaseTime>,
    /// Rounds, in order; the earliest are left out beyond [`MAX_ROUND_REPORTS`].
    pub rounds: Vec<RoundReport>,
    /// Rounds in all.
    pub rounds_total: u32,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// Bytes sent.
    pub bytes: BytesByKind,
    /// Where the blackout went; `None` when there was none.
    pub blackout: Option<Blackout>,
    /// Pages that a vCPU of the target had to wait for, by request.
    pub requested_pages: u64,
    /// How often the link was redialled.
    pub recoveries: u32,
    /// The highest throttle, percent.
    pub throttle_max_percent: u8,
    /// What did not go as asked, and cost nothing but that.
    pub warnings: Vec<String>,
    /// From the beginning to the end.
    #[serde(rename = "total_ms", serialize_with = "as_ms")]
    pub total: Duration,
}

impl Receipt {
    /// Notes that the guest's first frame left so long after it ran at the target.
    pub fn note_first_frame(&mut self, after_resume: Duration) {
        if let Some(blackout) = &mut self.blackout {
            blackout.outside = Some(blackout.total.saturating_add(after_resume));
        }
    }
}

/// The most rounds that a receipt lists.
pub const MAX_ROUND_REPORTS: usize = 200;

fn as_ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}

fn as_optional_ms<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.as_ref()
        .map(|time| time.as_secs_f64() * 1e3)
        .serialize(serializer)
}
