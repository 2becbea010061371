//! How far clocks may be apart, and what follows for those who count on them.

use std::time::Duration;

const MILLION: u128 = 1_000_000;

/// How much faster or slower than real time a monotonic clock may run, and how long anything may
/// take that is assumed to take no time.
///
/// Clocks are `CLOCK_BOOTTIME` or their like: they count on while a machine sleeps. Nothing here
/// compares the clocks of two machines; only lengths of time are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClockBound {
    /// The largest deviation of a clock's rate, in millionths.
    pub drift_ppm: u32,
    /// What is waited beyond the end of a lease: from a deadline to the moment at which a guest's
    /// vCPUs stand still.
    pub margin: Duration,
}

impl ClockBound {
    /// A thousandth: quartz is ten times better, and NTP slews by half of it at most. The margin is
    /// that of a busy host.
    pub const DEFAULT: Self = Self {
        drift_ppm: 1_000,
        margin: Duration::from_millis(200),
    };

    /// How long a holder may count, by its own clock, on what was granted for `length` by another
    /// one: at most as long in real time as the other one counts, however far both are off.
    #[must_use]
    pub fn hold(&self, length: Duration) -> Duration {
        let (slow, fast) = self.rates();
        scale(length, slow, fast)
    }

    /// How long to wait, by one's own clock, until `length` has passed by every clock.
    #[must_use]
    pub fn outlast(&self, length: Duration) -> Duration {
        let (slow, fast) = self.rates();
        // Rounded up: a waiter that is early by a nanosecond is early.
        scale(length, fast, slow) + Duration::from_nanos(1)
    }

    /// The slowest and the fastest rate, in millionths.
    const fn rates(&self) -> (u128, u128) {
        // A clock that is off by half is none; so neither rate is ever zero.
        let drift = if self.drift_ppm < 500_000 {
            self.drift_ppm as u128
        } else {
            500_000
        };
        (MILLION - drift, MILLION + drift)
    }
}

fn scale(length: Duration, by: u128, of: u128) -> Duration {
    let nanos = length.as_nanos().saturating_mul(by) / of;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_holder_stops_before_who_granted_it_believes_so_whatever_both_clocks_do(
            granted in 1_u64..100_000_000_000,
            drift_ppm in 0_u32..400_000,
            holder in -1_i64..=1,
            granter in -1_i64..=1,
        ) {
            let bound = ClockBound { drift_ppm, margin: Duration::ZERO };
            // Real nanoseconds in which a clock of that rate counts so far.
            let real = |counted: Duration, direction: i64| {
                let rate = 1e6 + direction as f64 * f64::from(drift_ppm);
                counted.as_nanos() as f64 * 1e6 / rate
            };
            let granted = Duration::from_nanos(granted);
            let held = real(bound.hold(granted), holder);
            prop_assert!(held <= real(granted, granter) + 1.0);
            let waited = real(bound.outlast(granted), holder);
            prop_assert!(waited + 1.0 >= real(granted, granter));
        }
    }

    #[test]
    fn a_bound_that_cannot_be_breaks_nothing() {
        let bound = ClockBound {
            drift_ppm: u32::MAX,
            margin: Duration::ZERO,
        };
        let long = Duration::from_secs(u64::MAX / 1_000_000_000);
        assert!(bound.hold(long) < long && bound.outlast(long) > long);
    }
}
