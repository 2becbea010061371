//! Latencies in buckets of a sixteenth of a power of two.

const SUB: u32 = 4;
const BUCKETS: usize = 61 << SUB;

/// Counts values; relative error of a quantile below 1/16.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
            max: 0,
        }
    }

    pub(crate) fn add(&mut self, value: u64) {
        let count = &mut self.counts[bucket(value)];
        *count = count.saturating_add(1);
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_mille` of a thousand do not exceed, rounded up to
    /// its bucket's end.
    pub(crate) fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1_000).max(1);
        let mut sum = 0;
        for (index, count) in self.counts.iter().enumerate() {
            sum += u64::from(*count);
            if sum >= rank {
                return end(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < 1 << SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB;
    (((shift + 1) << SUB) as usize) + ((value >> shift) as usize & ((1 << SUB) - 1))
}

/// Largest value of a bucket.
fn end(index: usize) -> u64 {
    if index < 1 << SUB {
        return index as u64;
    }
    let shift = (index >> SUB) as u32 - 1;
    let mantissa = (1u64 << SUB) | (index as u64 & ((1 << SUB) - 1));
    (mantissa << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..70).chain([1_000, 123_456_789, u64::MAX - 1, u64::MAX]) {
            let index = bucket(value);
            assert!(value <= end(index), "{value}");
            assert!(index == 0 || value > end(index - 1), "{value}");
        }
    }

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let mut histogram = Histogram::new();
        for value in 1..=100_000 {
            histogram.add(value);
        }
        for (per_mille, want) in [(500, 50_000u64), (990, 99_000), (999, 99_900)] {
            let found = histogram.quantile(per_mille);
            assert!(
                (want..=want + want / 16).contains(&found),
                "{per_mille}: {found}"
            );
        }
        assert_eq!(
            (histogram.quantile(1_000), histogram.max()),
            (100_000, 100_000)
        );
    }

    #[test]
    fn nothing_counted_gives_zero() {
        assert_eq!(Histogram::new().quantile(500), 0);
    }
}
