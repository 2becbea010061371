//! How long to wait before something that failed is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

/// Waits twice as long after each failure. How often something failed comes from the state, so a new
/// leader knows it; since when it is waited does not, so a new leader waits from its election on.
#[derive(Clone, Debug)]
pub(super) struct Patience<K> {
    first: Duration,
    longest: Duration,
    waiting: BTreeMap<K, Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    failures: u32,
    until: Duration,
    /// Whether it was asked about since the last [`Patience::forget_others`].
    wanted: bool,
}

impl<K: Ord + Copy> Patience<K> {
    /// Waits `first` after the first failure, and never longer than `longest`.
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            waiting: BTreeMap::new(),
        }
    }

    /// Whether to try `key`, which failed so often.
    pub(super) fn is_due(&mut self, key: K, failures: u32, now: Duration) -> bool {
        let Some(doublings) = failures.checked_sub(1) else {
            return true;
        };
        let delay = match self.first.checked_mul(1 << doublings.min(16)) {
            Some(delay) => delay.min(self.longest),
            None => self.longest,
        };
        let until = now + delay;
        let fresh = Waiting {
            failures,
            until,
            wanted: true,
        };
        let waiting = self.waiting.entry(key).or_insert(fresh);
        if waiting.failures != failures {
            *waiting = fresh;
        }
        waiting.wanted = true;
        now >= waiting.until
    }

    /// Forgets what was not asked about since this was last called.
    pub(super) fn forget_others(&mut self) {
        self.waiting.retain(|_, waiting| waiting.wanted);
        for waiting in self.waiting.values_mut() {
            waiting.wanted = false;
        }
    }

    /// Whether something became due since it was last asked about.
    pub(super) fn is_any_due(&self, now: Duration) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|waiting| now >= waiting.until)
    }

    /// When something is due next, after `now`.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let waiting = self.waiting.values();
        let until = waiting.map(|waiting| waiting.until);
        until.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_longest() {
        let s = Duration::from_secs;
        let mut patience = Patience::new(s(1), s(10));
        assert!(patience.is_due(1, 0, s(0)), "it never failed");
        for (failures, wait) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (99, 10)] {
            let begin = s(u64::from(failures) * 1000);
            assert!(!patience.is_due(1, failures, begin));
            assert_eq!(patience.deadline(begin), Some(begin + s(wait)));
            assert!(!patience.is_due(1, failures, begin + s(wait - 1)));
            assert!(patience.is_due(1, failures, begin + s(wait)));
        }
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten() {
        let s = Duration::from_secs;
        let mut patience = Patience::new(s(1), s(10));
        patience.is_due(1, 1, s(0));
        patience.forget_others();
        assert!(patience.deadline(s(0)).is_some());
        patience.forget_others();
        assert_eq!(patience.deadline(s(0)), None);
    }
}
