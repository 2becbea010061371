//! True time, and what is to happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use godwit_proto::cluster::{
    Applied, Command, DesiredState, DiskLease, Entry, Heartbeat, HeartbeatAnswer, Ledger,
};
use godwit_proto::id::{GuestId, MigrationId, NodeId, RequestId};

use super::checks::Checks;
use super::faults::Fault;
use super::host::{Host, Key};
use super::log::Log;
use super::process::Timer;
use super::{Broken, FAULTS, HEALING, Setup};
use crate::state::State;
use crate::workload::Random;

/// Lines of a trace that are kept.
const TRACE: usize = 1_000;
/// No run takes more steps.
const MAX_STEPS: u64 = 2_000_000;

/// What is sent from one machine to another.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Vote { term: u64 },
    Voted { term: u64 },
    Append { term: u64, id: u64 },
    Appended { term: u64, id: u64 },
    Ping { term: u64, began: Duration },
    Pong { term: u64, began: Duration },
    Higher { term: u64 },
    Heartbeat(Heartbeat),
    Answer(HeartbeatAnswer),
    Push(DesiredState),
    Propose(Command, Option<RequestId>),
    ToProcess(Key, Signal),
}

/// What guest processes say to one another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// Here is all of the guest.
    Switch { migration: MigrationId, from: Key },
    /// I have it.
    Ready { migration: MigrationId },
    /// I will not run it any more.
    Relinquish {
        migration: MigrationId,
        from: Key,
        memory: u64,
    },
    /// I run it.
    Taken { migration: MigrationId },
    /// The source has died with pages that are still needed.
    PagesLost,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    /// The daemon looks around.
    Poll {
        host: usize,
        boot: u64,
    },
    /// A log entry lies on a voter's disk.
    Synced {
        host: usize,
        boot: u64,
        term: u64,
        id: u64,
    },
    /// The ledger lies on the disk.
    Recorded {
        host: usize,
        boot: u64,
        ledger: Ledger,
    },
    /// Something in a guest process.
    Process {
        host: usize,
        key: Key,
        birth: u64,
        timer: Timer,
    },
    /// A stopped process goes on.
    Continue {
        host: usize,
        key: Key,
        birth: u64,
    },
    StartDaemon {
        host: usize,
    },
    /// A guest process reads the sector of its guest's lease.
    ReadSector {
        host: usize,
        key: Key,
        birth: u64,
    },
    /// A write to that sector lands, or will not.
    WriteSector {
        host: usize,
        key: Key,
        record: DiskLease,
        lands: bool,
        told: bool,
    },
    /// A guest process is killed.
    Kill {
        host: usize,
        key: Key,
    },
    Fault(Fault),
}

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) random: Random,
    pub(super) now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    pub(super) hosts: Vec<Host>,
    /// Links that are cut, both ways.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Messages that are lost, of a thousand.
    pub(super) loss_permille: u64,
    pub(super) log: Log,
    /// The state that the committed log leads to.
    pub(super) truth: State,
    /// What was answered to users: the entry and the answer.
    pub(super) acknowledged: Vec<(Entry, Applied)>,
    /// How often each guest's disks changed hands; what is in memory must fit.
    pub(super) disks: BTreeMap<GuestId, u64>,
    /// The sectors of guests' leases on shared disks.
    pub(super) sectors: BTreeMap<GuestId, DiskLease>,
    pub(super) checks: Checks,
    pub(super) births: u64,
    pub(super) requests: u64,
    pub(super) healing: bool,
    trace: VecDeque<String>,
    /// What was found wrong, first.
    pub(super) wrong: Option<String>,
    /// What was seen, to know that a run was not an empty one.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub(super) fn at(&mut self, at: Duration, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((at.max(self.now), number)));
        self.events.insert(number, event);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// A length between two, in milliseconds.
    pub(super) fn between(&mut self, least: u64, most: u64) -> Duration {
        let micros = least * 1000 + self.random.below((most - least) * 1000 + 1);
        Duration::from_micros(micros)
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.random.below(1000) < self.loss_permille && from != to {
            return;
        }
        // Where a late answer does harm, answers are late.
        let is_late =
            self.setup.broken == Broken::FromArrival && matches!(message, Message::Answer(_));
        let delay = match self.random.below(200) {
            _ if from == to => Duration::ZERO,
            _ if is_late => self.between(500, 2500),
            0..3 => self.between(100, 2500),
            3..10 => self.between(5, 100),
            _ => self.between(0, 3),
        };
        self.after(delay, Event::Deliver { from, to, message });
    }

    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn host_of(&self, id: NodeId) -> usize {
        let position = self.hosts.iter().position(|host| host.id == id);
        position.expect("every node is a host here")
    }

    pub(super) fn clock(&self, host: usize) -> Duration {
        self.hosts[host].clock(self.now)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if !self.setup.trace {
            return;
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        let line = format!("{:>10.4} {}", self.now.as_secs_f64(), what());
        self.trace.push_back(line);
    }

    pub(super) fn fail(&mut self, what: String) {
        if self.wrong.is_none() {
            self.note(|| format!("WRONG {what}"));
            self.wrong = Some(what);
        }
    }

    /// Runs until `end`, or until something is wrong.
    pub(super) fn until(&mut self, end: Duration) {
        let mut steps = 0;
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > end || self.wrong.is_some() {
                break;
            }
            self.queue.pop();
            steps += 1;
            if steps > MAX_STEPS {
                self.fail(format!("{MAX_STEPS} steps by {at:?}"));
            }
            self.now = at;
            let event = self.events.remove(&number);
            self.happen(event.expect("each number has an event"));
        }
    }

    /// Runs all of it; answers what was seen.
    pub(super) fn run(mut self) -> Result<BTreeMap<&'static str, u64>, Failure> {
        let end = FAULTS + HEALING;
        let mut next = FAULTS + Duration::from_secs(30);
        loop {
            self.until(next);
            self.now = next;
            if self.wrong.is_some() || next == end || self.unhealed().is_empty() {
                break;
            }
            next = (next + Duration::from_secs(10)).min(end);
        }
        if self.wrong.is_none() && self.setup.broken == Broken::Nothing {
            self.check_acknowledged();
            self.check_healed();
        }
        match self.wrong.take() {
            None => Ok(self.seen),
            Some(what) => Err(Failure {
                setup: self.setup,
                what,
                trace: self.shown(),
            }),
        }
    }

    /// The trace, with names in place of ids.
    fn shown(&self) -> String {
        let mut shown = String::new();
        for line in &self.trace {
            let _ = writeln!(shown, "{line}");
        }
        for (number, host) in self.hosts.iter().enumerate() {
            shown = shown.replace(&format!("{:?}", host.id), &format!("n{number}"));
            shown = shown.replace(&host.id.to_string(), &format!("n{number}"));
        }
        for guest in self.truth.guests() {
            shown = shown.replace(&format!("{:?}", guest.id), &guest.meta.name);
            shown = shown.replace(&guest.id.to_string(), &guest.meta.name);
        }
        shown
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if self.is_cut(from, to) {
                    return;
                }
                match message {
                    Message::ToProcess(key, signal) => self.signalled(from, to, key, signal),
                    message => self.for_daemon(Event::Deliver { from, to, message }, to, None),
                }
            }
            Event::Poll { host, boot }
            | Event::Synced { host, boot, .. }
            | Event::Recorded { host, boot, .. } => self.for_daemon(event, host, Some(boot)),
            Event::Process {
                host,
                key,
                birth,
                timer,
            } => self.process_timer(host, key, birth, timer),
            Event::Continue { host, key, birth } => self.go_on(host, key, birth),
            Event::StartDaemon { host } => self.start_daemon(host),
            Event::Kill { host, key } => self.crash(host, key),
            Event::ReadSector { host, key, birth } => self.read_sector(host, key, birth),
            Event::WriteSector {
                host,
                key,
                record,
                lands,
                told,
            } => self.write_sector(host, key, record, lands, told),
            Event::Fault(fault) => self.strike(fault),
        }
    }

    /// Something for a daemon, now or when it goes on.
    fn for_daemon(&mut self, event: Event, host: usize, boot: Option<u64>) {
        let found = &self.hosts[host];
        if found.daemon.is_none() || boot.is_some_and(|boot| boot != found.boot) {
            return;
        }
        match found.stopped_until {
            Some(until) if until > self.now => self.at(until, event),
            _ => {
                self.hosts[host].stopped_until = None;
                self.daemon_event(host, event);
            }
        }
    }

    pub(super) fn empty(setup: Setup, hosts: Vec<Host>, truth: State) -> Self {
        Self {
            setup,
            random: Random::new(setup.seed),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            hosts,
            cut: BTreeSet::new(),
            loss_permille: 0,
            log: Log::default(),
            truth,
            acknowledged: Vec::new(),
            disks: BTreeMap::new(),
            sectors: BTreeMap::new(),
            checks: Checks::default(),
            births: 0,
            requests: 0,
            healing: false,
            trace: VecDeque::new(),
            wrong: None,
            seen: BTreeMap::new(),
        }
    }
}

/// What went wrong in which run.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) setup: Setup,
    pub(super) what: String,
    pub(super) trace: String,
}
