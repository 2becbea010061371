//! The blackout as the guest sees it.
//!
//! The guest's clock stands while nobody runs it, under both VMMs, so the guest alone
//! cannot tell how long it was away. Two things together can: the largest step that
//! its clock made around the move, and by how much the clock is behind the host's
//! afterwards. The second is the change of (arrival of a heartbeat − its time stamp),
//! of which the smallest of many is taken on each side: a line may be read late, but
//! never early.

use std::time::{Duration, Instant};

use super::super::program::number;
use super::super::{BenchError, Program};

/// Heartbeats that are taken on each side.
pub(super) const BEATS: usize = 25;
/// Milliseconds between them.
pub(super) const PERIOD_MS: u32 = 20;
/// How often the guest looks at its clock while idle, µs: the resolution.
pub(super) const TICK_US: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(60);
const LINE: &str = "heartbeat seq=";

/// What a whole line has.
const KEYS: [&str; 4] = ["time_ns", "gap_max_ns", "gap_ever_ns", "ticks"];

/// The words of the guest's command line that make it beat as this needs it.
pub(super) fn words() -> String {
    format!("heartbeat={PERIOD_MS} tick={TICK_US}")
}

/// Whether the guest's `line` is a heartbeat.
pub(super) fn is_beat(line: &str) -> bool {
    line.starts_with(LINE)
}

/// What heartbeats on one side told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beats {
    /// Smallest (arrival − time stamp) in seconds, since `epoch`.
    offset: f64,
    /// The largest step in the first of them, seconds.
    first_gap: Option<f64>,
    /// The largest step ever, as the first and the last of them tell, seconds.
    ever: [f64; 2],
}

impl Beats {
    /// The next ones that `program` shows; all that it shows meanwhile is `said`.
    pub(super) fn listen(
        program: &mut Program,
        epoch: Instant,
        said: &mut Vec<(Instant, String)>,
    ) -> Result<Self, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        let (mut beats, mut count) = (Self::none(), 0);
        while count < BEATS {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = program.heard("", left)?;
            // What two processes said of one line may lack a piece.
            let is_whole = KEYS.iter().all(|key| number(&line, key).is_ok());
            if is_beat(&line) && is_whole {
                beats.add(at.saturating_duration_since(epoch), &line)?;
                count += 1;
            }
            said.push((at, line));
        }
        Ok(beats)
    }

    const fn none() -> Self {
        Self {
            offset: f64::MAX,
            first_gap: None,
            ever: [0.0; 2],
        }
    }

    fn add(&mut self, heard: Duration, line: &str) -> Result<(), BenchError> {
        let guest = number(line, "time_ns")? / 1e9;
        self.offset = self.offset.min(heard.as_secs_f64() - guest);
        let [gap, ever] = [
            number(line, "gap_max_ns")? / 1e9,
            number(line, "gap_ever_ns")? / 1e9,
        ];
        if self.first_gap.is_none() {
            self.first_gap = Some(gap);
            self.ever[0] = ever;
        }
        self.ever[1] = ever;
        Ok(())
    }

    /// How long the guest did not run between these beats and those `after` its move. The first
    /// of those covers the move.
    pub(super) fn blackout(&self, after: &Self) -> Duration {
        let behind = (after.offset - self.offset).max(0.0);
        // The line that covers the move may be lost between the two; the largest step ever is told again.
        let grown = after.ever[0] > self.ever[1];
        let ever = if grown { after.ever[0] } else { 0.0 };
        let jumped = after.first_gap.unwrap_or(0.0).max(ever);
        Duration::from_secs_f64(behind + jumped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(of: &[(u64, u64, u64)]) -> Beats {
        let mut beats = Beats::none();
        for (heard_ms, guest_ms, gap_ms) in of {
            let line = format!(
                "{LINE}1 time_ns={guest_ms}000000 gap_max_ns={gap_ms}000000 gap_ever_ns=60000000"
            );
            beats.add(Duration::from_millis(*heard_ms), &line).unwrap();
        }
        beats
    }

    #[test]
    fn a_blackout_is_what_the_clock_jumped_and_what_it_lacks() {
        // One line was read 7 ms late on each side.
        let before = beats(&[(107, 60, 1), (120, 80, 1)]);
        let after = beats(&[(150, 100, 4), (177, 120, 9)]);
        assert_eq!(before.blackout(&after), Duration::from_millis(10 + 4));
    }

    #[test]
    fn a_jump_whose_line_is_lost_is_told_by_the_largest_ever() {
        let before = beats(&[(100, 60, 1)]);
        let mut after = beats(&[(200, 160, 2)]);
        after.ever[0] = 0.075;
        assert_eq!(before.blackout(&after), Duration::from_millis(75));
    }

    #[test]
    fn a_clock_that_went_on_leaves_the_jump() {
        let before = beats(&[(100, 60, 1)]);
        let after = beats(&[(200, 160, 50)]);
        assert_eq!(before.blackout(&after), Duration::from_millis(50));
    }
}
