//! The guest stands still: last pages and state go out (MIG-18), and the target has to say that it is
//! ready (MIG-20).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{
    FromSource, FromTarget, MAX_DIGESTS, MAX_RUNS, PageRun, RunDigest, SwitchKind,
};

use super::after::After;
use super::api::{Command, Event, RoundKind};
use super::core::{Core, Runs};
use super::machine::Phase;
use super::push::PushPlan;
use crate::PageSet;
use crate::report::{Phase as Shown, RoundReport};

/// What is out and what is not.
#[derive(Debug)]
pub(super) struct Switching {
    kind: SwitchKind,
    /// Pages that the target lacks.
    pending: PageSet,
    /// In post-copy, once they are announced.
    plan: Option<PushPlan>,
    deadline: Duration,
    /// The target was told that the guest is paused.
    announced: bool,
    pages_sent: bool,
    digested: bool,
    state: Option<Vec<u8>>,
    state_sent: bool,
}

impl Switching {
    /// Orders the pause.
    pub(super) fn begin(
        kind: SwitchKind,
        pending: PageSet,
        predicted: Duration,
        core: &mut Core,
    ) -> Phase {
        core.shown(Shown::Switching, core.now);
        core.runs = Runs::Perhaps;
        core.times.ordered = Some(core.now);
        core.out.push(Command::PauseGuest);
        core.progress.remaining_pages = pending.count();
        Phase::Switching(Self {
            kind,
            pending,
            plan: None,
            deadline: core.now + core.options.switch_timeout + predicted.saturating_mul(4),
            announced: false,
            pages_sent: !matches!(kind, SwitchKind::LastRound(_)),
            digested: kind == SwitchKind::Local || !core.compares(),
            state: None,
            state_sent: false,
        })
    }

    /// When the guest has waited too long.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Paused if core.runs == Runs::Perhaps => {
                core.runs = Runs::No;
                core.times.paused = Some(core.now);
                if core.dirty_log {
                    core.out.push(Command::CollectDirty);
                } else {
                    self.announce(core);
                }
                core.out.push(Command::SaveState);
            }
            Event::Dirty(dirty) if core.runs == Runs::No && !self.announced => {
                if dirty.capacity() != core.offer.pages {
                    return core.protocol("a dirty log of another guest");
                }
                self.pending.union(&dirty);
                self.announce(core);
            }
            Event::RoundSent(sent) if !self.pages_sent && self.announced => {
                if self.kind != SwitchKind::LastRound(sent.round) {
                    return Phase::Switching(self);
                }
                core.sending = false;
                core.round_sent(&sent);
                core.times.pages_sent = Some(core.now);
                self.pages_sent = true;
                core.report_round(RoundReport {
                    round: sent.round,
                    began: core.times.paused.unwrap_or(core.now) - core.began,
                    duration: core.now - core.times.paused.unwrap_or(core.now),
                    pages: sent.pages,
                    bytes: sent.bytes,
                    dirty_pages: 0,
                    dirty_rate: 0.0,
                    link_rate: core.progress.link_rate,
                    throttle_percent: core.throttle,
                    predicted_downtime: core.progress.predicted_downtime.unwrap_or_default(),
                    reason: None,
                });
            }
            Event::Digests(runs) if !self.digested => {
                for message in chunks(&runs, MAX_DIGESTS, |runs: &[RunDigest], last| {
                    FromSource::Digests {
                        runs: runs.to_vec(),
                        last,
                    }
                }) {
                    core.send(message);
                }
                self.digested = true;
                self.send_state(core);
            }
            Event::Saved(state) if core.runs == Runs::No && !self.state_sent => {
                core.times.saved = Some(core.now);
                self.state = Some(state);
                self.send_state(core);
            }
            Event::Control(FromTarget::Ready) => {
                if !(self.pages_sent && self.state_sent) {
                    return core.protocol("readiness for what it cannot have");
                }
                return After::relinquish(self.plan, core);
            }
            // The target restores the state, and that takes pages.
            Event::Control(FromTarget::PageRequest(run)) if self.state_sent => {
                let Some(plan) = &mut self.plan else {
                    return core.protocol("a request for pages that it has");
                };
                if let Some(run) = plan.request(run) {
                    core.send_requested(run);
                }
            }
            Event::PagesSent { bytes, .. } => core.add_bytes(&bytes),
            Event::Control(_) => {
                return core.protocol("a message that does not belong into a switch");
            }
            Event::Tick if core.now >= self.deadline => {
                return core.stay(CodedError::new(
                    ErrorCode::TimedOut,
                    "the target was not ready for the paused guest in time",
                ));
            }
            _ => {}
        }
        Phase::Switching(self)
    }

    /// Tells the target what is to come, and lets it come.
    fn announce(&mut self, core: &mut Core) {
        self.announced = true;
        core.send(FromSource::Switch { kind: self.kind });
        match self.kind {
            SwitchKind::LastRound(round) => {
                core.progress.round = round;
                core.progress.remaining_pages = self.pending.count();
                core.send(FromSource::RoundBegin {
                    round,
                    pages: self.pending.count(),
                });
                core.sending = true;
                core.out.push(Command::SendRound {
                    round,
                    pages: self.pending.clone(),
                    kind: RoundKind::Last,
                });
            }
            SwitchKind::PostCopy => {
                self.pending.widen(core.options.unit_pages);
                let runs: Vec<PageRun> = self
                    .pending
                    .runs()
                    .map(|(first, count)| PageRun { first, count })
                    .collect();
                for message in chunks(&runs, MAX_RUNS, |runs: &[PageRun], last| {
                    FromSource::Missing {
                        runs: runs.to_vec(),
                        last,
                    }
                }) {
                    core.send(message);
                }
                self.plan = Some(PushPlan::new(self.pending.clone()));
            }
            SwitchKind::Local => {}
        }
        if !self.digested {
            let mut at_target = PageSet::full(core.offer.pages);
            if self.kind == SwitchKind::PostCopy {
                for (first, count) in self.pending.runs() {
                    at_target.remove_run(first, count);
                }
            }
            core.out.push(Command::DigestMemory(at_target));
        }
        self.send_state(core);
    }

    /// The state goes last, so that the target has all that it is checked against.
    fn send_state(&mut self, core: &mut Core) {
        if self.announced
            && self.digested
            && let Some(bytes) = self.state.take()
        {
            self.state_sent = true;
            core.send(FromSource::State { bytes });
        }
    }
}

/// `items` in messages of at most `most`; at least one message, of which the last says so.
pub(super) fn chunks<T>(
    items: &[T],
    most: usize,
    message: impl Fn(&[T], bool) -> FromSource,
) -> Vec<FromSource> {
    if items.is_empty() {
        return vec![message(items, true)];
    }
    let count = items.len().div_ceil(most);
    items
        .chunks(most)
        .enumerate()
        .map(|(index, items)| message(items, index + 1 == count))
        .collect()
}
