//! What every phase of the source needs: what was done to the guest and has to be undone, and the
//! books of the receipt.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{FromSource, Mode, Offer, PageRun, ResumeTimes, RoundTotals};

use super::api::{Command, Request, RoundSent, Step};
use super::machine::Phase;
use crate::forecast::Forecast;
use crate::options::{Options, TimeoutAction};
use crate::policy::{Choice, Eta, Policy, RoundFacts};
use crate::ports::PAGE_BYTES;
use crate::report::{
    Blackout, BytesByKind, MAX_ROUND_REPORTS, Outcome, Phase as Shown, PhaseTime, Progress,
    Receipt, RoundReport,
};

/// Pause, save, restore and resume, before any was measured.
const BASE_SWITCH_COST: Duration = Duration::from_millis(3);
/// The most phases that a receipt lists.
const MAX_PHASES: usize = 64;

/// Whether the guest runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Yes,
    /// A pause was ordered; it may or may not have happened.
    Perhaps,
    No,
}

/// When things happened at the switch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SwitchTimes {
    pub(super) ordered: Option<Duration>,
    pub(super) paused: Option<Duration>,
    pub(super) pages_sent: Option<Duration>,
    pub(super) saved: Option<Duration>,
    pub(super) resumed: Option<(Duration, ResumeTimes)>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) offer: Offer,
    pub(super) options: Options,
    pub(super) policy: Policy,
    pub(super) out: Vec<Command>,
    pub(super) began: Duration,
    pub(super) now: Duration,
    pub(super) runs: Runs,
    pub(super) relinquished: bool,
    pub(super) dirty_log: bool,
    pub(super) window: bool,
    pub(super) sending: bool,
    pub(super) link_up: bool,
    pub(super) throttle: u8,
    /// The shortest from the end of a round to its acknowledgement.
    pub(super) round_trip: Duration,
    pub(super) times: SwitchTimes,
    pub(super) progress: Progress,
    pub(super) requested_pages: u64,
    pub(super) recoveries: u32,
    /// Only a forecast is wanted, of a guest that is watched for so long.
    pub(super) survey: Option<Duration>,
    pub(super) forecast: Option<Forecast>,
    /// The target can run the guest before its memory is there.
    pub(super) post_copy: bool,
    request: Request,
    eta: Eta,
    phases: Vec<PhaseTime>,
    rounds: Vec<RoundReport>,
    rounds_total: u32,
    bytes: BytesByKind,
    throttle_max: u8,
    outcome: Option<Outcome>,
}

impl Core {
    pub(super) fn new(offer: Offer, options: Options, request: Request, now: Duration) -> Self {
        Self {
            policy: Policy::new(&options),
            offer,
            options,
            out: Vec::new(),
            began: now,
            now,
            runs: Runs::Yes,
            relinquished: false,
            dirty_log: false,
            window: false,
            sending: false,
            link_up: true,
            throttle: 0,
            round_trip: Duration::MAX,
            times: SwitchTimes::default(),
            progress: Progress {
                phase: Shown::Preparing,
                round: 0,
                remaining_pages: 0,
                sent_bytes: 0,
                link_rate: 0.0,
                dirty_rate: 0.0,
                throttle_percent: 0,
                predicted_downtime: None,
                eta: None,
                eta_late: false,
            },
            requested_pages: 0,
            recoveries: 0,
            survey: None,
            forecast: None,
            post_copy: false,
            request,
            eta: Eta::default(),
            phases: Vec::new(),
            rounds: Vec::new(),
            rounds_total: 0,
            bytes: BytesByKind::default(),
            throttle_max: 0,
            outcome: None,
        }
    }

    /// What a switch costs besides the last pages: two ways there and one back, and the work.
    pub(super) fn switch_cost(&self) -> Duration {
        BASE_SWITCH_COST
            + self
                .round_trip
                .saturating_mul(2)
                .min(Duration::from_secs(60))
    }

    /// What a migration to this target would be done with.
    pub(super) fn forecast_options(&self) -> Options {
        let mode = match self.options.mode {
            Mode::Hybrid if !self.post_copy => Mode::PreCopy,
            mode => mode,
        };
        Options {
            mode,
            ..self.options.clone()
        }
    }

    /// When copying ends at the latest. A user's action other than cancelling is chosen after the
    /// round under way, and a peer that never ends it has as long again.
    pub(super) fn copy_deadline(&self) -> Duration {
        match self.options.timeout_action {
            TimeoutAction::Cancel => self.began + self.options.timeout,
            TimeoutAction::PostCopy | TimeoutAction::Pause => self.began + self.options.timeout * 2,
        }
    }

    pub(super) fn send(&mut self, message: FromSource) {
        self.out.push(Command::SendControl(message));
    }

    pub(super) fn set_throttle(&mut self, percent: u8) {
        if percent != self.throttle {
            self.throttle = percent;
            self.throttle_max = self.throttle_max.max(percent);
            self.progress.throttle_percent = percent;
            self.out.push(Command::SetThrottle(percent));
        }
    }

    /// A command failed: what is known about the guest because of it.
    pub(super) fn failed(&mut self, step: Step) {
        match step {
            Step::PauseGuest => self.runs = Runs::Yes,
            Step::StartDirtyLog => self.dirty_log = false,
            Step::OpenWindow => self.window = false,
            _ => {}
        }
    }

    pub(super) fn resume(&mut self) {
        assert!(!self.relinquished, "what was given up does not run here");
        self.out.push(Command::ResumeGuest);
    }

    /// The peer broke the protocol.
    pub(super) fn protocol(&mut self, found: &str) -> Phase {
        self.stay(CodedError::new(
            ErrorCode::PeerProtocol,
            format!("the target sent {found}"),
        ))
    }

    pub(super) fn timed_out(&mut self, what: &str) -> Phase {
        self.stay(CodedError::new(ErrorCode::TimedOut, what))
    }

    /// Ends before the relinquish: undoes everything, the guest first (MIG-31, MIG-61).
    pub(super) fn stay(&mut self, error: CodedError) -> Phase {
        assert!(!self.relinquished, "what was given up does not stay");
        let resuming = self.runs != Runs::Yes;
        if resuming {
            self.resume();
        }
        if self.sending {
            self.out.push(Command::StopSending);
        }
        self.set_throttle(0);
        if self.link_up {
            self.send(FromSource::Abort(error.clone()));
        }
        if self.dirty_log {
            self.out.push(Command::StopDirtyLog);
        }
        if self.window {
            self.out.push(Command::CloseWindow);
        }
        let outcome = Outcome::StayedAtSource(error);
        if resuming {
            self.shown(Shown::Unwinding, self.now);
            return Phase::Unwinding { outcome, tries: 0 };
        }
        self.finish(outcome)
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> Phase {
        self.shown(Shown::Finished, self.now);
        self.outcome = Some(outcome.clone());
        self.out.push(Command::Finish(outcome));
        Phase::Finished
    }

    pub(super) fn shown(&mut self, phase: Shown, now: Duration) {
        self.progress.phase = phase;
        if self.phases.len() < MAX_PHASES {
            self.phases.push(PhaseTime {
                phase,
                began: now - self.began,
            });
        }
    }

    pub(super) fn add_bytes(&mut self, bytes: &BytesByKind) {
        self.bytes.add(bytes);
        self.progress.sent_bytes = self.bytes.total();
    }

    /// Sends pages that something at the target waits for.
    pub(super) fn send_requested(&mut self, run: PageRun) {
        self.requested_pages += run.count;
        self.out.push(Command::SendPages {
            run,
            requested: true,
        });
    }

    /// All of a round is on the link: tells the target what to wait for.
    pub(super) fn round_sent(&mut self, sent: &RoundSent) {
        self.add_bytes(&sent.bytes);
        self.send(FromSource::RoundEnd {
            round: sent.round,
            totals: RoundTotals {
                batches: sent.batches.clone(),
                pages: sent.pages,
                bytes: sent.bytes.total(),
            },
        });
    }

    pub(super) fn chose(&mut self, facts: &RoundFacts, choice: &Choice) {
        self.progress.link_rate = choice.link_rate;
        self.progress.dirty_rate = choice.dirty_rate;
        self.progress.predicted_downtime = Some(choice.predicted_downtime);
        self.progress.remaining_pages = facts.dirty_pages;
        self.progress.eta = self.eta.update(choice.estimate);
        self.progress.eta_late = self.eta.is_late();
    }

    pub(super) fn report_round(&mut self, round: RoundReport) {
        self.rounds_total += 1;
        if self.rounds.len() == MAX_ROUND_REPORTS {
            self.rounds.remove(0);
        }
        self.rounds.push(round);
    }

    pub(super) fn receipt(&self) -> Receipt {
        Receipt {
            migration: self.offer.migration.to_string(),
            guest: self.offer.guest.to_string(),
            name: self.offer.name.clone(),
            asked_by: self.request.asked_by.clone(),
            why: self.request.why.clone(),
            mode: match self.offer.mode {
                Mode::PreCopy => "pre-copy",
                Mode::PostCopy => "post-copy",
                Mode::Hybrid => "hybrid",
                Mode::Local => "local",
            },
            outcome: self.outcome.clone(),
            phases: self.phases.clone(),
            rounds: self.rounds.clone(),
            rounds_total: self.rounds_total,
            memory_bytes: self.offer.pages.saturating_mul(PAGE_BYTES as u64),
            bytes: self.bytes,
            blackout: self.blackout(),
            requested_pages: self.requested_pages,
            recoveries: self.recoveries,
            throttle_max_percent: self.throttle_max,
            warnings: Vec::new(),
            total: self.now - self.began,
        }
    }

    /// `None` until the guest is known to run at the target.
    fn blackout(&self) -> Option<Blackout> {
        let times = &self.times;
        let (resumed, target) = times.resumed?;
        let (ordered, paused) = (times.ordered?, times.paused?);
        let restore = Duration::from_nanos(target.restore_ns);
        let resume = Duration::from_nanos(target.resume_ns);
        let last_pages = times.pages_sent.map_or(Duration::ZERO, |at| at - paused);
        let save = times.saved.map_or(Duration::ZERO, |at| at - paused);
        let state = save.saturating_sub(last_pages) + restore;
        let pause = paused - ordered;
        let total = resumed - ordered;
        Some(Blackout {
            pause,
            last_pages,
            state,
            wire: total.saturating_sub(pause + last_pages + state + resume),
            resume,
            total,
            outside: None,
        })
    }
}
