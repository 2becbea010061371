//! Measuring for a forecast: samples of memory go to the target while the log tells what the guest writes,
//! and then it is over. The guest is never paused, slowed or given up.
//!
//! ```text
//! starting the log -> samples, all memory armed before the first -> watching -> dirty pages again -> over
//!                     meanwhile, some times a second: the log is read
//! ```
//!
//! For the target this is a migration that is aborted after some rounds (MIG-80). Samples are spread over
//! memory and get larger as the link allows; pages that were never touched are left out. Memory is armed
//! once, so that it is known how many different pages were written by any time. At the end, pages that were
//! sent and are dirty are sent again, which tells what later rounds cost: as differences they may take a
//! small part of what they took at first.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{FromSource, FromTarget};

use super::api::{Command, Event, RoundKind, RoundSent};
use super::core::Core;
use super::machine::Phase;
use crate::PageSet;
use crate::forecast::{DirtyCurve, Forecast, Measured, Sample};
use crate::report::Phase as Shown;

/// Pages that are taken from one place: as many as a compressed block has at most.
const PIECE_PAGES: u64 = 64;
/// Pages of the first sample, and of any at least: 1 MiB.
const LEAST_PAGES: u64 = 256;
/// A sample is at most so many times as large as the one before.
const GROWTH: u64 = 4;
/// So many samples are sent while the guest is watched, unless all memory is sent before.
const SAMPLES: u32 = 12;
/// The first look at the log; each further one comes when half as much time again has passed.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// What a forecast may take beyond three times what it was to take.
const GRACE: Duration = Duration::from_secs(10);

/// A guest whose move is forecast.
#[derive(Debug)]
pub(super) struct Survey {
    /// How long the guest is watched.
    watch: Duration,
    began: Duration,
    sending: Sending,
    round: u32,
    places: Places,
    sampled: PageSet,
    samples: Vec<Sample>,
    again: Option<Sample>,
    /// What was written since all memory was armed.
    dirty: PageSet,
    curve: DirtyCurve,
    /// When the log is read next; `None` while it is being read.
    look: Option<Duration>,
    /// When the look under way was ordered.
    looked: Duration,
}

#[derive(Debug)]
enum Sending {
    /// The log is not started yet.
    NotYet,
    Sample(Sent),
    /// Dirty pages, for the second time.
    Again(Sent),
    /// Nothing is sent until the time is over, or any more.
    Done,
}

/// A round that is under way.
#[derive(Debug)]
struct Sent {
    pages: u64,
    began: Duration,
    /// What of it went out, and when; `None` before it has.
    sent: Option<(RoundSent, Duration)>,
}

impl Survey {
    /// Starts the log of a guest that the target has accepted.
    pub(super) fn begin(watch: Duration, core: &mut Core) -> Phase {
        core.dirty_log = true;
        core.out.push(Command::StartDirtyLog);
        core.shown(Shown::Forecasting, core.now);
        let pages = core.offer.pages;
        Phase::Surveying(Box::new(Self {
            watch,
            began: core.now,
            sending: Sending::NotYet,
            round: 0,
            places: Places::of(pages),
            sampled: PageSet::empty(pages),
            samples: Vec::new(),
            again: None,
            dirty: PageSet::empty(pages),
            curve: DirtyCurve::default(),
            look: None,
            looked: core.now,
        }))
    }

    pub(super) fn deadline(&self) -> Duration {
        let look = self.look.unwrap_or(Duration::MAX);
        look.min(self.latest_end())
    }

    fn end(&self) -> Duration {
        self.began + self.watch
    }

    /// By when it is over, however slow the link is.
    fn latest_end(&self) -> Duration {
        self.began + self.watch * 3 + GRACE
    }

    pub(super) fn handle(mut self: Box<Self>, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::DirtyLogStarted if matches!(self.sending, Sending::NotYet) => {
                self.began = core.now;
                self.look = Some(core.now + FIRST_LOOK);
                self.sample(core);
            }
            Event::RoundSent(sent) if sent.round == self.round => {
                if let Sending::Sample(round) | Sending::Again(round) = &mut self.sending {
                    core.sending = false;
                    core.round_sent(&sent);
                    round.sent = Some((sent, core.now));
                }
            }
            Event::Control(FromTarget::RoundAck { round }) if round == self.round => {
                if let Err(found) = self.acknowledged(core) {
                    return core.protocol(found);
                }
            }
            Event::Control(_) => {
                return core.protocol("a message that does not belong into a forecast");
            }
            Event::Dirty(dirty) if dirty.capacity() != core.offer.pages => {
                return core.protocol("a dirty log of another guest");
            }
            Event::Dirty(dirty) => self.saw(&dirty, core.now),
            Event::Tick if core.now >= self.latest_end() => return self.over(core),
            Event::Tick => self.look_again(core),
            _ => {}
        }
        self.go_on(core)
    }

    /// What comes next, once the time is over or all memory was sent.
    fn go_on(mut self: Box<Self>, core: &mut Core) -> Phase {
        // The last look comes after the end.
        let watched = self.look.is_some() && self.looked >= self.end();
        if !matches!(self.sending, Sending::Done) || !watched {
            return Phase::Surveying(self);
        }
        if self.again.is_none() && self.send_again(core) {
            return Phase::Surveying(self);
        }
        self.over(core)
    }

    fn look_again(&mut self, core: &mut Core) {
        if self.look.is_some_and(|due| core.now >= due) {
            self.look = None;
            self.looked = core.now;
            core.out.push(Command::CollectDirty);
        }
    }

    fn saw(&mut self, dirty: &PageSet, now: Duration) {
        self.dirty.union(dirty);
        let since = self.looked - self.began;
        self.curve.note(since, self.dirty.count());
        let next = self.began + since + (since / 2).max(FIRST_LOOK);
        let last = match self.looked < self.end() {
            true => self.end(),
            // There is no further one.
            false => self.latest_end(),
        };
        self.look = Some(next.min(last).max(now));
    }

    /// Sends the next sample, while there is time and memory left.
    fn sample(&mut self, core: &mut Core) {
        let all = core.offer.pages;
        let mut pages = PageSet::empty(all);
        let mut room = self.sample_pages();
        while room > 0 && core.now < self.end() {
            let Some((first, count)) = self.places.next() else {
                break;
            };
            pages.insert_run(first, count);
            room = room.saturating_sub(count);
        }
        if pages.is_empty() {
            self.sending = Sending::Done;
            return;
        }
        self.sampled.union(&pages);
        let kind = match self.round {
            0 => RoundKind::FirstSample,
            _ => RoundKind::Sample,
        };
        self.sending = Sending::Sample(self.send(pages, kind, core));
    }

    /// Pages of the next sample: as many as its part of the time carries if none of them is zero.
    fn sample_pages(&self) -> u64 {
        let Some(last) = self.samples.last() else {
            return LEAST_PAGES;
        };
        let seconds = (self.watch / SAMPLES).as_secs_f64();
        let carried = match last.content_pages {
            0 => u64::MAX,
            content => (content as f64 / last.duration.as_secs_f64().max(1e-6) * seconds) as u64,
        };
        carried.min(last.pages * GROWTH).max(LEAST_PAGES)
    }

    fn send(&mut self, pages: PageSet, kind: RoundKind, core: &mut Core) -> Sent {
        self.round += 1;
        let (round, count) = (self.round, pages.count());
        core.progress.round = round;
        core.progress.remaining_pages = count;
        core.sending = true;
        core.send(FromSource::RoundBegin {
            round,
            pages: count,
        });
        core.out.push(Command::SendRound { round, pages, kind });
        Sent {
            pages: count,
            began: core.now,
            sent: None,
        }
    }

    /// The round is over: what it measured.
    ///
    /// # Errors
    /// What the target sent, when nothing was out that could be acknowledged.
    fn acknowledged(&mut self, core: &mut Core) -> Result<(), &'static str> {
        const EARLY: &str = "an acknowledgement before its round was sent";
        let again = matches!(self.sending, Sending::Again(_));
        let (Sending::Sample(round) | Sending::Again(round)) = &mut self.sending else {
            return Err(EARLY);
        };
        let (sent, at) = round.sent.take().ok_or(EARLY)?;
        let way = core.now - at;
        core.round_trip = core.round_trip.min(way);
        let sample = Sample {
            pages: round.pages,
            content_pages: sent.content_pages,
            wire_bytes: sent.bytes.total(),
            duration: core.now - round.began,
        };
        if again {
            self.again = Some(sample);
            self.sending = Sending::Done;
        } else {
            self.samples.push(sample);
            self.sample(core);
        }
        Ok(())
    }

    /// Sends some pages that are dirty and were sent before; `false` when there are none.
    fn send_again(&mut self, core: &mut Core) -> bool {
        let mut room = self.sample_pages();
        let mut known = self.dirty.clone();
        known.intersect(&self.sampled);
        let mut pages = PageSet::empty(core.offer.pages);
        for (first, count) in known.runs() {
            let count = count.min(room);
            pages.insert_run(first, count);
            room -= count;
            if room == 0 {
                break;
            }
        }
        if pages.is_empty() {
            return false;
        }
        self.sending = Sending::Again(self.send(pages, RoundKind::Sample, core));
        true
    }

    /// Ends with the forecast in the books, and the guest where it is.
    fn over(self, core: &mut Core) -> Phase {
        let switch_cost = core.switch_cost();
        let round_trip = core.round_trip;
        let pages = core.offer.pages;
        let measured = Measured::from_samples(&self.samples, self.again, pages, round_trip);
        let Some(measured) = measured else {
            return core.timed_out("not one sample of memory got to the target in time");
        };
        let measured = Measured {
            dirty: self.curve,
            switch_cost,
            ..measured
        };
        core.forecast = Some(Forecast::of(&measured, &core.forecast_options()));
        core.stay(CodedError::new(
            ErrorCode::OnlyForecast,
            "this was a forecast; the guest was not to move",
        ))
    }
}

/// Pieces of memory in an order that spreads any number of them: steps by about the golden section.
#[derive(Debug)]
struct Places {
    pages: u64,
    pieces: u64,
    step: u64,
    at: u64,
    left: u64,
}

impl Places {
    fn of(pages: u64) -> Self {
        let pieces = pages.div_ceil(PIECE_PAGES);
        let mut step = ((pieces as f64 * 0.618) as u64).max(1);
        // All pieces come once when the step has no divisor in common with their number.
        while divisor(step, pieces) != 1 {
            step += 1;
        }
        Self {
            pages,
            pieces,
            step,
            at: 0,
            left: pieces,
        }
    }
}

impl Iterator for Places {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        self.left = self.left.checked_sub(1)?;
        let first = self.at * PIECE_PAGES;
        self.at = (self.at + self.step) % self.pieces;
        Some((first, PIECE_PAGES.min(self.pages - first)))
    }
}

fn divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_memory_once_whatever_its_size() {
        for pages in [1, 63, 64, 65, 1000, 4096, 64 * 997, 262_144] {
            let mut covered = PageSet::empty(pages);
            let mut total = 0;
            for (first, count) in Places::of(pages) {
                covered.insert_run(first, count);
                total += count;
            }
            assert_eq!((total, covered.count()), (pages, pages));
        }
    }

    #[test]
    fn any_number_of_pieces_is_spread_over_memory() {
        let places: Vec<_> = Places::of(64 * 1000).take(20).collect();
        for quarter in 0..4 {
            let within = places
                .iter()
                .filter(|(first, _)| first / (64 * 250) == quarter);
            assert!(within.count() >= 3, "{places:?}");
        }
    }
}
