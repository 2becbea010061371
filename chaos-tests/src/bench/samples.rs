//! Repeated measurements of one thing.

use std::time::Duration;

/// Measurements of one thing in one unit, in the order they were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a measurement, if there is one.
    pub fn extend(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    /// Adds a time, in milliseconds.
    pub fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    /// Each of them, in the order they were taken.
    pub fn values(&self) -> impl Iterator<Item = &f64> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; `None` without any.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// The smallest and the largest; `None` without any.
    #[must_use]
    pub fn spread(&self) -> Option<[f64; 2]> {
        let sorted = self.sorted();
        Some([*sorted.first()?, *sorted.last()?])
    }

    /// The value that `share` of all do not exceed (nearest rank); `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let sorted = self.sorted();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(samples(&[9.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 100.0]).median(), Some(3.0));
        assert_eq!(samples(&[]).median(), None);
    }

    #[test]
    fn a_quantile_is_the_value_at_its_rank() {
        let all = samples(&[4.0, 1.0, 3.0, 2.0]);
        let found = [0.0, 0.25, 0.5, 0.99, 1.0].map(|share| all.quantile(share).unwrap());
        assert_eq!(found, [1.0, 1.0, 2.0, 4.0, 4.0]);
        assert_eq!(samples(&[]).quantile(0.5), None);
    }

    #[test]
    fn the_spread_is_smallest_to_largest() {
        assert_eq!(samples(&[9.0, 1.0, 2.0]).spread(), Some([1.0, 9.0]));
        assert_eq!(samples(&[]).spread(), None);
    }
}
