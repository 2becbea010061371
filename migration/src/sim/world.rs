//! Two hosts, a link, and what drivers do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::{
    Accept, DigestMode, FromSource, FromTarget, Mode, Offer, PageRun, RunDigest,
};

use super::guest::{Memory, PAGES};
use super::{FaultKind, Guest, Random, Setup};
use crate::PageSet;
use crate::options::Options;
use crate::report::{BytesByKind, Outcome};
use crate::source::{self, RoundKind, RoundSent, Source};
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

struct Sending {
    token: u32,
    round: u32,
    runs: Vec<PageRun>,
    sent: RoundSent,
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

    fn is_connected(&self, connection: u32) -> bool {
        self.link_up && connection == self.connection
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

    fn cut(&mut self) {
        if std::mem::replace(&mut self.link_up, false) {
            let connection = self.connection;
            let later = Duration::from_millis(self.random.below(200));
            self.at(self.now + DETECTION, Happening::SourceSeesCut(connection));
            self.at(
                self.now + DETECTION - later,
                Happening::TargetSeesCut(connection),
            );
        }
    }

    fn connected(&mut self) {
        if self.for_good || self.source.is_none() || self.target.is_none() {
            return;
        }
        if self.link_up {
            // The source dropped a connection that was sound.
            self.target_event(target::Event::LinkLost);
        } else {
            let connection = self.connection;
            self.happen(Happening::TargetSeesCut(connection));
        }
        self.connection += 1;
        self.link_up = true;
        self.bulk_free = self.now;
        self.target_event(target::Event::LinkRestored);
        self.source_event(source::Event::LinkRestored);
    }

    /// When bytes that go out now have arrived, in order with others of their kind.
    fn control_arrival(&mut self, way: usize, bytes: u64) -> Duration {
        let jitter = Duration::from_micros(self.random.below(100));
        let wire = Duration::from_nanos(bytes * 1_000_000_000 / self.setup.bandwidth);
        let arrival = self.now + self.setup.delay + wire + jitter;
        self.control_last[way] = self.control_last[way].max(arrival);
        self.control_last[way]
    }

    fn local(&mut self, side: usize, micros: u64) -> Duration {
        let time = Duration::from_micros(micros + self.random.below(micros + 1));
        self.busy[side] = self.busy[side].max(self.now) + time;
        self.busy[side]
    }

    fn source_commands(&mut self, commands: Vec<source::Command>) {
        use source::Command as C;
        for command in commands {
            let (name, step) = source_name(&command);
            let fails = self.step(name, true);
            let Some(fails) = fails else { return };
            if let (true, Some(step)) = (fails, step) {
                let done = self.local(0, 50);
                let error = injected();
                self.at(
                    done,
                    Happening::Source(source::Event::Failed { step, error }),
                );
                continue;
            }
            match command {
                C::SendControl(message) => {
                    if self.link_up {
                        let bytes = message.to_frame(1).expect("messages fit").len() as u64;
                        let at = self.control_arrival(0, bytes);
                        self.at(at, Happening::ToTarget(self.connection, message));
                    }
                }
                C::SendRound { round, pages, kind } => self.send_round(round, &pages, kind),
                C::StopSending => self.sending = None,
                C::SetThrottle(percent) => self.throttle = percent.into(),
                C::Relinquish(epoch) => {
                    assert_eq!(epoch, Epoch::new(4));
                    assert!(!self.source_runs, "given up while running");
                    self.relinquished = true;
                }
                C::SendPages { run, requested } => self.send_pages(run, requested),
                C::Redial => self.redial(),
                C::FreeMemory => {
                    self.source_memory.pages.fill(u64::MAX);
                }
                C::CancelTooLate => self.cancel_was_late = true,
                C::CloseWindow => {}
                C::StopDirtyLog => {
                    self.log_over = true;
                    self.source_memory.stop_log();
                }
                C::Finish(outcome) => {
                    self.outcome = Some(outcome);
                    self.finished_at = Some(self.now);
                }
                C::OpenWindow => {
                    let at = self.now + Duration::from_millis(2 + self.random.below(20));
                    self.at(at, Happening::Source(source::Event::WindowOpened));
                }
                local => {
                    let done = self.local(0, 100);
                    self.at(done, Happening::SourceDid(local));
                }
            }
        }
    }

    fn source_did(&mut self, command: source::Command) {
        use source::Command as C;
        if self.source.is_none() {
            return;
        }
        let event = match command {
            C::StartDirtyLog => {
                // As the driver has it: what is stopped before it started does not start.
                if !self.log_over {
                    self.source_memory.start_log();
                }
                source::Event::DirtyLogStarted
            }
            C::CollectDirty => source::Event::Dirty(self.source_memory.collect()),
            C::PauseGuest => {
                self.source_runs = false;
                source::Event::Paused
            }
            C::SaveState => source::Event::Saved(b"state".to_vec()),
            C::ResumeGuest => {
                assert!(
                    !self.relinquished,
                    "the source resumes what it gave up: {:?}",
                    self.setup
                );
                self.source_runs = true;
                source::Event::Resumed
            }
            C::DigestMemory(pages) => source::Event::Digests(digests(&self.source_memory, &pages)),
            other => unreachable!("{other:?}"),
        };
        self.source_event(event);
    }

    fn send_round(&mut self, round: u32, pages: &PageSet, kind: RoundKind) {
        assert_eq!(
            kind == RoundKind::Last,
            !self.source_runs,
            "the last round is that of a paused guest"
        );
        match kind {
            RoundKind::Copy => self.source_memory.arm(pages),
            RoundKind::FirstSample => self.source_memory.arm(&PageSet::full(PAGES)),
            RoundKind::Last | RoundKind::Sample => {}
        }
        let mut runs = Vec::new();
        for (first, count) in pages.runs() {
            for piece in (0..count).step_by(BATCH_PAGES as usize) {
                runs.push(PageRun {
                    first: first + piece,
                    count: BATCH_PAGES.min(count - piece),
                });
            }
        }
        runs.reverse();
        self.tokens += 1;
        let token = self.tokens;
        self.sending = Some(Sending {
            token,
            round,
            runs,
            sent: RoundSent {
                round,
                batches: vec![0; STREAMS.into()],
                ..RoundSent::default()
            },
        });
        self.at(self.now, Happening::NextBatch(token));
    }

    /// Reads when the link can take it, so that the guest writes between batches.
    fn next_batch(&mut self, token: u32) {
        let Some(mut sending) = self.sending.take_if(|s| s.token == token) else {
            return;
        };
        if self.source.is_none() {
            return;
        }
        if !self.link_up {
            // Back-pressure: nothing moves until the cut is noticed.
            return;
        }
        let Some(run) = sending.runs.pop() else {
            self.source_event(source::Event::RoundSent(sending.sent));
            return;
        };
        let fails = self.step("send batch", true);
        match fails {
            None => return,
            Some(true) => {
                let step = source::Step::SendRound;
                let error = injected();
                self.source_event(source::Event::Failed { step, error });
                return;
            }
            Some(false) => {}
        }
        let stream = self.random.below(STREAMS.into()) as u16;
        let pages = self.read(run);
        let arrival = self.bulk_arrival(Some(stream), run.count);
        sending.sent.batches[usize::from(stream)] += 1;
        sending.sent.pages += run.count;
        sending.sent.content_pages += run.count;
        sending.sent.bytes.raw += run.count * 4096;
        if self.link_up {
            self.at(
                arrival,
                Happening::Batch {
                    connection: self.connection,
                    round: sending.round,
                    stream,
                    pages,
                },
            );
        }
        self.sending = Some(sending);
        self.at(self.bulk_free, Happening::NextBatch(token));
    }

    fn read(&self, run: PageRun) -> Vec<(u64, u64)> {
        (run.first..run.first + run.count)
            .map(|page| (page, self.source_memory.pages[page as usize]))
            .collect()
    }

    /// Takes the bulk streams' share of the link; streams overtake one another.
    fn bulk_arrival(&mut self, stream: Option<u16>, pages: u64) -> Duration {
        let wire = Duration::from_nanos(pages * 4096 * 1_000_000_000 / self.setup.bandwidth);
        self.bulk_free = self.bulk_free.max(self.now) + wire;
        let jitter = Duration::from_micros(self.random.below(2000));
        let arrival = self.bulk_free + self.setup.delay + jitter;
        let last = &mut self.stream_last[usize::from(stream.unwrap_or(0))];
        *last = (*last).max(arrival);
        *last
    }

    fn send_pages(&mut self, run: PageRun, requested: bool) {
        let pages = self.read(run);
        let (sent, arrival) = if requested {
            let wire = run.count * 4096 * 1_000_000_000 / self.setup.bandwidth;
            let sent = self.now + Duration::from_nanos(wire);
            (sent, sent + self.setup.delay)
        } else {
            let arrival = self.bulk_arrival(None, run.count);
            (self.bulk_free, arrival)
        };
        if self.link_up {
            let connection = self.connection;
            self.at(
                arrival,
                Happening::Pages {
                    connection,
                    pages,
                    run,
                },
            );
            let bytes = BytesByKind {
                raw: run.count * 4096,
                ..BytesByKind::default()
            };
            self.at(
                sent,
                Happening::Source(source::Event::PagesSent { run, bytes }),
            );
        }
    }

    fn redial(&mut self) {
        // Dropping the connection loses what is on it.
        if self.link_up {
            self.connection += 1;
        }
        self.at(self.now + REDIAL, Happening::Connected);
    }

    fn target_commands(&mut self, commands: Vec<target::Command>) {
        use target::Command as C;
        for command in commands {
            let (name, step) = target_name(&command);
            let fails = self.step(name, false);
            let Some(fails) = fails else { return };
            if let (true, Some(step)) = (fails, step) {
                let done = self.local(1, 50);
                let error = injected();
                self.at(
                    done,
                    Happening::Target(target::Event::Failed { step, error }),
                );
                continue;
            }
            match command {
                C::SendControl(message) => {
                    if self.link_up {
                        let bytes = message.to_frame(1).expect("messages fit").len() as u64;
                        let at = self.control_arrival(1, bytes);
                        self.at(at, Happening::ToSource(self.connection, message));
                    }
                }
                C::RequestPages(run) => {
                    if self.link_up {
                        let at = self.now + self.setup.delay;
                        let message = FromTarget::PageRequest(run);
                        self.at(at, Happening::ToSource(self.connection, message));
                    }
                }
                C::AnnounceNetwork | C::MemoryWhole => {}
                C::CancelTooLate => self.cancel_was_late = true,
                C::Discard => {
                    assert!(!self.target_runs, "a running guest is destroyed");
                    self.target_memory = Memory::new(vec![0; PAGES as usize]);
                }
                C::Commit(epoch) => {
                    assert_eq!(epoch, Epoch::new(5));
                    let at = self.now + Duration::from_millis(20);
                    self.at(at, Happening::Target(target::Event::Committed));
                }
                C::Finish(outcome) => self.target_outcome = Some(outcome),
                local => {
                    let micros = if matches!(local, C::Prepare(_)) {
                        5000
                    } else {
                        200
                    };
                    let done = self.local(1, micros);
                    self.at(done, Happening::TargetDid(local));
                }
            }
        }
    }

    fn target_did(&mut self, command: target::Command) {
        use target::Command as C;
        if self.target.is_none() {
            return;
        }
        let event = match command {
            C::Prepare(offer) => {
                assert_eq!(offer.pages, PAGES);
                match self.setup.reasons {
                    0 => target::Event::Prepared(Accept {
                        post_copy: self.setup.post_copy,
                        ..Accept::default()
                    }),
                    reasons => target::Event::Refused(vec![injected(); reasons]),
                }
            }
            C::GiveUp(pages) => {
                for (first, count) in pages.runs() {
                    self.target_memory.pages[first as usize..(first + count) as usize].fill(7);
                }
                target::Event::GivenUp
            }
            C::CheckDigests(runs) => {
                if self.setup.corrupt {
                    self.target_memory.pages[77] ^= 1 << 63;
                }
                let wrong = runs
                    .iter()
                    .filter(|run| digest(&self.target_memory, run.run) != run.digest);
                target::Event::DigestsChecked {
                    wrong: wrong.count() as u64,
                }
            }
            C::RegisterMissing(pages) => {
                self.target_memory.missing = pages;
                target::Event::MissingRegistered
            }
            C::RestoreState(state) => {
                assert_eq!(state, b"state");
                // As vCPUs do, for their clocks.
                if self.target_memory.missing.contains(CLOCK_PAGE) {
                    self.restoring = true;
                    let run = PageRun {
                        first: CLOCK_PAGE,
                        count: 4,
                    };
                    return self.target_event(target::Event::Fault(run));
                }
                if self.setup.mode == Mode::Local {
                    self.target_memory
                        .pages
                        .clone_from(&self.source_memory.pages);
                }
                target::Event::Restored
            }
            C::ResumeGuest(epoch) => {
                assert_eq!(epoch, Epoch::new(5));
                assert!(self.relinquished, "the target starts what nobody gave up");
                self.guest.check(&self.target_memory);
                self.target_runs = true;
                target::Event::Resumed
            }
            other => unreachable!("{other:?}"),
        };
        self.target_event(event);
    }

    fn apply_batch(&mut self, round: u32, stream: u16, pages: &[(u64, u64)]) {
        if self.target.as_ref().is_none_or(Target::is_finished) {
            return;
        }
        let fails = self.step("apply batch", false);
        let event = match fails {
            None => return,
            Some(true) => target::Event::Failed {
                step: target::Step::ApplyBatch,
                error: injected(),
            },
            Some(false) => {
                for &(page, value) in pages {
                    self.target_memory.pages[page as usize] = value;
                }
                target::Event::BatchApplied {
                    round,
                    stream,
                    pages: pages.len() as u64,
                }
            }
        };
        self.target_event(event);
    }

    fn install(&mut self, pages: &[(u64, u64)], run: PageRun) {
        for &(page, value) in pages {
            if self.target_memory.missing.contains(page) {
                self.target_memory.missing.remove_run(page, 1);
                self.target_memory.pages[page as usize] = value;
            }
        }
        if let Some((_, since)) = self
            .blocked
            .take_if(|(p, _)| !self.target_memory.missing.contains(*p))
        {
            self.longest_fault = self.longest_fault.max(self.now - since);
        }
        self.target_event(target::Event::PagesInstalled(run));
        if self.restoring && !self.target_memory.missing.contains(CLOCK_PAGE) {
            self.restoring = false;
            self.target_event(target::Event::Restored);
        }
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

fn digests(memory: &Memory, pages: &PageSet) -> Vec<RunDigest> {
    let runs = pages.runs().map(|(first, count)| PageRun { first, count });
    runs.map(|run| RunDigest {
        run,
        digest: digest(memory, run),
    })
    .collect()
}

fn source_name(command: &source::Command) -> (&'static str, Option<source::Step>) {
    use source::{Command as C, Step as S};
    match command {
        C::SendControl(_) => ("send", None),
        C::StartDirtyLog => ("start dirty log", Some(S::StartDirtyLog)),
        C::CollectDirty => ("collect dirty", Some(S::CollectDirty)),
        C::SendRound { .. } => ("send round", Some(S::SendRound)),
        C::StopSending => ("stop sending", None),
        C::SetThrottle(_) => ("set throttle", Some(S::SetThrottle)),
        C::OpenWindow => ("open window", Some(S::OpenWindow)),
        C::CloseWindow => ("close window", None),
        C::PauseGuest => ("pause guest", Some(S::PauseGuest)),
        C::SaveState => ("save state", Some(S::SaveState)),
        C::DigestMemory(_) => ("digest memory", Some(S::DigestMemory)),
        C::ResumeGuest => ("resume guest at source", Some(S::ResumeGuest)),
        C::StopDirtyLog => ("stop dirty log", None),
        C::Relinquish(_) => ("relinquish", None),
        C::SendPages { .. } => ("send pages", Some(S::SendPages)),
        C::Redial => ("redial", None),
        C::FreeMemory => ("free memory", None),
        C::CancelTooLate => ("cancel too late", None),
        C::Finish(_) => ("finish", None),
    }
}

fn target_name(command: &target::Command) -> (&'static str, Option<target::Step>) {
    use target::{Command as C, Step as S};
    match command {
        C::Prepare(_) => ("prepare", Some(S::Prepare)),
        C::SendControl(_) => ("answer", None),
        C::RequestPages(_) => ("request pages", None),
        C::GiveUp(_) => ("give up", Some(S::GiveUp)),
        C::CheckDigests(_) => ("check digests", Some(S::CheckDigests)),
        C::RegisterMissing(_) => ("register missing", Some(S::RegisterMissing)),
        C::RestoreState(_) => ("restore state", Some(S::RestoreState)),
        C::ResumeGuest(_) => ("resume guest at target", Some(S::ResumeGuest)),
        C::AnnounceNetwork => ("announce network", None),
        C::Commit(_) => ("commit", None),
        C::MemoryWhole => ("memory whole", None),
        C::Discard => ("discard", None),
        C::CancelTooLate => ("cancel too late", None),
        C::Finish(_) => ("finish", None),
    }
}
