//! A whole cluster on a virtual clock, from a seed: the leaders' controllers, the nodes' agents and
//! the guest processes' runners are the real ones, and so are state and leases. Modelled around them
//! are a replicated log, messages that are lost, late and out of order, disks that forget what was
//! not synced, clocks that drift as far as is allowed, and processes that crash or are stopped.
//!
//! | module | holds |
//! |---|---|
//! | `world` | true time, what is to happen, and to whom |
//! | `log` | elections and commits: a quorum, terms, entries of uncertain fate |
//! | `daemon` | a node's daemon: carries messages to controller and agent, and acts for them |
//! | `disk` | leases on disks that several nodes reach |
//! | `process`, `handover` | guest processes: they run while their runner lets them, and move |
//! | `faults` | what goes wrong, and what users do meanwhile |
//! | `checks` | what must hold, one by one |
//! | `tests` | many seeds; each rule broken on purpose, and found |
//!
//! A run has two parts: a minute of faults, and then time without any, after which everything has to
//! be as it was asked for. The same seed gives the same run; a failure prints both seed and trace.

mod checks;
mod daemon;
mod disk;
mod faults;
mod handover;
mod host;
mod log;
mod process;
mod tests;
mod world;

use std::time::Duration;

use godwit_proto::cluster::LeaseProfile;

use crate::lease::ClockBound;

/// The profile under test.
const LEASE: LeaseProfile = LeaseProfile::FAST;
/// How long things go wrong.
const FAULTS: Duration = Duration::from_secs(60);
/// How long everything then has to come right. What failed again and again waits for a while.
const HEALING: Duration = Duration::from_secs(180);

/// Which rule is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A new leader does not wait for what others granted.
    NoWaiting,
    /// A renewal counts from its arrival.
    FromArrival,
    /// What a deposed leader decided is committed by its successor as if it were its own.
    ForwardedLapse,
    /// The machines believe that clocks never drift.
    Drift,
    /// What a node pledges is not on its disk.
    NoLedger,
    /// A process that was stopped does not look at the clock before it goes on.
    LateClock,
    /// A target runs the guest as soon as it has all of it.
    NoRelinquish,
    /// A copy that was given up goes on whoever has run the guest since.
    StaleCopy,
    /// A leader takes itself for one without asking a quorum.
    NoQuorum,
    /// Who takes a guest over does not wait for its lease on the disk.
    NoDisk,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
struct Setup {
    seed: u64,
    nodes: usize,
    voters: usize,
    broken: Broken,
    /// Whether it keeps a trace.
    trace: bool,
}

impl Setup {
    /// How far clocks are off, in millionths.
    const fn drift_ppm(&self) -> u32 {
        match self.broken {
            Broken::Drift => 200_000,
            _ => 20_000,
        }
    }

    /// What the machines believe of clocks.
    const fn bound(&self) -> ClockBound {
        ClockBound {
            drift_ppm: match self.broken {
                Broken::Drift => 0,
                _ => self.drift_ppm(),
            },
            margin: MARGIN,
        }
    }
}

/// The longest from a deadline to the moment at which vCPUs stand still.
const MARGIN: Duration = Duration::from_millis(100);
