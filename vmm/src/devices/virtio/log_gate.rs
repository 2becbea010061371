//! Lets a bounded number of log lines through, since a guest decides how often its requests fail.

use std::time::{Duration, Instant};

/// How many lines may pass per [`WINDOW`].
const BURST: u32 = 5;
/// The time over which [`BURST`] counts.
const WINDOW: Duration = Duration::from_secs(10);

/// A limit on one kind of log line.
#[derive(Debug, Default)]
pub struct LogGate {
    window_start: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl LogGate {
    /// Whether a line may be written at `now`; `Some(n)` when it may and `n` lines were held back
    /// since the last one that passed.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        let fresh = self
            .window_start
            .is_none_or(|start| now.duration_since(start) >= WINDOW);
        if fresh {
            self.window_start = Some(now);
            self.passed = 0;
        }
        if self.passed == BURST {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_lines_are_counted_until_the_next_window() {
        let mut gate = LogGate::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(gate.pass(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(gate.pass(start + WINDOW / 2), None);
        }
        assert_eq!(gate.pass(start + WINDOW), Some(7));
        assert_eq!(gate.pass(start + WINDOW), Some(0));
    }
}
