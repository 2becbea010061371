//! The bandwidth cap: a token bucket whose holders may go into debt and then wait it off.
//!
//! [`Bucket`] is pure. [`Cap`] is what the bulk streams of a link share; faults and control are
//! booked but never wait, so bulk makes room for them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of a second may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(10);
/// The least burst: one write of bulk data must fit even at a low rate.
const MIN_BURST_BYTES: f64 = 16.0 * 1024.0;
/// The largest single write of a capped stream, in bytes.
const MAX_PIECE_BYTES: usize = 256 * 1024;
/// The lowest rate, in bytes per second: a wait for one piece stays bounded.
pub const MIN_RATE: u64 = 16 * 1024;

/// A token bucket: `rate` bytes per second, and at most [`Bucket::burst_bytes`] after a pause.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    /// Bytes that may be sent now; below zero what was sent in advance.
    credit: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket. A `rate` (bytes per second) below [`MIN_RATE`] counts as that.
    #[must_use]
    pub fn new(now: Instant, rate: u64) -> Self {
        let rate = rate.max(MIN_RATE) as f64;
        let mut bucket = Self {
            rate,
            credit: 0.0,
            at: now,
        };
        bucket.credit = bucket.burst_bytes();
        bucket
    }

    /// The most bytes that pass at once after a pause: 10 ms of the rate, at least 16 KiB.
    #[must_use]
    pub fn burst_bytes(&self) -> f64 {
        (self.rate * BURST.as_secs_f64()).max(MIN_BURST_BYTES)
    }

    /// The largest piece to ask for at once: a burst, at most 256 KiB.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        (self.burst_bytes() as usize).min(MAX_PIECE_BYTES)
    }

    /// Books `bytes` and returns how long to wait before they may be sent.
    pub fn book(&mut self, now: Instant, bytes: usize) -> Duration {
        self.refill(now);
        self.credit -= bytes as f64;
        Duration::from_secs_f64((-self.credit / self.rate).max(0.0))
    }

    /// Changes the rate from `now` on; a debt is kept and paid at the new rate.
    pub fn set_rate(&mut self, now: Instant, rate: u64) {
        self.refill(now);
        self.rate = rate.max(MIN_RATE) as f64;
        self.credit = self.credit.min(self.burst_bytes());
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.credit = (self.credit + earned).min(self.burst_bytes());
        self.at = now.max(self.at);
    }
}

/// The cap that the bulk streams of a link share.
#[derive(Debug, Default)]
pub(super) struct Cap(Mutex<Option<Bucket>>);

impl Cap {
    pub(super) fn new(rate: Option<u64>) -> Self {
        let cap = Self::default();
        cap.set(rate);
        cap
    }

    /// Sets the rate in bytes per second; `None`: no cap.
    pub(super) fn set(&self, rate: Option<u64>) {
        let now = Instant::now();
        self.with(|slot| match (slot.as_mut(), rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(now, rate),
            (None, Some(rate)) => *slot = Some(Bucket::new(now, rate)),
            (_, None) => *slot = None,
        });
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.with(|slot| slot.is_some())
    }

    /// Bytes to write at once.
    pub(super) fn piece_bytes(&self) -> usize {
        self.with(|slot| slot.as_ref().map_or(MAX_PIECE_BYTES, Bucket::piece_bytes))
    }

    /// Books bytes that must not wait.
    pub(super) fn book(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        self.with(|slot| slot.as_mut().map_or(Duration::ZERO, |b| b.book(now, bytes)))
    }

    /// Books bytes and waits until they may be sent.
    pub(super) async fn spend(&self, bytes: usize) {
        let wait = self.book(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut Option<Bucket>) -> T) -> T {
        // A bucket is whole after every step, so another holder's panic does not matter.
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sender_that_waits_as_told_keeps_the_rate() {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = Bucket::new(now, 1_000_000);
        for _ in 0..1000 {
            now += bucket.book(now, 10_000);
        }
        let took = (now - start).as_secs_f64();
        // 10 MB at 1 MB/s, less the burst of 16 KiB that was there at the beginning.
        assert!((took - (10.0 - 0.016_384)).abs() < 1e-3, "{took}");
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(now, 100_000_000);
        now += Duration::from_secs(3600);
        assert_eq!(bucket.book(now, 1_000_000), Duration::ZERO);
        assert_eq!(bucket.book(now, 1_000_000), Duration::from_millis(10));
    }

    #[test]
    fn a_new_rate_pays_the_old_debt() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now, 1_000_000);
        bucket.book(now, 16_384 + 1_000_000);
        bucket.set_rate(now, 10_000_000);
        let wait = bucket.book(now, 0);
        assert_eq!(wait, Duration::from_millis(100));
        bucket.set_rate(now, 0);
        let wait = bucket.book(now, 0);
        assert_eq!(wait.as_secs(), 1_000_000 / MIN_RATE);
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(now, 1_000_000);
        bucket.book(now, 16_384 + 5_000);
        let earlier = now - Duration::from_secs(5);
        assert_eq!(bucket.book(earlier, 0), Duration::from_millis(5));
        assert_eq!(bucket.book(now, 0), Duration::from_millis(5));
    }

    proptest! {
        #[test]
        fn no_interval_passes_more_than_rate_and_burst(
            rate in 20_000u64..10_000_000_000,
            steps in prop::collection::vec((0usize..300_000, 0u64..50_000), 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(now, rate);
            let mut sent = 0.0;
            for (bytes, idle_us) in steps {
                now += Duration::from_micros(idle_us);
                now += bucket.book(now, bytes);
                sent += bytes as f64;
                let allowed = (now - start).as_secs_f64() * rate as f64 + bucket.burst_bytes();
                // The wait is rounded to nanoseconds: a few bytes at the highest rate, each step.
                prop_assert!(sent <= allowed + 4096.0, "{sent} > {allowed}");
            }
        }
    }
}
