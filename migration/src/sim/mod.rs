//! Both machines against each other, on a virtual clock: a guest that checks itself, a link with
//! delay, bandwidth, jitter between streams and cuts, and drivers whose every step can fail.
//!
//! Nothing is lost or reordered within a stream of a connection, as in QUIC; a cut loses what was
//! under way. Runs are determined by [`Setup`], which every failure prints.

mod exhaustive;
mod guest;
pub(crate) mod orders;
mod outcomes;
mod recovery;
mod survey;
mod world;

use std::time::Duration;

use godwit_proto::migrate::Mode;

use crate::options::TimeoutAction;
pub(crate) use guest::Guest;
pub(crate) use world::World;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A run, wholly determined.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) compare_memory: bool,
    /// Pages a second that the guest writes.
    pub(crate) write_rate: u64,
    /// Bytes a second of the link.
    pub(crate) bandwidth: u64,
    pub(crate) delay: Duration,
    pub(crate) timeout: Duration,
    pub(crate) timeout_action: TimeoutAction,
    /// Reasons for which the target refuses.
    pub(crate) reasons: usize,
    /// The target can run a guest before its memory is there.
    pub(crate) post_copy: bool,
    /// A page goes wrong at the target, unseen by any checksum.
    pub(crate) corrupt: bool,
    /// The move is only forecast, of a guest that is watched for so long.
    pub(crate) survey: Option<Duration>,
    pub(crate) fault: Option<Fault>,
}

/// Something goes wrong right before the driver takes a step. Steps are numbered from 0 over both
/// sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) step: usize,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The step fails, if it can.
    Error,
    /// The connection breaks; a new one can be made.
    Cut,
    /// The connection breaks and stays broken.
    CutForGood,
    KillSource,
    KillTarget,
    CancelAtSource,
    CancelAtTarget,
}

impl FaultKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Error,
        Self::Cut,
        Self::CutForGood,
        Self::KillSource,
        Self::KillTarget,
        Self::CancelAtSource,
        Self::CancelAtTarget,
    ];
}

impl Setup {
    /// A guest that writes a fifth of what the link takes.
    pub(crate) fn new(mode: Mode, seed: u64) -> Self {
        Self {
            seed,
            mode,
            compare_memory: false,
            write_rate: 5_000,
            bandwidth: 100 << 20,
            delay: Duration::from_millis(1),
            timeout: Duration::from_secs(30),
            timeout_action: TimeoutAction::Cancel,
            reasons: 0,
            post_copy: true,
            corrupt: false,
            survey: None,
            fault: None,
        }
    }

    pub(crate) fn with_fault(&self, step: usize, kind: FaultKind) -> Self {
        Self {
            fault: Some(Fault { step, kind }),
            ..self.clone()
        }
    }

    pub(crate) fn run(&self) -> World {
        let mut world = World::new(self.clone(), Guest::new(self.seed));
        world.run();
        world
    }
}
