//! What many trips say together.

use std::fmt;
use std::time::Duration;

use godwit_migration::report::{Phase, Receipt};
use serde_json::{Value, json};

use super::Workload;

/// Trips that were made.
#[derive(Clone, Debug)]
pub struct Measured {
    workload: Workload,
    receipts: Vec<Receipt>,
}

/// The middle of some values, and the ends.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self {
            median,
            least,
            most,
        })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }
}

impl Measured {
    pub(super) fn new(workload: Workload, receipts: Vec<Receipt>) -> Self {
        Self { workload, receipts }
    }

    /// Of each trip `value`, those that have one.
    fn spread(&self, value: impl Fn(&Receipt) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.receipts.iter().filter_map(value))
    }

    fn rows(&self) -> [(&'static str, &'static str, Option<Spread>); 6] {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        [
            (
                "blackout",
                "ms",
                self.spread(|r| Some(ms(r.blackout?.total))),
            ),
            ("total", "ms", self.spread(|r| Some(ms(r.total)))),
            ("sent", "MiB", self.spread(|r| Some(mib(r.bytes.total())))),
            (
                "wire",
                "MiB/s",
                self.spread(|r| Some(mib(r.bytes.total()) / copying(r)?.as_secs_f64())),
            ),
            (
                "memory",
                "MiB/s",
                self.spread(|r| Some(mib(r.memory_bytes) / copying(r)?.as_secs_f64())),
            ),
            (
                "rounds",
                "",
                self.spread(|r| Some(f64::from(r.rounds_total))),
            ),
        ]
    }

    /// For programs: what was done, medians and spreads, and every receipt.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows = self.rows();
        let rows = rows.into_iter().filter_map(|(name, unit, spread)| {
            let key = match unit {
                "" => name.to_owned(),
                unit => format!("{name}_{}", unit.to_lowercase().replace('/', "_per_")),
            };
            Some((key, spread?.json()))
        });
        let workload = &self.workload;
        json!({
            "trips": self.receipts.len(),
            "guest": {
                "memory_bytes": workload.memory_bytes,
                "vcpus": workload.vcpus,
                "dirty_bytes": workload.dirty_bytes,
                "dirty_pages_per_s": workload.dirty_rate,
                "pattern": workload.pattern,
                "entropy_percent": workload.entropy,
            },
            "measured": rows.collect::<serde_json::Map<String, Value>>(),
            "receipts": self.receipts,
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:>10} {:>10} {:>10}", "", "median", "min", "max")?;
        for (name, unit, spread) in self.rows() {
            if let Some(spread) = spread {
                let Spread {
                    median,
                    least,
                    most,
                } = spread;
                writeln!(
                    f,
                    "{name:<10} {median:>10.2} {least:>10.2} {most:>10.2}  {unit}"
                )?;
            }
        }
        Ok(())
    }
}

/// One trip in short.
pub(super) fn line(receipt: &Receipt) -> String {
    format!(
        "blackout {:.2} ms, {:.0} ms in all, {:.1} MiB sent",
        receipt
            .blackout
            .map_or(0.0, |blackout| blackout.total.as_secs_f64() * 1e3),
        receipt.total.as_secs_f64() * 1e3,
        mib(receipt.bytes.total())
    )
}

/// From the first page to the end: without what the target took to build the guest.
fn copying(receipt: &Receipt) -> Option<Duration> {
    let prepared = receipt
        .phases
        .iter()
        .find(|time| time.phase != Phase::Preparing)?;
    let time = receipt.total.checked_sub(prepared.began)?;
    (!time.is_zero()).then_some(time)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends_of_values_are_found_in_any_order() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        let one = Spread {
            median: 3.0,
            least: 3.0,
            most: 3.0,
        };
        assert_eq!(spread(&[3.0]), Some(one));
        let odd = Spread {
            median: 2.0,
            least: 1.0,
            most: 9.0,
        };
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(odd));
        let even = Spread { median: 2.5, ..odd };
        assert_eq!(spread(&[9.0, 1.0, 2.0, 3.0]), Some(even));
    }
}
