//! The source's state machine: events and the time in, commands out.
//!
//! ```text
//! Offering -> Copying -> OpeningWindow -> Switching -> After -> Finished
//!    |          |  ^         |  |     ^       |          |
//!    |          |  +---------+  |     |       |          +-- link lost: redials, resynchronises
//!    |          |         post-copy: GivingUp |
//!    +----------+---------------+-----+-------+
//!    |  any failure, cancel, cut link, time up
//!    v
//! Unwinding (until the guest runs) -> Finished
//! ```
//!
//! `After` begins with [`Command::Relinquish`] and has no way back to a running guest. For a forecast
//! `Surveying` takes the place of all that comes after `Offering`.
//!
//! # Invariants, asserted
//! - No [`Command::ResumeGuest`] after [`Command::Relinquish`] (MIG-30).
//! - A failure before it ends with a guest that runs here, or says that it could not be resumed
//!   (MIG-31).
//! - [`Command::Finish`] is the last command.
//!
//! # Refused
//! Clocks, randomness, I/O: a driver carries out commands in order and reports what came of them.
//! Nothing that a peer says makes it panic.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{
    DigestMode, FromSource, FromTarget, MAX_REASONS, Mode, Offer, SwitchKind,
};

use super::after::After;
use super::api::{Command, Event, Request, RoundKind, RoundSent, Step};
use super::core::Core;
use super::stale::GivingUp;
use super::survey::Survey;
use super::switch::Switching;
use crate::PageSet;
use crate::forecast::Forecast;
use crate::options::Options;
use crate::policy::{Decision, Reason, RoundFacts};
use crate::report::{Outcome, Phase as Shown, Progress, Receipt, RoundReport};

/// A window that took longer than this to open is followed by another round (MIG-17).
const WINDOW_IS_FRESH: Duration = Duration::from_millis(10);
/// How often a guest that does not resume is asked again.
const RESUME_TRIES: u32 = 3;

/// A guest being moved away.
#[derive(Debug)]
pub struct Source {
    core: Core,
    phase: Phase,
}

/// What each phase knows.
#[derive(Debug)]
pub(super) enum Phase {
    Offering { deadline: Duration },
    Copying(Copying),
    Surveying(Box<Survey>),
    OpeningWindow(OpeningWindow),
    GivingUp(GivingUp),
    Switching(Switching),
    After(After),
    Unwinding { outcome: Outcome, tries: u32 },
    Finished,
}

/// A round.
#[derive(Debug)]
pub(super) struct Copying {
    round: u32,
    began: Duration,
    step: CopyStep,
}

#[derive(Debug)]
enum CopyStep {
    StartingLog,
    Sending,
    AwaitingAck { sent: RoundSent, at: Duration },
    Collecting { sent: RoundSent, acked: Duration },
}

/// Waiting until the change of owner is announced.
#[derive(Debug)]
pub(super) struct OpeningWindow {
    kind: SwitchKind,
    pending: PageSet,
    asked: Duration,
    predicted: Duration,
}

impl Source {
    /// Offers the guest to a target that has just been connected. `options` have been checked and
    /// agree with the offer's mode; `now` is any time from which later ones are counted.
    pub fn start(
        offer: Offer,
        options: Options,
        request: Request,
        now: Duration,
    ) -> (Self, Vec<Command>) {
        let deadline = now + options.prepare_timeout;
        let hello = FromSource::Offer(Box::new(offer.clone()));
        let mut core = Core::new(offer, options, request, now);
        core.shown(Shown::Preparing, now);
        let source = Self {
            core,
            phase: Phase::Offering { deadline },
        };
        (source, vec![Command::SendControl(hello)])
    }

    /// As [`Source::start`], but only to forecast the move: the guest is watched for `watch`, samples of its
    /// memory are sent, and it stays where it is. Ends with [`ErrorCode::OnlyForecast`] and a
    /// [`Source::forecast`] when all went well.
    pub fn survey(
        offer: Offer,
        options: Options,
        watch: Duration,
        now: Duration,
    ) -> (Self, Vec<Command>) {
        let (mut source, commands) = Self::start(offer, options, Request::default(), now);
        source.core.survey = Some(watch);
        (source, commands)
    }

    /// What [`Source::survey`] was for, once it is finished.
    pub fn forecast(&self) -> Option<&Forecast> {
        self.core.forecast.as_ref()
    }

    /// Takes an event; returns what to do about it, nothing once it is over. `now` never falls.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        self.core.now = self.core.now.max(now);
        if self.is_finished() {
            return Vec::new();
        }
        let core = &mut self.core;
        let event = match event {
            // A new connection may do better, and the guest is worth it (MIG-36).
            Event::Malformed(_) if core.relinquished => Event::LinkLost,
            event => event,
        };
        if let Event::Control(FromTarget::Ping { nonce }) = event {
            return vec![Command::SendControl(FromSource::Pong { nonce })];
        }
        if matches!(event, Event::Control(FromTarget::Pong { .. })) {
            return Vec::new();
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Finished);
        self.phase = match phase {
            Phase::Finished => Phase::Finished,
            Phase::Unwinding { outcome, tries } => unwinding(outcome, tries, event, core),
            Phase::After(after) => after.handle(event, core),
            before => Self::before_relinquish(before, event, core),
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
            Phase::Offering { deadline } => Some(*deadline),
            Phase::Copying(_) => Some(self.core.copy_deadline()),
            Phase::Surveying(s) => Some(s.deadline()),
            Phase::OpeningWindow(w) => Some(w.asked + self.core.options.prepare_timeout),
            Phase::GivingUp(g) => Some(g.deadline(&self.core)),
            Phase::Switching(s) => Some(s.deadline()),
            Phase::After(a) => Some(a.deadline()),
            Phase::Unwinding { .. } | Phase::Finished => None,
        }
    }

    /// Whether [`Command::Finish`] was given.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Whether the guest has been given up: cancelling is too late.
    pub fn has_relinquished(&self) -> bool {
        self.core.relinquished
    }

    /// What to show now.
    pub fn progress(&self) -> Progress {
        let mut progress = self.core.progress.clone();
        if let Phase::After(after) = &self.phase {
            progress.remaining_pages = after.remaining();
        }
        progress
    }

    /// What to keep; complete once [`Source::is_finished`].
    pub fn receipt(&self) -> Receipt {
        self.core.receipt()
    }

    /// What all phases before the relinquish answer alike.
    fn before_relinquish(phase: Phase, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Cancel | Event::Control(FromTarget::Cancel) => {
                return core.stay(CodedError::new(
                    ErrorCode::Cancelled,
                    "the migration was cancelled",
                ));
            }
            Event::LinkLost => {
                core.link_up = false;
                return core.stay(CodedError::new(
                    ErrorCode::LinkLost,
                    "the link to the target was lost",
                ));
            }
            Event::Failed { step, error } => {
                core.failed(step);
                return core.stay(error);
            }
            Event::Control(FromTarget::Abort(error)) | Event::Malformed(error) => {
                return core.stay(error);
            }
            _ => {}
        }
        match phase {
            Phase::Offering { deadline } => offering(deadline, event, core),
            Phase::Copying(copying) => copying.handle(event, core),
            Phase::Surveying(survey) => survey.handle(event, core),
            Phase::OpeningWindow(window) => window.handle(&event, core),
            Phase::GivingUp(giving_up) => giving_up.handle(event, core),
            Phase::Switching(switching) => switching.handle(event, core),
            Phase::After(_) | Phase::Unwinding { .. } | Phase::Finished => {
                unreachable!("handled by the caller")
            }
        }
    }
}

fn offering(deadline: Duration, event: Event, core: &mut Core) -> Phase {
    match event {
        Event::Control(FromTarget::Accept(accept)) => {
            if accept.retained && core.offer.retained.is_none() {
                return core.protocol("an accepted copy that was not offered");
            }
            if !accept.post_copy && !core.policy.does_without_post_copy() {
                return core.stay(
                    CodedError::new(
                        ErrorCode::Refused,
                        "the target cannot run a guest before its memory is there",
                    )
                    .with_fix("let it use userfaultfd, or choose pre-copy"),
                );
            }
            core.post_copy = accept.post_copy;
            if let Some(watch) = core.survey {
                return Survey::begin(watch, core);
            }
            match core.offer.mode {
                Mode::PreCopy | Mode::Hybrid => {
                    core.dirty_log = true;
                    core.out.push(Command::StartDirtyLog);
                    core.shown(Shown::Copying, core.now);
                    Phase::Copying(Copying {
                        round: 0,
                        began: core.now,
                        step: CopyStep::StartingLog,
                    })
                }
                Mode::PostCopy => {
                    let all = PageSet::full(core.offer.pages);
                    open_window(SwitchKind::PostCopy, all, Duration::ZERO, core)
                }
                Mode::Local => {
                    let none = PageSet::empty(core.offer.pages);
                    open_window(SwitchKind::Local, none, Duration::ZERO, core)
                }
            }
        }
        Event::Control(FromTarget::Refuse(mut reasons)) => {
            reasons.truncate(MAX_REASONS);
            if reasons.is_empty() {
                reasons.push(CodedError::new(
                    ErrorCode::Refused,
                    "the target gave no reason",
                ));
            }
            core.finish(Outcome::Refused(reasons))
        }
        Event::Tick if core.now >= deadline => {
            core.timed_out("the target did not answer the offer")
        }
        Event::Control(_) => core.protocol("an answer that is none to an offer"),
        _ => Phase::Offering { deadline },
    }
}

impl Copying {
    /// Sends `pages` as the next round.
    fn begin(round: u32, pages: PageSet, core: &mut Core) -> Phase {
        core.progress.round = round;
        core.progress.remaining_pages = pages.count();
        core.sending = true;
        core.out.push(Command::SendControl(FromSource::RoundBegin {
            round,
            pages: pages.count(),
        }));
        core.out.push(Command::SendRound {
            round,
            pages,
            kind: RoundKind::Copy,
        });
        Phase::Copying(Self {
            round,
            began: core.now,
            step: CopyStep::Sending,
        })
    }

    fn handle(self, event: Event, core: &mut Core) -> Phase {
        match (self.step, event) {
            (CopyStep::StartingLog, Event::DirtyLogStarted) => {
                Self::begin(1, PageSet::full(core.offer.pages), core)
            }
            (CopyStep::Sending, Event::RoundSent(sent)) if sent.round == self.round => {
                core.sending = false;
                core.round_sent(&sent);
                Phase::Copying(Self {
                    step: CopyStep::AwaitingAck { sent, at: core.now },
                    ..self
                })
            }
            (
                CopyStep::AwaitingAck { sent, at },
                Event::Control(FromTarget::RoundAck { round }),
            ) if round == self.round => {
                core.round_trip = core.round_trip.min(core.now - at);
                core.out.push(Command::CollectDirty);
                let acked = core.now;
                Phase::Copying(Self {
                    step: CopyStep::Collecting { sent, acked },
                    ..self
                })
            }
            (CopyStep::Collecting { sent, acked }, Event::Dirty(dirty)) => {
                Self::choose(self.round, self.began, &sent, acked, dirty, core)
            }
            (_, Event::Control(_)) => core.protocol("a message that does not belong into a round"),
            (_, Event::Tick) if core.now >= core.copy_deadline() => {
                core.timed_out("memory was not copied in time")
            }
            (step, _) => Phase::Copying(Self { step, ..self }),
        }
    }

    fn choose(
        round: u32,
        began: Duration,
        sent: &RoundSent,
        acked: Duration,
        dirty: PageSet,
        core: &mut Core,
    ) -> Phase {
        if dirty.capacity() != core.offer.pages {
            return core.protocol("a dirty log of another guest");
        }
        let facts = RoundFacts {
            round,
            pages: sent.pages,
            content_pages: sent.content_pages,
            wire_bytes: sent.bytes.total(),
            duration: acked - began,
            dirty_pages: dirty.count(),
            switch_cost: core.switch_cost(),
            elapsed: core.now - core.began,
        };
        let choice = core.policy.choose(&facts);
        core.chose(&facts, &choice);
        core.report_round(RoundReport {
            round,
            began: began - core.began,
            duration: facts.duration,
            pages: sent.pages,
            bytes: sent.bytes,
            dirty_pages: facts.dirty_pages,
            dirty_rate: choice.dirty_rate,
            link_rate: choice.link_rate,
            throttle_percent: core.throttle,
            predicted_downtime: choice.predicted_downtime,
            reason: Some(choice.reason),
        });
        match choice.decision {
            Decision::Continue(percent) => {
                core.set_throttle(percent);
                Self::begin(round + 1, dirty, core)
            }
            Decision::Switch => {
                let kind = SwitchKind::LastRound(round + 1);
                if core.window {
                    return Switching::begin(kind, dirty, choice.predicted_downtime, core);
                }
                open_window(kind, dirty, choice.predicted_downtime, core)
            }
            Decision::PostCopy => {
                if core.window {
                    return GivingUp::begin(dirty, core);
                }
                open_window(SwitchKind::PostCopy, dirty, Duration::ZERO, core)
            }
            Decision::GiveUp => {
                debug_assert_eq!(choice.reason, Reason::TimeUp, "only time gives up");
                core.timed_out("memory was not copied in time")
            }
        }
    }
}

fn open_window(kind: SwitchKind, pending: PageSet, predicted: Duration, core: &mut Core) -> Phase {
    core.window = true;
    core.shown(Shown::OpeningWindow, core.now);
    core.out.push(Command::OpenWindow);
    Phase::OpeningWindow(OpeningWindow {
        kind,
        pending,
        asked: core.now,
        predicted,
    })
}

impl OpeningWindow {
    fn handle(self, event: &Event, core: &mut Core) -> Phase {
        match event {
            Event::WindowOpened => {
                let late = core.now - self.asked > WINDOW_IS_FRESH;
                match self.kind {
                    // The guest wrote meanwhile; the prediction is of old.
                    SwitchKind::LastRound(round) if late => {
                        core.shown(Shown::Copying, core.now);
                        Copying::begin(round, self.pending, core)
                    }
                    SwitchKind::PostCopy => GivingUp::begin(self.pending, core),
                    kind => Switching::begin(kind, self.pending, self.predicted, core),
                }
            }
            Event::Tick if core.now >= self.asked + core.options.prepare_timeout => {
                core.timed_out("the change of owner could not be announced in time")
            }
            Event::Control(_) => core.protocol("a message before the switch"),
            _ => Phase::OpeningWindow(self),
        }
    }
}

/// Waits until the guest runs here again.
fn unwinding(outcome: Outcome, tries: u32, event: Event, core: &mut Core) -> Phase {
    match event {
        Event::Resumed => core.finish(outcome),
        Event::Failed {
            step: Step::ResumeGuest,
            error,
        } => {
            if tries + 1 >= RESUME_TRIES {
                let stuck = CodedError::from_error(ErrorCode::SourceStuck, &error);
                return core.finish(Outcome::SourceStuck(stuck));
            }
            core.resume();
            Phase::Unwinding {
                outcome,
                tries: tries + 1,
            }
        }
        _ => Phase::Unwinding { outcome, tries },
    }
}

impl Core {
    /// Whether memory is compared at the switch.
    pub(super) fn compares(&self) -> bool {
        self.offer.digests == DigestMode::Switch
    }
}
