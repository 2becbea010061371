//! A guest on node A, a leader and its successor, node B that takes over, and a shared disk; tried in
//! every order.
//!
//! Each tick of real time, everything below may happen in any order, any number of times, or not at
//! all: A asks for a renewal and a leader answers, the answer arrives (now, later, never; a question
//! that is older is no better than a new one); the leader hears from its quorum; another leader is elected, once, and the first one goes on without noticing;
//! the leader finds A's lease to have lapsed and gives the guest to B; A and B read and write the
//! disk, each write landing when it likes, within what is assumed, or never, and acknowledged or not.
//! Clocks run as fast or slow as the bound allows, each in its own way.
//!
//! What decides are the very machines of [`lease`](crate::lease) and [`Runner`]. States are
//! remembered by a 64-bit digest, so a run could overlook one of some millions by chance (as hash
//! compaction in SPIN).

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use godwit_proto::cluster::{DiskLease, DiskOwner, LeaseProfile};
use godwit_proto::id::{Epoch, GuestId, Incarnation, NodeId};
use xxhash_rust::xxh3::Xxh3Default;

use super::{Origin, RunEvent, Runner};
use crate::lease::{
    ClockBound, DiskCommand, DiskEvent, DiskHolder, DiskTiming, Ended, Grant, LeaseTable, NodeLease,
};

const GUEST: GuestId = GuestId::from_bytes([1; 16]);
const A: DiskOwner = DiskOwner {
    node: NodeId::from_bytes([0xa; 16]),
    epoch: Epoch::new(1),
};
const B: DiskOwner = DiskOwner {
    node: NodeId::from_bytes([0xb; 16]),
    epoch: Epoch::new(2),
};
const FIRST: Incarnation = Incarnation::new(1);
const TICK_MS: u64 = 1_000;
/// From the issue of a read to the landing of the write that follows from it, in ticks.
const IO_TICKS: u8 = 1;

/// What is tried, and which rule is broken on purpose.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// Ticks of real time.
    horizon: u8,
    /// Length of both leases, in ticks.
    lease: u32,
    /// The most that a clock is off, in thousandths.
    drift: u32,
    proof: Proof,
    broken: Broken,
}

/// Which proof is tried. They do not depend on each other: B waits for the end of both, one after the
/// other, and A runs while it has either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The node's lease; there is no other.
    NodeLease,
    /// The lease on the disk. A's node is lost, and the guest was given to B.
    DiskLease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The machines believe that clocks never drift.
    Drift,
    /// A new leader does not wait for what others granted.
    NoWaiting,
    /// A deposed leader grants as if it were one.
    DeposedGrants,
    /// A renewal counts from its arrival.
    FromArrival,
    /// Who takes over does not wait for the disk.
    NoDisk,
    /// The machines believe that writes take no time.
    InstantWrites,
}

impl Setup {
    fn bound(&self) -> ClockBound {
        ClockBound {
            drift_ppm: match self.broken {
                Broken::Drift => 0,
                _ => self.drift * 1000,
            },
            margin: Duration::ZERO,
        }
    }

    fn timing(&self) -> DiskTiming {
        DiskTiming {
            lease: Duration::from_millis(u64::from(self.lease) * TICK_MS),
            renew: Duration::from_millis(TICK_MS),
            io_bound: match self.broken {
                Broken::InstantWrites => Duration::from_millis(1),
                _ => Duration::from_millis(u64::from(IO_TICKS) * TICK_MS),
            },
        }
    }
}

/// Rates of the clocks of A, B and both leaders, in thousandths.
#[derive(Clone, Copy, Debug, Hash)]
struct Rates {
    a: u64,
    b: u64,
    leaders: [u64; 2],
}

/// One end of the disk.
#[derive(Clone, Debug, Hash)]
struct DiskEnd {
    holder: DiskHolder,
    io: Option<Io>,
    /// When the last read was issued; what is written follows from it.
    read_at: u8,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Io {
    /// What was in the sector when it was read; not delivered yet.
    Reading(Option<DiskLease>),
    /// What does not lie in the sector yet.
    Writing(DiskLease),
}

#[derive(Clone, Debug, Hash)]
struct World {
    rates: Rates,
    tick: u8,
    tables: Vec<LeaseTable>,
    lapsed: bool,
    a: Runner,
    a_lease: NodeLease,
    a_disk: Option<DiskEnd>,
    answered: Option<(Duration, Grant)>,
    b: Option<Runner>,
    b_disk: Option<DiskEnd>,
    sector: Option<DiskLease>,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    A,
    B,
}

impl World {
    /// A runs the guest, and has just proven that it may.
    fn new(setup: &Setup, rates: Rates) -> Self {
        let bound = setup.bound();
        let profile = LeaseProfile {
            duration_ms: setup.lease * TICK_MS as u32,
            renew_ms: TICK_MS as u32,
        };
        let held = [(A.node, FIRST, profile)].into_iter();
        let mut table = LeaseTable::elected(Duration::ZERO, bound, held);
        let mut world = Self {
            rates,
            tick: 0,
            lapsed: false,
            a: Runner::new(A.epoch, true, Origin::Fresh),
            a_lease: NodeLease::new(bound),
            a_disk: None,
            answered: None,
            b: None,
            b_disk: None,
            sector: None,
            tables: Vec::new(),
        };
        if setup.proof == Proof::NodeLease {
            let grant = table.renew(A.node, FIRST, Duration::ZERO).unwrap();
            world.tables.push(table);
            world.renewed(Duration::ZERO, grant);
        } else {
            world.tables.push(table);
            let mut holder = DiskHolder::new(GUEST, A, setup.timing(), bound, None, Duration::ZERO);
            holder.assume_held(1, setup.timing().lease);
            world.sector = Some(DiskLease {
                guest: GUEST,
                owner: A,
                counter: 1,
                successor: None,
                released: false,
            });
            world.a_disk = Some(DiskEnd {
                holder,
                io: None,
                read_at: 0,
            });
            world.disk_changed(Who::A);
            world.fail_over(setup);
        }
        world
    }

    fn now(&self, rate: u64) -> Duration {
        Duration::from_millis(u64::from(self.tick) * TICK_MS * rate / 1000)
    }

    fn now_of(&self, who: Who) -> Duration {
        match who {
            Who::A => self.now(self.rates.a),
            Who::B => self.now(self.rates.b),
        }
    }

    fn renewed(&mut self, asked: Duration, grant: Grant) {
        self.a_lease.renewed(asked, grant);
        let until = self.a_lease.until().unwrap_or_default();
        let epoch = A.epoch;
        self.a
            .handle(RunEvent::NodeLease { epoch, until }, self.now_of(Who::A));
    }

    /// Passes on to the guest process what its end of the disk has come to.
    fn disk_changed(&mut self, who: Who) {
        let now = self.now_of(who);
        let (end, runner) = match who {
            Who::A => (&self.a_disk, Some(&mut self.a)),
            Who::B => (&self.b_disk, self.b.as_mut()),
        };
        let (Some(end), Some(runner)) = (end, runner) else {
            return;
        };
        let epoch = runner.epoch();
        if let Some(until) = end.holder.until() {
            runner.handle(RunEvent::DiskLease { epoch, until }, now);
        }
        if let Some(Ended::Superseded(epoch)) = end.holder.ended() {
            runner.handle(RunEvent::NewerEpoch(epoch), now);
        }
    }

    fn end(&mut self, who: Who) -> Option<&mut DiskEnd> {
        match who {
            Who::A => self.a_disk.as_mut(),
            Who::B => self.b_disk.as_mut(),
        }
    }

    /// Tells an end of the disk something, and takes up what it wants then.
    fn tell(&mut self, who: Who, event: DiskEvent) {
        let (now, tick, sector) = (self.now_of(who), self.tick, self.sector);
        let Some(end) = self.end(who) else {
            return;
        };
        end.io = match end.holder.handle(event, now) {
            None => None,
            Some(DiskCommand::Read) => {
                end.read_at = tick;
                Some(Io::Reading(sector))
            }
            Some(DiskCommand::Write(record)) => Some(Io::Writing(record)),
        };
        self.disk_changed(who);
    }

    /// Every world that can come next.
    fn next(&self, setup: &Setup) -> Vec<World> {
        let mut next = Vec::new();
        let mut try_out = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            next.push(world);
        };
        let leader = self.tables.len() - 1;
        if setup.proof == Proof::NodeLease && self.tick < setup.horizon {
            let asked = self.now_of(Who::A);
            for (index, _) in self.tables.iter().enumerate() {
                let now = self.now(self.rates.leaders[index]);
                let may_confirm = index == leader || setup.broken == Broken::DeposedGrants;
                if may_confirm {
                    try_out(&|world| world.tables[index].confirmed(now));
                }
                let mut table = self.tables[index].clone();
                if let Ok(grant) = table.renew(A.node, FIRST, now) {
                    try_out(&|world| {
                        world.tables[index] = table.clone();
                        world.answered = Some((asked, grant));
                    });
                }
            }
            if let Some((asked, grant)) = self.answered {
                try_out(&|world| {
                    let asked = match setup.broken {
                        Broken::FromArrival => world.now_of(Who::A),
                        _ => asked,
                    };
                    world.answered = None;
                    world.renewed(asked, grant);
                });
            }
        }
        if setup.proof == Proof::NodeLease && self.tables.len() == 1 {
            let now = self.now(self.rates.leaders[1]);
            let profile = LeaseProfile {
                duration_ms: match setup.broken {
                    Broken::NoWaiting => 0,
                    _ => setup.lease * TICK_MS as u32,
                },
                renew_ms: TICK_MS as u32,
            };
            let held = (!self.lapsed).then_some((A.node, FIRST, profile));
            try_out(&|world| {
                let table = LeaseTable::elected(now, setup.bound(), held.into_iter());
                world.tables.push(table);
            });
        }
        let now = self.now(self.rates.leaders[leader]);
        if !self.lapsed && !self.tables[leader].clone().lapsed(now).is_empty() {
            try_out(&|world| {
                world.tables[leader].lapsed(now);
                world.fail_over(setup);
            });
        }
        for who in [Who::A, Who::B] {
            self.next_io(who, &mut try_out);
        }
        if self.tick < setup.horizon && self.may_advance() {
            try_out(&|world| {
                world.tick += 1;
                // Whatever stalls, a guest process stops its own vCPUs in time.
                let (a, b) = (world.now_of(Who::A), world.now_of(Who::B));
                world.a.handle(RunEvent::Tick, a);
                if let Some(runner) = &mut world.b {
                    runner.handle(RunEvent::Tick, b);
                }
            });
        }
        next
    }

    /// The lapse and the failover are committed; B is told, and has a lease of its own.
    fn fail_over(&mut self, setup: &Setup) {
        let disk = setup.proof == Proof::DiskLease;
        self.lapsed = true;
        let origin = Origin::FailedOver {
            has_disk_lease: disk && setup.broken != Broken::NoDisk,
        };
        let mut runner = Runner::new(B.epoch, true, origin);
        let (epoch, until) = (B.epoch, Duration::from_secs(1000));
        let now = self.now_of(Who::B);
        runner.handle(RunEvent::NodeLease { epoch, until }, now);
        self.b = Some(runner);
        if disk {
            self.b_disk = Some(DiskEnd {
                holder: DiskHolder::new(GUEST, B, setup.timing(), setup.bound(), None, now),
                io: None,
                read_at: self.tick,
            });
        }
    }

    fn next_io(&self, who: Who, try_out: &mut impl FnMut(&dyn Fn(&mut World))) {
        let end = match who {
            Who::A => &self.a_disk,
            Who::B => &self.b_disk,
        };
        let Some(end) = end else {
            return;
        };
        match end.io {
            None => {
                let now = self.now_of(who);
                if end
                    .holder
                    .deadline()
                    .is_some_and(|deadline| now >= deadline)
                {
                    try_out(&|world| world.tell(who, DiskEvent::Tick));
                }
            }
            Some(Io::Reading(record)) => {
                try_out(&|world| world.tell(who, DiskEvent::Read(record)));
            }
            Some(Io::Writing(record)) => {
                for event in [DiskEvent::Written, DiskEvent::Failed] {
                    if self.tick <= end.read_at + IO_TICKS {
                        try_out(&|world| {
                            world.sector = Some(record);
                            world.tell(who, event);
                        });
                    }
                }
                try_out(&|world| world.tell(who, DiskEvent::Failed));
            }
        }
    }

    /// A write that is under way lands in time or not at all.
    fn may_advance(&self) -> bool {
        let ends = [&self.a_disk, &self.b_disk];
        ends.into_iter().flatten().all(|end| {
            !matches!(end.io, Some(Io::Writing(_))) || self.tick < end.read_at + IO_TICKS
        })
    }

    fn two_run(&self) -> bool {
        let b_runs = self.b.as_ref().is_some_and(Runner::is_running);
        self.a.is_running() && b_runs
    }

    fn digest(&self) -> u64 {
        let mut hasher = Xxh3Default::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    two_run: bool,
    /// B came to run.
    taken_over: bool,
    /// A stood still, and ran again.
    suspended: bool,
    /// A still runs, at the end, and nobody took the guest.
    kept: bool,
}

/// Tries everything, with clocks at their edges: all edges, or only the worst, where A's clock is slow
/// and those that wait for it are fast.
fn explore(setup: &Setup, all_edges: bool) -> Found {
    let edges = [1000 - setup.drift, 1000 + setup.drift].map(u64::from);
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for number in 0..16_usize {
        let edge = |bit: usize| edges[number >> bit & 1];
        // A clock that nobody reads is not varied.
        let read = match setup.proof {
            Proof::NodeLease => 0b1101,
            Proof::DiskLease => 0b0011,
        };
        if number & !read != 0 || !all_edges && number != read & 0b1110 {
            continue;
        }
        let rates = Rates {
            a: edge(0),
            b: edge(1),
            leaders: [edge(2), edge(3)],
        };
        let mut open = vec![World::new(setup, rates)];
        while let Some(world) = open.pop() {
            if !seen.insert(world.digest()) {
                continue;
            }
            found.states += 1;
            found.taken_over |= world.b.as_ref().is_some_and(Runner::is_running);
            found.suspended |= !world.a.is_running();
            found.kept |= world.tick == setup.horizon && world.a.is_running();
            if world.two_run() {
                found.two_run = true;
                return found;
            }
            open.extend(world.next(setup));
        }
    }
    found
}

const NODE_LEASE: Setup = Setup {
    horizon: 6,
    lease: 2,
    drift: 200,
    proof: Proof::NodeLease,
    broken: Broken::Nothing,
};
const DISK_LEASE: Setup = Setup {
    horizon: 8,
    lease: 3,
    drift: 100,
    proof: Proof::DiskLease,
    broken: Broken::Nothing,
};
fn assert_one_runner(setup: &Setup, all_edges: bool) {
    let found = explore(setup, all_edges);
    println!("{setup:?}: {found:?}");
    assert!(!found.two_run, "two run at once: {setup:?}");
    assert!(
        found.taken_over && found.suspended && found.kept,
        "{found:?}"
    );
}

fn assert_found(setup: Setup, broken: Broken) {
    let found = explore(&Setup { broken, ..setup }, true);
    println!("{broken:?}: {found:?}");
    assert!(found.two_run, "the model does not see what {broken:?} does");
}

#[test]
fn one_copy_runs_whatever_leaders_messages_and_clocks_do() {
    assert_one_runner(&NODE_LEASE, true);
}

#[test]
fn one_copy_runs_whatever_writes_to_the_disk_do() {
    assert_one_runner(&DISK_LEASE, false);
}

#[test]
#[ignore = "three million states: a minute"]
fn one_copy_runs_whatever_writes_to_the_disk_do_with_any_clocks() {
    assert_one_runner(&DISK_LEASE, true);
}

#[test]
fn clocks_that_drift_more_than_is_believed_are_found() {
    assert_found(NODE_LEASE, Broken::Drift);
}

#[test]
fn a_leader_that_does_not_wait_is_found() {
    assert_found(NODE_LEASE, Broken::NoWaiting);
}

#[test]
fn a_deposed_leader_that_goes_on_granting_is_found() {
    assert_found(NODE_LEASE, Broken::DeposedGrants);
}

#[test]
fn a_renewal_that_counts_from_its_arrival_is_found() {
    assert_found(NODE_LEASE, Broken::FromArrival);
}

#[test]
fn a_taker_that_does_not_wait_for_the_disk_is_found() {
    assert_found(DISK_LEASE, Broken::NoDisk);
}

#[test]
fn writes_that_land_later_than_is_believed_are_found() {
    assert_found(DISK_LEASE, Broken::InstantWrites);
}
