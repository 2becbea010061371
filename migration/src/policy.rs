//! When to go on copying, slow the guest, switch, or give up: decided after each round, from what the
//! round measured and nothing else.
//!
//! The blackout of a switch is predicted as its fixed cost plus the time that the dirty pages need on
//! the link as measured. Once that fits the limit, rounds go on only while the next one is expected
//! to halve what remains and that is worth something: the switch comes at the minimum, not on a
//! timer. Above the limit rounds go on while what remains shrinks; after [`PATIENCE`] rounds without
//! progress, hybrid falls to post-copy and pre-copy takes the next throttle step. Hybrid does not wait
//! when the guest wrote as much during a round as the round sent.
//!
//! # Refused
//! A rate that was configured: only measured ones count. A switch that is predicted to break the
//! limit, unless the user chose [`TimeoutAction::Pause`].

use std::time::Duration;

use godwit_proto::migrate::Mode;

use crate::options::{Options, TimeoutAction};
use crate::ports::PAGE_BYTES;

/// Rounds without progress after which something is done about it.
pub const PATIENCE: u32 = 2;
/// A round makes progress when it leaves less than this part of the least that remained so far.
const PROGRESS: f64 = 0.9;
/// A round that leaves this part of what it sent, or more, tells that the next one would as well. In hybrid
/// nothing is gained by trying: what would be sent now is sent again after the switch.
const HOPELESS: f64 = 0.95;
/// Further rounds after the first whose prediction fits the limit.
const MAX_POLISH: u32 = 4;
/// Rounds after which a migration counts as timed out, however short they are.
pub const MAX_ROUNDS: u32 = 1000;
/// Bytes from which on a round says something about the link.
const MEASURABLE_BYTES: u64 = 256 << 10;
/// A page that is sent costs at least this, in bytes: the last pages are not free because earlier
/// ones compressed well.
const MIN_PAGE_BYTES: f64 = 64.0;

/// What a round measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundFacts {
    /// The round, from 1.
    pub round: u32,
    /// Pages sent, of any kind.
    pub pages: u64,
    /// Of those, pages that were neither zero nor unchanged.
    pub content_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// From the first page to the acknowledgement of the last.
    pub duration: Duration,
    /// Pages that the guest wrote meanwhile.
    pub dirty_pages: u64,
    /// What a switch costs besides the last pages.
    pub switch_cost: Duration,
    /// Since the migration began.
    pub elapsed: Duration,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another round, with this throttle in percent.
    Continue(u8),
    /// Pause and send the last pages.
    Switch,
    /// Pause, let the target run, and send the pages afterwards.
    PostCopy,
    /// The time is up; the guest stays.
    GiveUp,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// What remains shrinks.
    Converging,
    /// The blackout would fit, and another round makes it clearly shorter.
    WorthAnotherRound,
    /// The blackout fits, and another round would not make it clearly shorter.
    AtMinimum,
    /// The guest writes as fast as the link takes pages; not for long enough to act.
    Stalled,
    /// It has done so for long enough: vCPUs are slowed.
    Throttled,
    /// It does so with the highest throttle.
    ThrottledToTheLimit,
    /// It does so and the mode is hybrid: memory follows the guest.
    CannotConverge,
    /// The time is up.
    TimeUp,
}

/// A decision, why, and what it was made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What is done.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// Blackout of a switch now.
    pub predicted_downtime: Duration,
    /// Measured bytes a second.
    pub link_rate: f64,
    /// Pages a second that the guest writes.
    pub dirty_rate: f64,
    /// Until the guest runs at the target, if all goes on like this; `None` when it will not.
    pub estimate: Option<Duration>,
}

/// What earlier rounds taught.
#[derive(Clone, Debug)]
pub struct Policy {
    mode: Mode,
    limit: Duration,
    timeout: Duration,
    action: TimeoutAction,
    throttle: crate::options::Throttle,
    throttled: u8,
    link_rate: Option<f64>,
    page_bytes: f64,
    least: u64,
    stalls: u32,
    polished: u32,
}

impl Policy {
    /// Before the first round.
    pub fn new(options: &Options) -> Self {
        Self {
            mode: options.mode,
            limit: options.downtime_limit,
            timeout: options.timeout,
            action: options.timeout_action,
            throttle: options.throttle,
            throttled: 0,
            link_rate: None,
            page_bytes: PAGE_BYTES as f64,
            least: u64::MAX,
            stalls: 0,
            polished: 0,
        }
    }

    /// Takes a finished round into account and chooses what comes next.
    pub fn choose(&mut self, facts: &RoundFacts) -> Choice {
        self.learn(facts);
        let rate = self.link_rate.unwrap_or(1.0);
        let seconds = facts.duration.as_secs_f64().max(1e-6);
        let dirty_rate = facts.dirty_pages as f64 / seconds;
        let transfer = facts.dirty_pages as f64 * self.page_bytes / rate;
        let downtime = facts.switch_cost + seconds_bounded(transfer);
        // Of what is sent next, the part that is dirty again when it has been sent.
        let rewritten = dirty_rate * self.page_bytes / rate;
        let (decision, reason) = self.decide(facts, downtime, transfer, rewritten);
        Choice {
            decision,
            reason,
            predicted_downtime: downtime,
            link_rate: rate,
            dirty_rate,
            estimate: self.estimate(facts, transfer, rewritten, downtime),
        }
    }

    fn learn(&mut self, facts: &RoundFacts) {
        let seconds = facts.duration.as_secs_f64().max(1e-6);
        // A round of a few pages measures the round trip, not the link.
        if facts.wire_bytes >= MEASURABLE_BYTES || self.link_rate.is_none() {
            let measured = (facts.wire_bytes as f64 / seconds).max(1.0);
            self.link_rate = Some(
                self.link_rate
                    .map_or(measured, |old| (old + measured) / 2.0),
            );
        }
        if facts.content_pages > 0 {
            let measured = facts.wire_bytes as f64 / facts.content_pages as f64;
            self.page_bytes = measured.clamp(MIN_PAGE_BYTES, PAGE_BYTES as f64 * 1.1);
        }
    }

    fn decide(
        &mut self,
        facts: &RoundFacts,
        downtime: Duration,
        transfer: f64,
        rewritten: f64,
    ) -> (Decision, Reason) {
        let progress = (facts.dirty_pages as f64) < PROGRESS * self.least as f64;
        self.least = self.least.min(facts.dirty_pages);
        if downtime <= self.limit {
            let worth = transfer > facts.switch_cost.as_secs_f64() / 4.0;
            if rewritten < 0.5 && worth && self.polished < MAX_POLISH {
                self.polished += 1;
                return (
                    Decision::Continue(self.throttled),
                    Reason::WorthAnotherRound,
                );
            }
            return (Decision::Switch, Reason::AtMinimum);
        }
        if facts.elapsed >= self.timeout || facts.round >= MAX_ROUNDS {
            return (self.time_up(), Reason::TimeUp);
        }
        // The first round tells what pages cost that go for the first time; sent again they may cost
        // next to nothing.
        if self.mode == Mode::Hybrid && facts.round > 1 && rewritten >= HOPELESS {
            return (Decision::PostCopy, Reason::CannotConverge);
        }
        // The first round copies what was there; it says nothing about convergence but its rate.
        if progress && rewritten < 1.0 {
            self.stalls = 0;
            return (Decision::Continue(self.throttled), Reason::Converging);
        }
        self.stalls += 1;
        if self.stalls < PATIENCE {
            return (Decision::Continue(self.throttled), Reason::Stalled);
        }
        if self.mode == Mode::Hybrid {
            return (Decision::PostCopy, Reason::CannotConverge);
        }
        self.stalls = 0;
        let next = match self.throttled {
            0 => self.throttle.start,
            now => now.saturating_add(self.throttle.step),
        };
        let next = next.min(self.throttle.max);
        if next == self.throttled {
            return (Decision::Continue(next), Reason::ThrottledToTheLimit);
        }
        // A slower guest leaves less: progress is measured anew.
        self.least = facts.dirty_pages;
        self.throttled = next;
        (Decision::Continue(next), Reason::Throttled)
    }

    /// Gives post-copy up, for the target cannot do it; `false` when the user insists on it.
    pub fn does_without_post_copy(&mut self) -> bool {
        if self.mode == Mode::Hybrid {
            self.mode = Mode::PreCopy;
        }
        self.mode != Mode::PostCopy && self.action != TimeoutAction::PostCopy
    }

    /// What is done when the time is up.
    pub fn time_up(&self) -> Decision {
        match self.action {
            TimeoutAction::Cancel => Decision::GiveUp,
            TimeoutAction::PostCopy => Decision::PostCopy,
            TimeoutAction::Pause => Decision::Switch,
        }
    }

    /// The sum of the rounds to come, each `rewritten` times as long as the one before, until the
    /// rest fits the limit.
    fn estimate(
        &self,
        facts: &RoundFacts,
        transfer: f64,
        rewritten: f64,
        downtime: Duration,
    ) -> Option<Duration> {
        if downtime <= self.limit {
            return Some(downtime);
        }
        if rewritten >= 1.0 {
            return None;
        }
        let budget = self.limit.saturating_sub(facts.switch_cost).as_secs_f64();
        let (mut total, mut round) = (0.0, transfer);
        for _ in 0..MAX_ROUNDS {
            if round <= budget {
                return Some(seconds_bounded(total + round) + facts.switch_cost);
            }
            total += round;
            round *= rewritten;
        }
        None
    }
}

/// Seconds as a duration; a day at most, so that no rate overflows it.
fn seconds_bounded(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

/// The time that is left, as shown: it only ever falls.
///
/// When the honest estimate grows, the shown one stands still until the truth has caught up with
/// it, and [`Eta::is_late`] says so.
#[derive(Clone, Debug, Default)]
pub struct Eta {
    /// What was shown last.
    shown: Option<Duration>,
    late: bool,
}

impl Eta {
    /// Takes a new estimate; returns what to show.
    pub fn update(&mut self, estimate: Option<Duration>) -> Option<Duration> {
        self.late = self
            .shown
            .is_some_and(|shown| estimate.is_none_or(|new| new > shown));
        if let Some(new) = estimate {
            self.shown = Some(self.shown.map_or(new, |shown| shown.min(new)));
        }
        self.shown
    }

    /// Whether the last estimate was worse than what is shown.
    pub fn is_late(&self) -> bool {
        self.late
    }
}

#[cfg(test)]
mod tests;
