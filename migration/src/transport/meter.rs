//! Throughput as measured: a mean that forgets. Pure: the time and the total are given.

use std::time::{Duration, Instant};

/// A rate in bytes per second out of a total that grows, weighed by age.
///
/// The weight of a measurement falls to 1/e after `memory`, however often it is looked at.
#[derive(Clone, Debug)]
pub struct Meter {
    memory: Duration,
    at: Instant,
    total: u64,
    rate: Option<f64>,
}

impl Meter {
    /// A meter that starts now, with the total at `total` bytes.
    #[must_use]
    pub const fn new(now: Instant, memory: Duration, total: u64) -> Self {
        Self {
            memory,
            at: now,
            total,
            rate: None,
        }
    }

    /// Takes the total as it is now. A total that fell counts as unchanged.
    pub fn observe(&mut self, now: Instant, total: u64) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        let current = total.saturating_sub(self.total) as f64 / elapsed;
        let kept = (-elapsed / self.memory.as_secs_f64()).exp();
        self.rate = Some(
            self.rate
                .map_or(current, |rate| rate * kept + current * (1.0 - kept)),
        );
        self.at = now;
        self.total = total;
    }

    /// Bytes per second; `None` before the first interval.
    #[must_use]
    pub const fn bytes_per_second(&self) -> Option<f64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(1);

    #[test]
    fn a_steady_rate_is_told_exactly_however_often_it_is_looked_at() {
        for interval_ms in [1, 10, 700] {
            let mut now = Instant::now();
            let mut meter = Meter::new(now, MEMORY, 100);
            assert_eq!(meter.bytes_per_second(), None);
            for look in 1..=20 {
                now += Duration::from_millis(interval_ms);
                meter.observe(now, 100 + look * interval_ms * 1000);
            }
            let rate = meter.bytes_per_second().unwrap();
            assert!((rate - 1e6).abs() < 1.0, "{rate}");
        }
    }

    #[test]
    fn a_change_weighs_by_its_age_alone() {
        for looks in [1, 10, 100] {
            let mut now = Instant::now();
            let mut meter = Meter::new(now, MEMORY, 0);
            now += MEMORY;
            meter.observe(now, 1_000_000);
            for _ in 0..looks {
                now += MEMORY / looks;
                meter.observe(now, 1_000_000);
            }
            let rate = meter.bytes_per_second().unwrap();
            assert!((rate - 1e6 * (-1f64).exp()).abs() < 10.0, "{rate}");
        }
    }

    #[test]
    fn two_looks_at_one_instant_are_one() {
        let now = Instant::now();
        let mut meter = Meter::new(now, MEMORY, 0);
        meter.observe(now, 1 << 40);
        assert_eq!(meter.bytes_per_second(), None);
    }
}
