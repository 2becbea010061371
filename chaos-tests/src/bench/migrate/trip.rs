//! One move of one guest, with either VMM, and what was seen of it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::guests::BenchGuest;
use super::super::{Bench, BenchError, Peer, Program};
use super::godwit::GodwitProcess;
use super::heartbeat::Beats;
use super::link::{End, Link};
use super::qemu::{QemuProcess, Tuning};

/// How long a guest may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long a source says nothing when the guest has left, though its reader may be late.
const QUIET: Duration = Duration::from_millis(300);

/// Who moves the guest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mover<'a> {
    /// Godwit, with its defaults.
    Godwit,
    /// QEMU as it is set.
    Qemu(&'a Peer, Tuning),
}

/// What goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// All memory.
    PreCopy,
    /// The guest.
    PostCopy,
    /// Memory while that gets anywhere, then the guest. QEMU is told to let the guest go when it
    /// has copied all memory once.
    Hybrid,
}

impl Mode {
    /// As `godwit migrate` calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PreCopy => "pre-copy",
            Self::PostCopy => "post-copy",
            Self::Hybrid => "hybrid",
        }
    }
}

/// What is asked for, of both alike.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The guest is ready to be moved when it says a line that begins so.
    pub(super) ready: &'static str,
    /// What goes first.
    pub(super) mode: Mode,
    /// Whether Godwit keeps the memory at the source, for the way back.
    pub(super) retain: bool,
    /// The longest blackout; 300 ms for both when it is not given.
    pub(super) downtime_limit_ms: Option<u64>,
    /// How long a move may take.
    pub(super) patience: Duration,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            ready: "heartbeat",
            mode: Mode::PreCopy,
            retain: false,
            downtime_limit_ms: None,
            patience: Duration::from_secs(60),
        }
    }
}

/// A move that is over.
#[derive(Debug)]
pub(super) struct Trip {
    /// How long the guest did not run, as it saw it itself.
    pub(super) blackout: Duration,
    /// From the command until it said that it was done.
    pub(super) total: Duration,
    /// Bytes that the source put on the wire; only of a shaped link.
    pub(super) wire_bytes: u64,
    /// Godwit's receipt, or QEMU's answer to `query-migrate`.
    pub(super) own: Value,
    /// What the guest said at the source, from the ready line to the move.
    pub(super) said: Vec<(Instant, String)>,
    /// What it said at the target until the move was over, and some time longer.
    pub(super) arrived: Vec<(Instant, String)>,
    /// When the move began.
    pub(super) began: Instant,
}

impl Trip {
    /// The blackout that the VMM itself believes in.
    pub(super) fn own_blackout_ms(&self) -> Option<f64> {
        let godwit = self.own["blackout"]["total_ms"].as_f64();
        godwit.or(self.own["downtime"].as_f64())
    }
}

/// Two processes, one of them with the guest.
#[derive(Debug)]
pub(super) enum Pair {
    Godwit {
        source: GodwitProcess,
        target: GodwitProcess,
    },
    Qemu {
        source: QemuProcess,
        target: QemuProcess,
        tuning: Tuning,
    },
}

impl Pair {
    /// Starts `guest` at the source and a process that waits for it at the target.
    pub(super) fn start(
        bench: &Bench,
        link: &Link,
        guest: &BenchGuest,
        mover: Mover<'_>,
        asked: &Asked,
    ) -> Result<Self, BenchError> {
        let mut pair = match mover {
            Mover::Godwit => Self::Godwit {
                source: GodwitProcess::run(bench, link, End::Source, guest)?,
                target: GodwitProcess::receive(bench, link, End::Target)?,
            },
            Mover::Qemu(peer, tuning) => Self::Qemu {
                source: QemuProcess::run(bench, peer, link, guest, tuning)?,
                target: QemuProcess::receive(bench, peer, link, guest, tuning, asked)?,
                tuning,
            },
        };
        pair.programs()[0].heard(asked.ready, READY)?;
        Ok(pair)
    }

    /// Source and target.
    pub(super) fn programs(&mut self) -> [&mut Program; 2] {
        match self {
            Self::Godwit { source, target } => [&mut source.program, &mut target.program],
            Self::Qemu { source, target, .. } => [&mut source.program, &mut target.program],
        }
    }

    /// Moves the guest from `from`.
    pub(super) fn migrate(
        &mut self,
        bench: &Bench,
        link: &Link,
        from: End,
        asked: &Asked,
    ) -> Result<Trip, BenchError> {
        let epoch = Instant::now();
        let mut said = Vec::new();
        let before = Beats::listen(self.programs()[0], epoch, &mut said)?;
        let count = || match link.speed.bytes_per_second() {
            Some(_) => link.wire_bytes(from),
            None => Ok(0),
        };
        let bytes_before = count()?;
        let began = Instant::now();
        let (total, own) = match self {
            Self::Godwit { source, target } => source.migrate(bench, target, asked)?,
            Self::Qemu { source, tuning, .. } => source.migrate(*tuning, asked)?,
        };
        let wire_bytes = count()? - bytes_before;
        let [source, target] = self.programs();
        // A guest that left says nothing more.
        said.extend(source.lines_until_quiet(QUIET));
        target.precede(source.unfinished());
        let mut arrived = Vec::new();
        let after = Beats::listen(target, epoch, &mut arrived)?;
        arrived.extend(target.lines_until_quiet(Duration::ZERO));
        Ok(Trip {
            blackout: before.blackout(&after),
            total,
            wire_bytes,
            own,
            said,
            arrived,
            began,
        })
    }

    /// The same two processes, but the guest has moved: a new one waits where it was.
    pub(super) fn turned(self, bench: &Bench, link: &Link) -> Result<Self, BenchError> {
        match self {
            Self::Godwit { source, target } => {
                drop(source);
                Ok(Self::Godwit {
                    source: target,
                    target: GodwitProcess::receive(bench, link, End::Source)?,
                })
            }
            Self::Qemu { .. } => Err(BenchError::Peer("it does not go back".to_owned())),
        }
    }
}

/// Starts `guest` and moves it once.
pub(super) fn once(
    bench: &Bench,
    link: &Link,
    guest: &BenchGuest,
    mover: Mover<'_>,
    asked: &Asked,
) -> Result<Trip, BenchError> {
    Pair::start(bench, link, guest, mover, asked)?.migrate(bench, link, End::Source, asked)
}
