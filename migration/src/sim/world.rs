//! Two hosts, a link, and what drivers do.

mod link;
mod source_host;
mod target_host;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::{DigestMode, FromSource, FromTarget, Mode, Offer, PageRun};

use self::source_host::Sending;
use super::guest::{Memory, PAGES};
use super::{FaultKind, Guest, Random, Setup};
use crate::options::Options;
use crate::report::Outcome;
use crate::source::{self, Source};
use crate::target::{self, Limits, Target};

const STREAMS: u16 = 3;
const BATCH_PAGES: u64 = 64;
/// Until a dead peer is noticed.
const DETECTION: Duration = Duration::from_secs(3);
/// Until a new connection is there.
const REDIAL: Duration = Duration::from_millis(500);
/// A page that restoring the state touches.
const CLOCK_PAGE: u64 = 300;
/// No run takes more events.
const MAX_STEPS: u64 = 200_000;

enum Happening {
    Source(source::Event),
    /// A step of the source's driver is done.
    SourceDid(source::Command),
    Target(target::Event),
    TargetDid(target::Command),
    ToSource(u32, FromTarget),
    ToTarget(u32, FromSource),
    /// The source's driver reads and sends the next batch of the round.
    NextBatch(u32),
    Batch {
        connection: u32,
        round: u32,
        stream: u16,
        pages: Vec<(u64, u64)>,
    },
    Pages {
        connection: u32,
        pages: Vec<(u64, u64)>,
        run: PageRun,
    },
    SourceSeesCut(u32),
    TargetSeesCut(u32),
    Connected,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) guest: Guest,
    pub(crate) now: Duration,
    pub(crate) source: Option<Source>,
    pub(crate) target: Option<Target>,
    pub(crate) source_memory: Memory,
    pub(crate) target_memory: Memory,
    pub(crate) source_runs: bool,
    pub(crate) target_runs: bool,
    pub(crate) relinquished: bool,
    log_over: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) target_outcome: Option<target::Outcome>,
    /// What the drivers did, by name.
    pub(crate) trace: Vec<&'static str>,
    pub(crate) cancelled_at: Option<Duration>,
    pub(crate) finished_at: Option<Duration>,
    /// From a blocked vCPU to its page, the longest.
    pub(crate) longest_fault: Duration,
    pub(crate) cancel_was_late: bool,
    queue: BinaryHeap<(Reverse<Duration>, Reverse<u64>, usize)>,
    happenings: Vec<Option<Happening>>,
    random: Random,
    guest_at: Duration,
    pub(crate) throttle: u64,
    blocked: Option<(u64, Duration)>,
    /// The restore waits for [`CLOCK_PAGE`].
    restoring: bool,
    connection: u32,
    link_up: bool,
    for_good: bool,
    bulk_free: Duration,
    stream_last: [Duration; STREAMS as usize],
    control_last: [Duration; 2],
    busy: [Duration; 2],
    sending: Option<Sending>,
    tokens: u32,
}

impl World {
    pub(crate) fn new(setup: Setup, guest: Guest) -> Self {
        let offer = Offer {
            migration: MigrationId::from_bytes([setup.seed as u8; 16]),
            guest: GuestId::from_bytes([7; 16]),
            name: "sim".into(),
            epoch: Epoch::new(4),
            spec: Vec::new(),
            layout: Vec::new(),
            pages: PAGES,
            cpuid: Vec::new(),
            devices: Vec::new(),
            mode: setup.mode,
            digests: if setup.compare_memory {
                DigestMode::Switch
            } else {
                DigestMode::Off
            },
            streams: STREAMS,
            retained: None,
            local: None,
        };
        let options = Options {
            mode: setup.mode,
            downtime_limit: Duration::from_millis(20),
            timeout: setup.timeout,
            timeout_action: setup.timeout_action,
            ..Options::default()
        };
        options
            .check()
            .expect("options of the simulation are valid");
        let request = source::Request {
            asked_by: "sim".into(),
            why: "test".into(),
        };
        let (source, commands) = match setup.survey {
            Some(watch) => Source::survey(offer, options, watch, Duration::ZERO),
            None => Source::start(offer, options, request, Duration::ZERO),
        };
        let local = setup.mode == Mode::Local;
        let mut world = Self {
            source_memory: Memory::new(guest.truth.clone()),
            target_memory: Memory::new(if local {
                guest.truth.clone()
            } else {
                vec![0; PAGES as usize]
            }),
            random: Random(setup.seed),
            setup,
            guest,
            now: Duration::ZERO,
            source: Some(source),
            target: Some(Target::start(Limits::new(PAGES), Duration::ZERO)),
            source_runs: true,
            target_runs: false,
            relinquished: false,
            log_over: false,
            outcome: None,
            target_outcome: None,
            trace: Vec::new(),
            cancelled_at: None,
            finished_at: None,
            longest_fault: Duration::ZERO,
            cancel_was_late: false,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            guest_at: Duration::ZERO,
            throttle: 0,
            blocked: None,
            restoring: false,
            connection: 0,
            link_up: true,
            for_good: false,
            bulk_free: Duration::ZERO,
            stream_last: Default::default(),
            control_last: Default::default(),
            busy: Default::default(),
            sending: None,
            tokens: 0,
        };
        world.source_commands(commands);
        world
    }

    /// Until nothing can happen any more.
    pub(crate) fn run(&mut self) {
        for _ in 0..MAX_STEPS {
            let due = self.queue.peek().map(|(Reverse(at), ..)| *at);
            let source_due = self.source.as_ref().and_then(Source::deadline);
            let target_due = self.target.as_ref().and_then(Target::deadline);
            let Some(next) = [due, source_due, target_due].into_iter().flatten().min() else {
                return;
            };
            self.now = self.now.max(next);
            self.run_guest();
            if due == Some(next) {
                let (.., index) = self.queue.pop().expect("peeked");
                let happening = self.happenings[index].take().expect("happens once");
                self.happen(happening);
            } else if source_due == Some(next) {
                self.source_event(source::Event::Tick);
            } else {
                self.target_event(target::Event::Tick);
            }
            assert!(
                !(self.source_runs && self.target_runs),
                "two runners: {:?}",
                self.setup
            );
        }
        panic!(
            "no end in sight: {:?}, last steps {:?}",
            self.setup,
            self.trace.last_chunk::<20>()
        );
    }

    fn at(&mut self, time: Duration, happening: Happening) {
        self.happenings.push(Some(happening));
        let index = self.happenings.len() - 1;
        self.queue
            .push((Reverse(time), Reverse(index as u64), index));
    }

    fn run_guest(&mut self) {
        let elapsed = self.now - std::mem::replace(&mut self.guest_at, self.now);
        let writes = elapsed.as_micros() as u64 * self.setup.write_rate / 1_000_000;
        let writes = writes.min(3 * PAGES);
        if self.source_runs {
            let memory = &mut self.source_memory;
            self.guest.write(memory, writes, 100 - self.throttle);
        } else if self.target_runs
            && self.blocked.is_none()
            && let Some(page) = self.guest.write(&mut self.target_memory, writes, 100)
        {
            self.blocked = Some((page, self.now));
            let run = PageRun {
                first: page - page % 8,
                count: 8,
            };
            self.at(self.now, Happening::Target(target::Event::Fault(run)));
        }
        if elapsed.as_micros() as u64 * self.setup.write_rate / 1_000_000 == 0 {
            self.guest_at -= elapsed;
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Source(event) => self.source_event(event),
            Happening::Target(event) => self.target_event(event),
            Happening::SourceDid(command) => self.source_did(command),
            Happening::TargetDid(command) => self.target_did(command),
            Happening::ToSource(connection, message) if self.is_connected(connection) => {
                self.source_event(source::Event::Control(message));
            }
            Happening::ToTarget(connection, message) if self.is_connected(connection) => {
                self.target_event(target::Event::Control(message));
            }
            Happening::NextBatch(token) => self.next_batch(token),
            Happening::Batch {
                connection,
                round,
                stream,
                pages,
            } if self.is_connected(connection) => self.apply_batch(round, stream, &pages),
            Happening::Pages {
                connection,
                pages,
                run,
            } if self.is_connected(connection) => self.install(&pages, run),
            Happening::SourceSeesCut(connection)
                if connection == self.connection && !self.link_up =>
            {
                self.source_event(source::Event::LinkLost);
            }
            Happening::TargetSeesCut(connection)
                if connection == self.connection && !self.link_up =>
            {
                self.target_event(target::Event::LinkLost);
            }
            Happening::Connected => self.connected(),
            _ => {}
        }
    }

    fn source_event(&mut self, event: source::Event) {
        let now = self.now;
        if let Some(source) = &mut self.source {
            let commands = source.handle(event, now);
            self.source_commands(commands);
        }
    }

    fn target_event(&mut self, event: target::Event) {
        let now = self.now;
        if let Some(target) = &mut self.target {
            let commands = target.handle(event, now);
            self.target_commands(commands);
        }
    }

    /// Takes a step; `None` when it does not happen any more, else whether it shall fail.
    fn step(&mut self, name: &'static str, at_source: bool) -> Option<bool> {
        let number = self.trace.len();
        self.trace.push(name);
        let fault = self.setup.fault.filter(|fault| fault.step == number);
        match fault.map(|fault| fault.kind) {
            Some(FaultKind::Error) => return Some(true),
            Some(FaultKind::Cut) => self.cut(),
            Some(FaultKind::CutForGood) => {
                self.for_good = true;
                self.cut();
            }
            Some(FaultKind::KillSource) => {
                self.source = None;
                self.source_runs = false;
                self.cut();
            }
            Some(FaultKind::KillTarget) => {
                self.target = None;
                self.target_runs = false;
                self.cut();
            }
            Some(FaultKind::CancelAtSource) => {
                self.cancelled_at = Some(self.now);
                self.at(self.now, Happening::Source(source::Event::Cancel));
            }
            Some(FaultKind::CancelAtTarget) => {
                self.cancelled_at = Some(self.now);
                self.at(self.now, Happening::Target(target::Event::Cancel));
            }
            None => {}
        }
        let alive = if at_source {
            self.source.is_some()
        } else {
            self.target.is_some()
        };
        alive.then_some(false)
    }

    fn local(&mut self, side: usize, micros: u64) -> Duration {
        let time = Duration::from_micros(micros + self.random.below(micros + 1));
        self.busy[side] = self.busy[side].max(self.now) + time;
        self.busy[side]
    }
}

fn injected() -> CodedError {
    CodedError::new(ErrorCode::Other, "injected")
}

fn digest(memory: &Memory, run: PageRun) -> u64 {
    (run.first..run.first + run.count).fold(7, |digest, page| {
        Random(digest ^ memory.pages[page as usize].wrapping_mul(31)).next()
    })
}
