//! The receipt for people.

use std::fmt;
use std::time::Duration;

use super::{Outcome, Receipt, RoundReport};

/// Rounds shown: the first and the last of many.
const SHOWN_ROUNDS: usize = 8;

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "guest      {} ({})", self.name, self.guest)?;
        writeln!(f, "migration  {} ({})", self.migration, self.mode)?;
        for (title, text) in [("asked by ", &self.asked_by), ("because  ", &self.why)] {
            if !text.is_empty() {
                writeln!(f, "{title}  {text}")?;
            }
        }
        let outcome = self.outcome.as_ref();
        writeln!(
            f,
            "outcome    {}",
            outcome.map_or("under way", Outcome::name)
        )?;
        for error in outcome.map_or(&[][..], Outcome::errors) {
            writeln!(f, "           {error}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning    {warning}")?;
        }
        writeln!(f, "total      {}", Ms(self.total))?;
        if let Some(blackout) = &self.blackout {
            writeln!(
                f,
                "blackout   {}: pause {}, last pages {}, state {}, wire {}, resume {}",
                Ms(blackout.total),
                Ms(blackout.pause),
                Ms(blackout.last_pages),
                Ms(blackout.state),
                Ms(blackout.wire),
                Ms(blackout.resume),
            )?;
            if let Some(outside) = blackout.outside {
                writeln!(f, "outside    {} to its first frame", Ms(outside))?;
            }
        }
        writeln!(
            f,
            "sent       {} of {} memory: zero {}, unchanged {}, delta {}, zstd {}, raw {}",
            Bytes(self.bytes.total()),
            Bytes(self.memory_bytes),
            Bytes(self.bytes.zero),
            Bytes(self.bytes.unchanged),
            Bytes(self.bytes.delta),
            Bytes(self.bytes.zstd),
            Bytes(self.bytes.raw),
        )?;
        if self.throttle_max_percent > 0 {
            writeln!(f, "throttle   up to {} %", self.throttle_max_percent)?;
        }
        if self.requested_pages > 0 || self.recoveries > 0 {
            writeln!(
                f,
                "post-copy  {} pages requested, {} recoveries",
                self.requested_pages, self.recoveries
            )?;
        }
        for time in &self.phases {
            writeln!(f, "phase      {:>12}  {:?}", Ms(time.began), time.phase)?;
        }
        self.write_rounds(f)
    }
}

impl Receipt {
    fn write_rounds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rounds.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "{:>5} {:>12} {:>10} {:>11} {:>10} {:>12} {:>8} {:>12}  then",
            "round", "time", "pages", "sent", "dirty", "link", "throttle", "predicted"
        )?;
        let left_out = self.rounds.len().saturating_sub(SHOWN_ROUNDS);
        for (index, round) in self.rounds.iter().enumerate() {
            if index == SHOWN_ROUNDS / 2 && left_out > 0 {
                writeln!(f, "{:>5}", "...")?;
            }
            let in_middle = index >= SHOWN_ROUNDS / 2 && index < SHOWN_ROUNDS / 2 + left_out;
            if !in_middle {
                write_round(f, round)?;
            }
        }
        Ok(())
    }
}

fn write_round(f: &mut fmt::Formatter<'_>, round: &RoundReport) -> fmt::Result {
    let then = round
        .reason
        .map_or_else(|| "last".into(), |reason| format!("{reason:?}"));
    writeln!(
        f,
        "{:>5} {:>12} {:>10} {:>11} {:>10} {:>10}/s {:>6} % {:>12}  {then}",
        round.round,
        Ms(round.duration),
        round.pages,
        Bytes(round.bytes.total()),
        round.dirty_pages,
        Bytes(round.link_rate as u64),
        round.throttle_percent,
        Ms(round.predicted_downtime),
    )
}

/// A time with three significant digits or so.
pub(crate) struct Ms(pub(crate) Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1e3;
        let text = if ms >= 10_000.0 {
            format!("{:.1} s", ms / 1e3)
        } else if ms >= 100.0 {
            format!("{ms:.0} ms")
        } else {
            format!("{ms:.2} ms")
        };
        f.pad(&text)
    }
}

/// Bytes in the unit that suits.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        f.pad(&if unit == "B" {
            format!("{} B", self.0)
        } else {
            format!("{value:.1} {unit}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_the_unit_that_suits() {
        assert_eq!(Ms(Duration::from_micros(1_234)).to_string(), "1.23 ms");
        assert_eq!(Ms(Duration::from_secs(61)).to_string(), "61.0 s");
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
    }
}
