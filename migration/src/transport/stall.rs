//! Noticing that a live peer makes no progress. Pure: the time and a counter are given.

use std::time::{Duration, Instant};

/// How many times the limit a wait may take although the counter of the link moves.
///
/// The counter counts all streams of a connection, so that a slow link with much buffered data is
/// not taken for a stall; without a bound, faults alone could keep a stuck bulk stream waiting for ever.
pub const PATIENCE: u32 = 10;

/// Watches one wait.
#[derive(Clone, Debug)]
pub struct StallDetector {
    limit: Duration,
    began: Instant,
    moved: Instant,
    counter: u64,
}

/// Nothing moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// For how long.
    pub waited: Duration,
}

impl StallDetector {
    /// A wait that begins now, with the counter at `counter`.
    #[must_use]
    pub const fn new(now: Instant, limit: Duration, counter: u64) -> Self {
        Self {
            limit,
            began: now,
            moved: now,
            counter,
        }
    }

    /// How often to look: a quarter of the limit.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.limit / 4
    }

    /// Takes the counter as it is now.
    ///
    /// # Errors
    /// It did not move for the limit, or the wait took [`PATIENCE`] times the limit.
    pub fn observe(&mut self, now: Instant, counter: u64) -> Result<(), Stall> {
        if counter != self.counter {
            self.counter = counter;
            self.moved = now;
        }
        let still = now.saturating_duration_since(self.moved);
        let waited = now.saturating_duration_since(self.began);
        if still >= self.limit {
            Err(Stall { waited: still })
        } else if waited >= self.limit * PATIENCE {
            Err(Stall { waited })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[test]
    fn a_counter_that_rests_for_the_limit_is_a_stall() {
        let start = Instant::now();
        let mut detector = StallDetector::new(start, LIMIT, 5);
        assert_eq!(detector.observe(start + LIMIT / 2, 6), Ok(()));
        assert_eq!(detector.observe(start + LIMIT, 6), Ok(()));
        let waited = LIMIT;
        assert_eq!(
            detector.observe(start + LIMIT / 2 + LIMIT, 6),
            Err(Stall { waited })
        );
    }

    #[test]
    fn a_wait_ends_although_the_counter_moves() {
        let start = Instant::now();
        let mut detector = StallDetector::new(start, LIMIT, 0);
        let mut now = start;
        let mut looks = 0;
        let stall = loop {
            now += detector.interval();
            looks += 1;
            if let Err(stall) = detector.observe(now, looks) {
                break stall;
            }
            assert!(looks < 1000, "no end");
        };
        assert_eq!(stall.waited, LIMIT * PATIENCE);
    }
}
