//! The target's state machine: events and the time in, commands out.
//!
//! ```text
//! AwaitingOffer -> Preparing -> Receiving -> Switching -> Ready -> Starting -> Running -> Finished
//!       |              |            |            |          |         |          |  ^
//!       +--------------+------------+------------+----------+         |          +--+ link lost in
//!       |  any failure, cut link, silence                             |     post-copy: redialled
//!       v                                                             v
//!   Finished, never ran: says so to a source that relinquished  <-----+ cannot start
//! ```
//!
//! `Ready` outlives a cut link: the source may have relinquished, and comes back to say so (MIG-34).
//!
//! # Invariants, asserted
//! - [`Command::ResumeGuest`] at most once, only after the source relinquished (MIG-32).
//! - [`FromTarget::NotStarted`] never after it (MIG-33), unless the guest did not start.
//!
//! # Refused
//! Whatever is out of order, too much, or outside the guest. Before `Ready` it ends the migration;
//! afterwards it is ignored, for the guest is worth more than its former host's manners.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{
    FromSource, FromTarget, MAX_STREAMS, Mode, Offer, PageRun, ResumeTimes, SwitchKind,
};

use super::absent::Absent;
use super::api::{Command, Event, Limits, Outcome, Step};
use super::round::OpenRound;
use super::running::Running;
use super::stale::Stale;
use super::switch::Switching;
use crate::PageSet;

/// A guest being taken over.
#[derive(Debug)]
pub struct Target {
    core: Core,
    phase: Phase,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) now: Duration,
    pub(super) out: Vec<Command>,
    /// There is something to destroy.
    pub(super) built: bool,
    pub(super) link_up: bool,
    pub(super) may_run: bool,
    /// The guest has ended here.
    pub(super) guest_ended: bool,
    pub(super) restore_ns: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
    AwaitingOffer {
        deadline: Duration,
    },
    Preparing {
        offer: Box<Offer>,
        deadline: Duration,
    },
    Receiving(Receiving),
    Switching(Switching),
    Ready(Ready),
    Starting(Starting),
    Running(Running),
    Finished(Finished),
}

/// Memory comes in while the guest runs at the source.
#[derive(Debug)]
pub(super) struct Receiving {
    offer: Box<Offer>,
    open: OpenRound,
    stale: Stale,
    deadline: Duration,
}

/// All is here but the source's word.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) offer: Box<Offer>,
    /// In post-copy.
    pub(super) absent: Option<Absent>,
    pub(super) deadline: Duration,
}

/// The guest is ours and is being started.
#[derive(Debug)]
pub(super) struct Starting {
    offer: Box<Offer>,
    absent: Option<Absent>,
    since: Duration,
    /// The source redialled and waits to be told what arrived.
    recovered: bool,
}

/// Kept to answer a source that redials.
#[derive(Debug)]
pub(super) enum Finished {
    /// Before any offer.
    Nothing,
    NeverRan {
        offer: Box<Offer>,
        error: CodedError,
    },
    Ran {
        offer: Box<Offer>,
        times: ResumeTimes,
        complete: bool,
    },
}

impl Target {
    /// A source has just been connected.
    pub fn start(limits: Limits, now: Duration) -> Self {
        Self {
            core: Core {
                limits,
                now,
                out: Vec::new(),
                built: false,
                link_up: true,
                may_run: false,
                guest_ended: false,
                restore_ns: 0,
            },
            phase: Phase::AwaitingOffer {
                deadline: now + limits.offer_timeout,
            },
        }
    }

    /// Takes an event; returns what to do about it. `now` never falls.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        let core = &mut self.core;
        core.now = core.now.max(now);
        let event = match (&self.phase, event) {
            // A new connection may do better, and the guest is worth it (MIG-36).
            (
                Phase::Ready(_) | Phase::Starting(_) | Phase::Running(_) | Phase::Finished(_),
                Event::Malformed(_),
            ) => Event::LinkLost,
            (_, event) => event,
        };
        match event {
            Event::Control(FromSource::Ping { nonce }) => {
                return vec![Command::SendControl(FromTarget::Pong { nonce })];
            }
            Event::Control(FromSource::Pong { .. }) => return Vec::new(),
            Event::LinkLost => core.link_up = false,
            Event::GuestEnded => core.guest_ended = core.may_run,
            Event::Control(FromSource::Recover { .. }) => core.link_up = true,
            _ => {}
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Finished(Finished::Nothing));
        self.phase = match phase {
            Phase::Ready(ready) => ready.handle(event, core),
            Phase::Starting(starting) => starting.handle(event, core),
            Phase::Running(running) => running.handle(event, core),
            Phase::Finished(finished) => finished.handle(&event, core),
            before => Self::before_ready(before, event, core),
        };
        let commands = std::mem::take(&mut core.out);
        let last = commands
            .iter()
            .position(|c| matches!(c, Command::Finish(_)));
        assert!(
            last.is_none_or(|at| at + 1 == commands.len()),
            "nothing follows the end"
        );
        commands
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::AwaitingOffer { deadline } | Phase::Preparing { deadline, .. } => {
                Some(*deadline)
            }
            Phase::Receiving(r) => Some(r.deadline),
            Phase::Switching(s) => Some(s.deadline),
            Phase::Ready(r) => Some(r.deadline),
            Phase::Running(r) => r.deadline(),
            Phase::Starting(_) | Phase::Finished(_) => None,
        }
    }

    /// Whether [`Command::Finish`] was given.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished(_))
    }

    /// Pages that the running guest lacks.
    pub fn missing_pages(&self) -> u64 {
        match &self.phase {
            Phase::Running(running) => running.missing_pages(),
            _ => 0,
        }
    }

    /// What all phases before `Ready` answer alike.
    fn before_ready(phase: Phase, event: Event, core: &mut Core) -> Phase {
        let error = match event {
            Event::Cancel => {
                core.out.push(Command::SendControl(FromTarget::Cancel));
                Some(CodedError::new(
                    ErrorCode::Cancelled,
                    "the migration was cancelled",
                ))
            }
            Event::LinkLost => Some(CodedError::new(
                ErrorCode::LinkLost,
                "the link to the source was lost",
            )),
            Event::Failed { ref error, .. }
            | Event::Malformed(ref error)
            | Event::Control(FromSource::Abort(ref error)) => Some(error.clone()),
            _ => None,
        };
        let (offer, deadline) = match &phase {
            Phase::AwaitingOffer { deadline } => (None, *deadline),
            Phase::Preparing { offer, deadline } => (Some(offer), *deadline),
            Phase::Receiving(r) => (Some(&r.offer), r.deadline),
            Phase::Switching(s) => (Some(&s.offer), s.deadline),
            Phase::Ready(_) | Phase::Starting(_) | Phase::Running(_) | Phase::Finished(_) => {
                unreachable!("handled by the caller")
            }
        };
        let late = matches!(event, Event::Tick) && core.now >= deadline;
        let error = error.or_else(|| {
            late.then(|| CodedError::new(ErrorCode::TimedOut, "the source fell silent"))
        });
        if let Some(error) = error {
            let offer = offer.cloned();
            let tell = !matches!(event, Event::Control(_) | Event::Cancel);
            return core.never_ran(offer, error, tell);
        }
        match phase {
            Phase::AwaitingOffer { deadline } => awaiting_offer(deadline, event, core),
            Phase::Preparing { offer, deadline } => preparing(offer, deadline, event, core),
            Phase::Receiving(receiving) => receiving.handle(event, core),
            Phase::Switching(switching) => switching.handle(event, core),
            other => other,
        }
    }
}

fn awaiting_offer(deadline: Duration, event: Event, core: &mut Core) -> Phase {
    match event {
        Event::Control(FromSource::Offer(offer)) => {
            let max = core.limits.max_pages;
            if offer.pages == 0 || offer.pages > max {
                let error = format!("the guest has {} pages, want 1 to {max}", offer.pages);
                return core.refuse(vec![CodedError::new(ErrorCode::Memory, error)]);
            }
            if !(1..=MAX_STREAMS).contains(&offer.streams.into()) {
                return core.protocol(None, "an offer without a usable number of streams");
            }
            core.built = true;
            core.out.push(Command::Prepare(offer.clone()));
            Phase::Preparing {
                offer,
                deadline: core.now + core.limits.prepare_timeout,
            }
        }
        Event::Control(_) => core.protocol(None, "something else than an offer"),
        _ => Phase::AwaitingOffer { deadline },
    }
}

fn preparing(offer: Box<Offer>, deadline: Duration, event: Event, core: &mut Core) -> Phase {
    match event {
        Event::Prepared(accept) => {
            core.send(FromTarget::Accept(accept));
            let open = OpenRound::new(1, offer.streams);
            Phase::Receiving(Receiving {
                stale: Stale::new(offer.pages),
                offer,
                open,
                deadline: core.now + core.limits.silence,
            })
        }
        Event::Refused(reasons) => core.refuse(reasons),
        Event::Control(_) => core.protocol(Some(offer), "a message before the answer to its offer"),
        _ => Phase::Preparing { offer, deadline },
    }
}

impl Receiving {
    fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        let done = match event {
            Event::Control(FromSource::RoundBegin { round, .. }) if self.stale.is_none() => {
                self.open.begin(round)
            }
            Event::Control(FromSource::RoundEnd { round, totals }) => self.open.end(round, totals),
            Event::BatchApplied {
                round,
                stream,
                pages,
            } => self.open.apply(round, stream, pages),
            Event::Control(FromSource::Stale { runs, last }) if self.open.is_untouched() => {
                self.deadline = core.now + core.limits.silence;
                return match self.stale.list(&runs, last) {
                    Ok(pages) => {
                        core.out.extend(pages.map(Command::GiveUp));
                        Phase::Receiving(self)
                    }
                    Err(found) => core.protocol(Some(self.offer), found),
                };
            }
            Event::GivenUp => {
                if self.stale.is_given_up() {
                    core.send(FromTarget::GaveUp);
                }
                return Phase::Receiving(self);
            }
            Event::Control(FromSource::Switch { kind }) => {
                let fits = match kind {
                    // After stale pages were given up, only what brings them anew fits.
                    SwitchKind::LastRound(_) | SwitchKind::Local if !self.stale.is_none() => false,
                    SwitchKind::PostCopy if self.stale.is_busy() => false,
                    SwitchKind::LastRound(round) => round == self.open.round,
                    SwitchKind::PostCopy => self.open.is_untouched(),
                    SwitchKind::Local => self.offer.mode == Mode::Local && self.open.is_untouched(),
                };
                if !fits {
                    return core.protocol(Some(self.offer), "a switch that does not fit");
                }
                let stale = self.stale.all;
                return Phase::Switching(Switching::new(self.offer, kind, self.open, stale, core));
            }
            Event::Control(_) => Err("a message that does not belong into a round"),
            _ => return Phase::Receiving(self),
        };
        self.deadline = core.now + core.limits.silence;
        match done.and_then(|()| self.open.is_complete()) {
            Err(found) => core.protocol(Some(self.offer), found),
            Ok(false) => Phase::Receiving(self),
            Ok(true) => {
                let round = self.open.round;
                core.send(FromTarget::RoundAck { round });
                let Some(next) = round.checked_add(1) else {
                    return core.protocol(Some(self.offer), "more rounds than there are numbers");
                };
                self.open = OpenRound::new(next, self.offer.streams);
                Phase::Receiving(self)
            }
        }
    }
}

impl Ready {
    fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Control(FromSource::Relinquish { epoch }) if epoch == self.offer.epoch => {
                return self.start(false, core);
            }
            Event::Control(FromSource::Recover { migration, epoch })
                if epoch == self.offer.epoch && migration == self.offer.migration =>
            {
                return self.start(true, core);
            }
            Event::Control(FromSource::Abort(error)) => {
                return core.never_ran(Some(self.offer), error, false);
            }
            Event::Fault(run) => fault(&mut self.absent, run, core),
            Event::PagesInstalled(run) => installed(&mut self.absent, run),
            Event::LinkLost | Event::LinkRestored => {
                self.deadline = core.now + core.limits.recovery_window;
            }
            Event::Tick if core.now >= self.deadline => {
                let error = "the source never gave the guest up";
                let error = CodedError::new(ErrorCode::TimedOut, error);
                return core.never_ran(Some(self.offer), error, true);
            }
            Event::Cancel => core.out.push(Command::CancelTooLate),
            _ => {}
        }
        Phase::Ready(self)
    }

    /// The source has relinquished.
    fn start(mut self, recovered: bool, core: &mut Core) -> Phase {
        assert!(!core.may_run, "a guest is started once");
        core.may_run = true;
        core.out.push(Command::ResumeGuest(self.offer.epoch.next()));
        if recovered {
            ask_again(&mut self.absent, core);
        }
        Phase::Starting(Starting {
            offer: self.offer,
            absent: self.absent,
            since: core.now,
            recovered,
        })
    }
}

impl Starting {
    fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Resumed => {
                let times = ResumeTimes {
                    restore_ns: core.restore_ns,
                    resume_ns: nanoseconds(core.now - self.since),
                };
                let absent = self
                    .absent
                    .unwrap_or_else(|| Absent::new(PageSet::empty(self.offer.pages)));
                Running::begin(self.offer, absent, times, self.recovered, core)
            }
            Event::Control(FromSource::Recover { migration, epoch })
                if epoch == self.offer.epoch && migration == self.offer.migration =>
            {
                self.recovered = true;
                ask_again(&mut self.absent, core);
                Phase::Starting(self)
            }
            Event::LinkLost => {
                self.recovered = false;
                Phase::Starting(self)
            }
            Event::Failed {
                step: Step::ResumeGuest,
                error,
            } => {
                core.may_run = false;
                let epoch = self.offer.epoch;
                core.send(FromTarget::NotStarted {
                    epoch,
                    error: error.clone(),
                });
                core.never_ran(Some(self.offer), error, false)
            }
            // Devices that resume may need pages.
            Event::Fault(run) => {
                fault(&mut self.absent, run, core);
                Phase::Starting(self)
            }
            Event::PagesInstalled(run) => {
                installed(&mut self.absent, run);
                Phase::Starting(self)
            }
            Event::Cancel => {
                core.out.push(Command::CancelTooLate);
                Phase::Starting(self)
            }
            _ => Phase::Starting(self),
        }
    }
}

fn fault(absent: &mut Option<Absent>, run: PageRun, core: &mut Core) {
    if let Some(absent) = absent {
        absent.fault(run, core.link_up, &mut core.out);
    }
}

fn installed(absent: &mut Option<Absent>, run: PageRun) {
    if let Some(absent) = absent {
        absent.installed(run);
    }
}

fn ask_again(absent: &mut Option<Absent>, core: &mut Core) {
    if let Some(absent) = absent {
        absent.ask_again(&mut core.out);
    }
}

impl Finished {
    fn handle(self, event: &Event, core: &mut Core) -> Phase {
        if let Event::Control(FromSource::Recover { migration, epoch }) = event {
            match &self {
                Self::NeverRan { offer, error }
                    if offer.migration == *migration && offer.epoch == *epoch =>
                {
                    core.send(FromTarget::NotStarted {
                        epoch: *epoch,
                        error: error.clone(),
                    });
                }
                Self::Ran {
                    offer,
                    times,
                    complete,
                } if offer.migration == *migration && offer.epoch == *epoch => {
                    core.send(FromTarget::Resumed(*times));
                    if *complete {
                        core.send(FromTarget::Complete);
                    }
                }
                _ => {}
            }
        }
        // The relinquish of a source that had not heard that the target gave up.
        if let (Self::NeverRan { offer, error }, Event::Control(FromSource::Relinquish { epoch })) =
            (&self, event)
            && offer.epoch == *epoch
        {
            core.send(FromTarget::NotStarted {
                epoch: *epoch,
                error: error.clone(),
            });
        }
        Phase::Finished(self)
    }
}

impl Core {
    pub(super) fn send(&mut self, message: FromTarget) {
        self.out.push(Command::SendControl(message));
    }

    pub(super) fn protocol(&mut self, offer: Option<Box<Offer>>, found: &str) -> Phase {
        let error = format!("the source sent {found}");
        self.never_ran(offer, CodedError::new(ErrorCode::PeerProtocol, error), true)
    }

    fn refuse(&mut self, reasons: Vec<CodedError>) -> Phase {
        self.send(FromTarget::Refuse(reasons.clone()));
        self.discard();
        self.out.push(Command::Finish(Outcome::Refused(reasons)));
        Phase::Finished(Finished::Nothing)
    }

    /// Ends with a guest that has not run here and never will.
    pub(super) fn never_ran(
        &mut self,
        offer: Option<Box<Offer>>,
        error: CodedError,
        tell: bool,
    ) -> Phase {
        assert!(!self.may_run, "what may have run is not called never run");
        if tell && self.link_up {
            self.send(FromTarget::Abort(error.clone()));
        }
        self.discard();
        self.out
            .push(Command::Finish(Outcome::NeverRan(error.clone())));
        Phase::Finished(match offer {
            Some(offer) => Finished::NeverRan { offer, error },
            None => Finished::Nothing,
        })
    }

    fn discard(&mut self) {
        if std::mem::take(&mut self.built) {
            self.out.push(Command::Discard);
        }
    }
}

/// As a number for the wire; 584 years at most.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
