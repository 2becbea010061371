//! What a migration would be like, from what was measured for some seconds, without moving anything.
//!
//! [`Source::survey`](crate::source::Source::survey) measures. From [samples](Sample) of memory follows what a
//! page costs that is sent for the first time, and one that is sent again; from the [curve](DirtyCurve) of
//! what the guest writes, what a round of any length leaves. The rounds of a pre-copy are then played through,
//! and the same [`Policy`] that decides in earnest decides what comes next. So a forecast is wrong by as much
//! as the guest or the link change, as samples are not like the rest of memory, and as what a throttled guest
//! writes is not in proportion.

mod table;

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

/// A part of memory that was sent, and what that took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Its pages.
    pub pages: u64,
    /// Of those, pages that were not zero.
    pub content_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// From the first page until all were acknowledged.
    pub duration: Duration,
}

/// What pages with content cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageCost {
    /// How many a second the source can encode and the link takes.
    pub rate: f64,
    /// Bytes on the wire for each.
    pub wire_bytes: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Pages of the guest.
    pub pages: u64,
    /// Of those, pages that are not zero.
    pub content_pages: u64,
    /// What it takes to find that the others are.
    pub zero_time: Duration,
    /// What a page costs that is sent for the first time.
    pub first: PageCost,
    /// What it costs when it is sent again.
    pub again: PageCost,
    /// What the guest writes.
    pub dirty: DirtyCurve,
    /// Until a round that went out is acknowledged.
    pub round_trip: Duration,
    /// What a switch costs besides pages.
    pub switch_cost: Duration,
}

/// Fewer pages than this tell how small they get on the wire, but not how fast they go.
const TELLING_PAGES: u64 = 256;

impl Measured {
    /// What `samples` of a guest with `pages` pages tell, and one of pages that were sent before. Their
    /// times have the way of the acknowledgement in them. What the guest writes and what a switch costs
    /// is left open. `None` without any sample.
    #[must_use]
    pub fn from_samples(
        samples: &[Sample],
        again: Option<Sample>,
        pages: u64,
        round_trip: Duration,
    ) -> Option<Self> {
        let sampled: u64 = samples.iter().map(|sample| sample.pages).sum();
        let content: u64 = samples.iter().map(|sample| sample.content_pages).sum();
        if sampled == 0 {
            return None;
        }
        // The link warms up.
        let warm = &samples[usize::from(samples.len() > 3)..];
        let time = Times::of(warm, round_trip);
        let wire: u64 = samples.iter().map(|sample| sample.wire_bytes).sum();
        let first = PageCost {
            rate: 1.0 / time.content.max(1e-9),
            wire_bytes: match content {
                // None was seen; any that there is goes at worst as it is.
                0 => PAGE_BYTES as f64,
                content => wire as f64 / content as f64,
            },
        };
        let content_pages = (content as f64 / sampled as f64 * pages as f64) as u64;
        let zeros = pages.saturating_sub(content_pages);
        let again = again
            .filter(|again| again.content_pages > 0)
            .map_or(first, |again| {
                let count = again.content_pages as f64;
                let time = again.duration.saturating_sub(round_trip).as_secs_f64();
                PageCost {
                    rate: match again.content_pages {
                        TELLING_PAGES.. => count / time.max(1e-9),
                        _ => first.rate,
                    },
                    wire_bytes: again.wire_bytes as f64 / count,
                }
            });
        Some(Self {
            pages,
            content_pages,
            zero_time: seconds(time.zero * zeros as f64),
            first,
            again,
            dirty: DirtyCurve::default(),
            round_trip,
            switch_cost: Duration::ZERO,
        })
    }
}

/// Seconds for a page with content, and for one without.
struct Times {
    content: f64,
    zero: f64,
}

impl Times {
    /// The least squares over `samples`.
    fn of(samples: &[Sample], round_trip: Duration) -> Self {
        let (mut cc, mut cz, mut zz, mut ct, mut zt) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut contents, mut zeros, mut times) = (0.0, 0.0, 0.0);
        for sample in samples {
            let content = sample.content_pages as f64;
            let zero = sample.pages.saturating_sub(sample.content_pages) as f64;
            let time = sample.duration.saturating_sub(round_trip);
            let time = time.as_secs_f64();
            cc += content * content;
            cz += content * zero;
            zz += zero * zero;
            ct += content * time;
            zt += zero * time;
            contents += content;
            zeros += zero;
            times += time;
        }
        let determinant = cc * zz - cz * cz;
        // Samples that are all alike tell the two apart by chance only.
        if determinant > 0.01 * cc * zz {
            let content = (ct * zz - zt * cz) / determinant;
            let zero = (zt * cc - ct * cz) / determinant;
            if content > 0.0 && zero >= 0.0 {
                return Self { content, zero };
            }
        }
        // A zero page costs a small part of another: all that is there is put down to those.
        if contents > 0.0 {
            return Self {
                content: times / contents,
                zero: 0.0,
            };
        }
        let each = times / f64::max(zeros, 1.0);
        Self {
            content: each,
            zero: each,
        }
    }
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
    /// Measured: that of one that is sent again.
    pub again_wire_bytes: f64,
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
            wire_bytes: 0,
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
    wire_bytes: u64,
    throttle: u8,
    throttle_max: u8,
    troubled: bool,
    rounds: u32,
}

impl Play<'_> {
    fn rounds(mut self) -> Forecast {
        let measured = self.measured;
        let mut pages = measured.content_pages;
        let mut cost = measured.first;
        let mut besides = measured.zero_time;
        loop {
            let duration = besides + time_of(pages, cost) + measured.round_trip;
            let running = duration.mul_f64(f64::from(100 - self.throttle.min(100)) / 100.0);
            let dirty = measured.dirty.within(running, measured.pages);
            self.rounds += 1;
            self.elapsed += duration;
            self.sent(pages, cost);
            let choice = self.policy.choose(&RoundFacts {
                round: self.rounds,
                pages,
                content_pages: pages,
                wire_bytes: wire_bytes(pages, cost),
                duration,
                dirty_pages: dirty,
                switch_cost: measured.switch_cost,
                elapsed: self.elapsed,
            });
            self.troubled |= choice.reason == Reason::Throttled;
            match choice.decision {
                Decision::Continue(throttle) if self.rounds < MAX_ROUNDS => {
                    self.throttle = throttle;
                    self.throttle_max = self.throttle_max.max(throttle);
                    (pages, cost) = (dirty, measured.again);
                    besides = Duration::ZERO;
                }
                Decision::Continue(_) | Decision::GiveUp => return self.end(Ending::TimeUp, 0),
                Decision::Switch => return self.end(Ending::Switch, dirty),
                Decision::PostCopy => {
                    self.elapsed += time_of(dirty, measured.first);
                    self.sent(dirty, measured.first);
                    return self.end(Ending::PostCopy, 0);
                }
            }
        }
    }

    /// All memory follows the guest.
    fn follow(mut self) -> Forecast {
        let pages = self.measured.content_pages;
        self.elapsed += self.measured.zero_time + time_of(pages, self.measured.first);
        self.sent(pages, self.measured.first);
        self.end(Ending::PostCopy, 0)
    }

    fn end(mut self, ending: Ending, last_pages: u64) -> Forecast {
        let last = time_of(last_pages, self.measured.again);
        self.sent(last_pages, self.measured.again);
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
            wire_bytes: self.wire_bytes,
            throttle_percent: self.throttle_max,
            link_rate: self.measured.first.rate * self.measured.first.wire_bytes,
            dirty_rate: self.measured.dirty.rate(),
            content_pages: self.measured.content_pages,
            page_wire_bytes: self.measured.first.wire_bytes,
            again_wire_bytes: self.measured.again.wire_bytes,
        }
    }

    fn sent(&mut self, pages: u64, cost: PageCost) {
        self.wire_bytes = self.wire_bytes.saturating_add(wire_bytes(pages, cost));
    }
}

fn time_of(pages: u64, cost: PageCost) -> Duration {
    seconds(pages as f64 / cost.rate.max(1.0))
}

fn wire_bytes(pages: u64, cost: PageCost) -> u64 {
    (pages as f64 * cost.wire_bytes.min(2.0 * PAGE_BYTES as f64)) as u64
}

/// As a time, of 30 years at most.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

#[cfg(test)]
mod tests;
