//! What a migration would be like, from what was measured for some seconds, without moving anything.
//!
//! The rounds of a pre-copy are played through: each takes as long as its pages need on the link as
//! measured, and leaves what the guest was seen to write in so much time; the same [`Policy`] that decides
//! in earnest decides what comes next. So a forecast is wrong by as much as the guest or the link change,
//! and by nothing else that is known.

use std::time::Duration;

use godwit_proto::migrate::Mode;
use serde::{Serialize, Serializer};

use crate::options::Options;
use crate::policy::{Decision, MAX_ROUNDS, Policy, Reason, RoundFacts};
use crate::ports::PAGE_BYTES;

/// How many different pages a guest writes within some time: each page counts once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DirtyCurve {
    /// (time, pages within it), both rising.
    samples: Vec<(Duration, u64)>,
}

impl DirtyCurve {
    /// Notes that `pages` different pages were written within `time`. Samples that do not rise are left
    /// out.
    pub fn note(&mut self, time: Duration, pages: u64) {
        let (last, least) = self.samples.last().copied().unwrap_or_default();
        if time > last && pages >= least {
            self.samples.push((time, pages));
        }
    }

    /// Pages written within `time`: between samples in proportion, beyond the last at the rate at which
    /// new ones were still added at the end, to at most `all` pages.
    #[must_use]
    pub fn within(&self, time: Duration, all: u64) -> u64 {
        let mut before = (Duration::ZERO, 0);
        let mut rate = 0.0;
        for &sample in &self.samples {
            let seconds = (sample.0 - before.0).as_secs_f64();
            rate = (sample.1 - before.1) as f64 / seconds.max(1e-9);
            if time <= sample.0 {
                break;
            }
            before = sample;
        }
        let beyond = time.saturating_sub(before.0).as_secs_f64();
        let pages = before.1 as f64 + rate * beyond;
        (pages as u64).min(all)
    }

    /// Different pages a second over all the time that was watched.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let (time, pages) = self.samples.last().copied().unwrap_or_default();
        pages as f64 / time.as_secs_f64().max(1e-9)
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Pages of the guest that are not zero.
    pub content_pages: u64,
    /// Of those, how many a second the source can encode and the link takes.
    pub page_rate: f64,
    /// Bytes on the wire for each.
    pub page_wire_bytes: f64,
    /// What the guest writes.
    pub dirty: DirtyCurve,
    /// What a switch costs besides pages.
    pub switch_cost: Duration,
}

/// How a migration would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The guest switches with its memory.
    Switch,
    /// The guest switches, and memory follows it.
    PostCopy,
    /// The time runs out, and it stays where it is.
    TimeUp,
}

/// What a migration would be like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// As asked for: `pre-copy`, `post-copy`, `hybrid`, `local`.
    pub mode: &'static str,
    /// How it would end.
    pub ending: Ending,
    /// Whether pre-copy converges without post-copy and without a slowed guest.
    pub converges: bool,
    /// Until all memory is at the target, or the time is up.
    #[serde(rename = "total_ms", serialize_with = "as_ms")]
    pub total: Duration,
    /// How long the guest would stand still.
    #[serde(rename = "blackout_ms", serialize_with = "as_ms")]
    pub blackout: Duration,
    /// Rounds of copying before it switches.
    pub rounds: u32,
    /// Bytes on the wire in all.
    pub wire_bytes: u64,
    /// The highest throttle, percent.
    pub throttle_percent: u8,
    /// Measured: bytes a second on the wire.
    pub link_rate: f64,
    /// Measured: different pages a second that the guest writes.
    pub dirty_rate: f64,
    /// Measured: pages that are not zero.
    pub content_pages: u64,
    /// Measured: bytes on the wire of a page that is not zero.
    pub page_wire_bytes: f64,
}

fn as_ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}

impl Forecast {
    /// Plays a migration with `options` through.
    #[must_use]
    pub fn of(measured: &Measured, options: &Options) -> Self {
        let play = Play {
            measured,
            options,
            policy: Policy::new(options),
            elapsed: Duration::ZERO,
            sent_pages: 0,
            throttle: 0,
            throttle_max: 0,
            troubled: false,
            rounds: 0,
        };
        match options.mode {
            Mode::PreCopy | Mode::Hybrid => play.rounds(),
            Mode::PostCopy => play.follow(),
            Mode::Local => play.end(Ending::Switch, 0),
        }
    }
}

struct Play<'a> {
    measured: &'a Measured,
    options: &'a Options,
    policy: Policy,
    elapsed: Duration,
    sent_pages: u64,
    throttle: u8,
    throttle_max: u8,
    troubled: bool,
    rounds: u32,
}

impl Play<'_> {
    fn rounds(mut self) -> Forecast {
        let mut pages = self.measured.content_pages;
        loop {
            let duration = self.time_of(pages);
            let running = duration.mul_f64(f64::from(100 - self.throttle.min(100)) / 100.0);
            let dirty = self
                .measured
                .dirty
                .within(running, self.measured.content_pages.max(1));
            self.rounds += 1;
            self.elapsed += duration;
            self.sent_pages += pages;
            let choice = self.policy.choose(&RoundFacts {
                round: self.rounds,
                pages,
                content_pages: pages,
                wire_bytes: self.wire_bytes(pages),
                duration,
                dirty_pages: dirty,
                switch_cost: self.measured.switch_cost,
                elapsed: self.elapsed,
            });
            self.troubled |= choice.reason == Reason::Throttled;
            match choice.decision {
                Decision::Continue(throttle) if self.rounds < MAX_ROUNDS => {
                    self.throttle = throttle;
                    self.throttle_max = self.throttle_max.max(throttle);
                    pages = dirty;
                }
                Decision::Continue(_) | Decision::GiveUp => return self.end(Ending::TimeUp, 0),
                Decision::Switch => return self.end(Ending::Switch, dirty),
                Decision::PostCopy => {
                    let left = self.time_of(dirty);
                    self.sent_pages += dirty;
                    self.elapsed += left;
                    return self.end(Ending::PostCopy, 0);
                }
            }
        }
    }

    /// All memory follows the guest.
    fn follow(mut self) -> Forecast {
        let pages = self.measured.content_pages;
        self.elapsed += self.time_of(pages);
        self.sent_pages += pages;
        self.end(Ending::PostCopy, 0)
    }

    fn end(mut self, ending: Ending, last_pages: u64) -> Forecast {
        let last = self.time_of(last_pages);
        self.sent_pages += last_pages;
        let blackout = match ending {
            Ending::TimeUp => Duration::ZERO,
            Ending::Switch | Ending::PostCopy => self.measured.switch_cost + last,
        };
        Forecast {
            mode: match self.options.mode {
                Mode::PreCopy => "pre-copy",
                Mode::PostCopy => "post-copy",
                Mode::Hybrid => "hybrid",
                Mode::Local => "local",
            },
            ending,
            converges: ending == Ending::Switch && !self.troubled,
            total: self.elapsed + blackout,
            blackout,
            rounds: self.rounds,
            wire_bytes: self.wire_bytes(self.sent_pages),
            throttle_percent: self.throttle_max,
            link_rate: self.measured.page_rate * self.measured.page_wire_bytes,
            dirty_rate: self.measured.dirty.rate(),
            content_pages: self.measured.content_pages,
            page_wire_bytes: self.measured.page_wire_bytes,
        }
    }

    fn time_of(&self, pages: u64) -> Duration {
        let seconds = pages as f64 / self.measured.page_rate.max(1.0);
        Duration::from_secs_f64(seconds.min(1e9))
    }

    fn wire_bytes(&self, pages: u64) -> u64 {
        (pages as f64 * self.measured.page_wire_bytes.min(2.0 * PAGE_BYTES as f64)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 GiB of content at 125 MB/s, 4 KiB a page; the guest writes `rate` pages a second of `hot`.
    fn measured(rate: u64, hot: u64) -> Measured {
        let mut dirty = DirtyCurve::default();
        for tenth in 1..=30 {
            dirty.note(
                Duration::from_millis(tenth * 100),
                (rate * tenth / 10).min(hot),
            );
        }
        Measured {
            content_pages: 262_144,
            page_rate: 125e6 / 4096.0,
            page_wire_bytes: 4096.0,
            dirty,
            switch_cost: Duration::from_millis(4),
        }
    }

    fn with(mode: Mode) -> Options {
        Options {
            mode,
            ..Options::default()
        }
    }

    #[test]
    fn a_calm_guest_is_sent_once_and_switches_in_the_fixed_cost() {
        let forecast = Forecast::of(&measured(0, 0), &with(Mode::Hybrid));
        assert_eq!(forecast.ending, Ending::Switch);
        assert!(forecast.converges);
        assert_eq!(forecast.rounds, 1);
        assert_eq!(forecast.blackout, Duration::from_millis(4));
        let total = forecast.total.as_secs_f64();
        assert!((8.5..8.7).contains(&total), "{total}");
    }

    #[test]
    fn a_guest_that_writes_faster_than_the_link_takes_never_converges_by_itself() {
        let busy = measured(100_000, 262_144);
        let hybrid = Forecast::of(&busy, &with(Mode::Hybrid));
        assert_eq!(hybrid.ending, Ending::PostCopy);
        assert!(!hybrid.converges);
        assert_eq!(hybrid.blackout, Duration::from_millis(4));
        let pre_copy = Forecast::of(&busy, &with(Mode::PreCopy));
        assert!(!pre_copy.converges);
        assert!(pre_copy.throttle_percent >= 20);
    }

    #[test]
    fn a_small_working_set_switches_within_the_limit_however_often_it_is_written() {
        let forecast = Forecast::of(&measured(1_000_000, 2_000), &with(Mode::PreCopy));
        assert_eq!(forecast.ending, Ending::Switch);
        assert!(forecast.converges);
        assert!(
            forecast.blackout <= Duration::from_millis(300),
            "{forecast:?}"
        );
    }

    #[test]
    fn post_copy_pays_the_fixed_cost_and_one_pass() {
        let forecast = Forecast::of(&measured(100_000, 262_144), &with(Mode::PostCopy));
        assert_eq!((forecast.rounds, forecast.ending), (0, Ending::PostCopy));
        assert_eq!(forecast.wire_bytes, 1 << 30);
    }

    #[test]
    fn absurd_measurements_give_a_forecast_all_the_same() {
        let mut absurd = measured(0, 0);
        absurd.page_rate = 0.0;
        absurd.page_wire_bytes = f64::INFINITY;
        for mode in [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid, Mode::Local] {
            let forecast = Forecast::of(&absurd, &with(mode));
            assert!(forecast.rounds <= MAX_ROUNDS);
        }
    }

    #[test]
    fn the_curve_goes_on_as_it_ended_and_never_past_all_pages() {
        let mut curve = DirtyCurve::default();
        curve.note(Duration::from_secs(1), 100);
        curve.note(Duration::from_secs(1), 200);
        curve.note(Duration::from_secs(2), 120);
        assert_eq!(curve.within(Duration::from_millis(500), 1000), 50);
        assert_eq!(curve.within(Duration::from_millis(1500), 1000), 110);
        assert_eq!(curve.within(Duration::from_secs(4), 1000), 160);
        assert_eq!(curve.within(Duration::from_secs(400), 1000), 1000);
        assert_eq!(DirtyCurve::default().within(Duration::MAX, 7), 0);
    }
}
