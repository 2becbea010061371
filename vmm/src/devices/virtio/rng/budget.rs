//! How many bytes a guest may draw now.

use std::time::{Duration, Instant};

/// Bytes per second over time.
pub(super) const RATE: u64 = 16 << 20;
/// Bytes that may be drawn at once after a pause.
pub(super) const BURST: u64 = 1 << 20;
/// Less than this is not granted to who wants more, so that a greedy driver is served in whole pieces.
const PIECE: u64 = 64 << 10;

/// A token bucket, one token per byte. Time is an argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: u64,
    filled: Instant,
}

impl Budget {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bytes: BURST,
            filled: now,
        }
    }

    /// Takes up to `wanted` bytes.
    ///
    /// # Errors
    /// How long to wait when there are too few: until there are 64 KiB.
    pub(super) fn draw(&mut self, wanted: u64, now: Instant) -> Result<u64, Duration> {
        let elapsed = now.saturating_duration_since(self.filled);
        let due = elapsed.as_nanos() * u128::from(RATE) / 1_000_000_000;
        if due > 0 {
            self.bytes = self
                .bytes
                .saturating_add(u64::try_from(due).unwrap_or(u64::MAX))
                .min(BURST);
            self.filled = now;
        }
        if self.bytes < wanted.min(PIECE) {
            let missing = PIECE - self.bytes;
            // Rounded up, or the wait could be nothing.
            return Err(Duration::from_nanos(missing * 1_000_000_000 / RATE + 1));
        }
        let granted = wanted.min(self.bytes);
        self.bytes -= granted;
        Ok(granted)
    }

    /// Gives back what was drawn and not used.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_guest_gets_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut drawn = 0;
        let mut now = start;
        while now < start + Duration::from_secs(2) {
            match budget.draw(PIECE, now) {
                Ok(bytes) => drawn += bytes,
                Err(wait) => now += wait,
            }
        }
        let fair = BURST + 2 * RATE;
        assert!(drawn <= fair + PIECE && drawn >= fair - PIECE, "{drawn}");
    }

    #[test]
    fn a_patient_guest_never_gets_more_than_the_burst_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let later = start + Duration::from_secs(1 << 40);
        assert_eq!(budget.draw(u64::MAX, later), Ok(BURST));
        assert!(budget.draw(1, later).is_err());
        assert_eq!(budget.draw(0, later), Ok(0));
        budget.give_back(1);
        assert_eq!(budget.draw(1, later), Ok(1));
        budget.give_back(u64::MAX);
        assert_eq!(budget.draw(u64::MAX, later), Ok(BURST));
    }
}
