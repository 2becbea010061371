//! So many operations per second.

/// Most seconds of work that are made up for after a standstill; a guest that
/// was moved must not come back with a burst.
const CATCH_UP_NS: u64 = 20_000_000;
const SECOND: u128 = 1_000_000_000;

/// Counts operations against the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    per_second: u64,
    since: u64,
    done: u64,
}

impl Rate {
    /// 0 means as many as possible.
    pub(crate) fn new(per_second: u64) -> Self {
        Self {
            per_second,
            since: 0,
            done: 0,
        }
    }

    pub(crate) fn start(&mut self, now: u64) {
        self.since = now;
        self.done = 0;
    }

    /// Operations owed at `now` (ns).
    pub(crate) fn due(&mut self, now: u64) -> u64 {
        if self.per_second == 0 {
            return u64::MAX;
        }
        let owed = self.total(now).saturating_sub(self.done);
        // One operation at least, however slow the rate is.
        let most = (u128::from(self.per_second) * u128::from(CATCH_UP_NS) / SECOND).max(1) as u64;
        if owed > most {
            self.done += owed - most;
            return most;
        }
        owed
    }

    /// `count` of them were done.
    pub(crate) fn done(&mut self, count: u64) {
        self.done += count;
    }

    /// When the next is due; `None` for at once.
    pub(crate) fn next(&self, now: u64) -> Option<u64> {
        if self.per_second == 0 || self.total(now) > self.done {
            return None;
        }
        let ns = (u128::from(self.done) + 1) * SECOND / u128::from(self.per_second);
        Some(self.since + ns as u64 + 1)
    }

    fn total(&self, now: u64) -> u64 {
        let elapsed = now.saturating_sub(self.since);
        (u128::from(elapsed) * u128::from(self.per_second) / SECOND) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_comes_due_at_its_rate() {
        let mut rate = Rate::new(1_000);
        rate.start(5_000_000_000);
        let mut done = 0;
        let mut now = 5_000_000_000;
        while now < 6_000_000_000 {
            let due = rate.due(now);
            rate.done(due);
            done += due;
            now = rate
                .next(now)
                .expect("nothing is owed right after it was done");
        }
        assert_eq!(done, 999);
    }

    #[test]
    fn no_rate_means_always_due() {
        let mut rate = Rate::new(0);
        rate.start(0);
        assert_eq!(rate.due(1), u64::MAX);
        assert_eq!(rate.next(1), None);
    }

    #[test]
    fn a_standstill_is_not_made_up_for() {
        let mut rate = Rate::new(10_000);
        rate.start(0);
        assert_eq!(rate.due(10_000_000_000), 200);
        rate.done(200);
        assert_eq!(rate.due(10_000_000_000), 0);
    }

    #[test]
    fn a_slow_rate_still_does_something() {
        let mut rate = Rate::new(1);
        rate.start(0);
        assert_eq!(rate.due(999_999_999), 0);
        assert_eq!(rate.next(0), Some(1_000_000_001));
        assert_eq!(rate.due(1_000_000_001), 1);
    }
}
