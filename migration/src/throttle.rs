//! Who is slowed, when a guest is to write less: each vCPU by what it writes itself.
//!
//! The policy says by how much all writing is to fall. The shares of the vCPUs are in proportion to what they
//! write, so that together they take that much away: one that writes everything is slowed by all of it, and one
//! that writes nothing not at all. What was written while a vCPU was slowed counts for as much as it would have
//! written otherwise, or slowing one would move the burden to the next. Where nobody knows who writes, all are
//! slowed alike.

/// The most that is taken from a vCPU, percent.
const MAX_SHARE: f64 = 99.0;

/// The part of its time that is taken from each vCPU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shares {
    percent: u8,
    of_each: Vec<u8>,
    /// What each would write if it were not slowed; in proportion to the others.
    demand: Vec<f64>,
}

impl Shares {
    /// Of `vcpus` that are not slowed, and of which nothing is known.
    #[must_use]
    pub(crate) fn even(vcpus: usize) -> Self {
        Self {
            percent: 0,
            of_each: vec![0; vcpus],
            demand: vec![1.0; vcpus],
        }
    }

    /// Percent by number.
    #[must_use]
    pub(crate) fn of_each(&self) -> &[u8] {
        &self.of_each
    }

    /// So many percent less is to be written in all.
    pub(crate) fn set(&mut self, percent: u8) {
        self.percent = percent;
        self.divide();
    }

    /// Each vCPU has written so many pages since this was said last. Whether that changes what is taken from one.
    pub(crate) fn heard(&mut self, written: &[u64]) -> bool {
        if written.len() != self.of_each.len() || written.iter().all(|&pages| pages == 0) {
            return false;
        }
        let before = self.of_each.clone();
        let running = self.of_each.iter().map(|&share| 100.0 - f64::from(share));
        self.demand = written
            .iter()
            .zip(running)
            .map(|(&pages, running)| pages as f64 * 100.0 / running)
            .collect();
        self.divide();
        before != self.of_each
    }

    fn divide(&mut self) {
        self.of_each.fill(0);
        let all: f64 = self.demand.iter().sum();
        // What is to be taken away of what is written, and by whom that is not yet slowed to the limit.
        let mut wanted = all * f64::from(self.percent);
        let mut open: Vec<usize> = (0..self.demand.len()).collect();
        while !open.is_empty() && wanted > 0.0 {
            let squares: f64 = open.iter().map(|&vcpu| self.demand[vcpu].powi(2)).sum();
            if squares <= 0.0 {
                return;
            }
            let share = |vcpu: usize| wanted * self.demand[vcpu] / squares;
            let (full, part): (Vec<usize>, Vec<usize>) =
                open.iter().partition(|&&vcpu| share(vcpu) >= MAX_SHARE);
            if full.is_empty() {
                for vcpu in part {
                    self.of_each[vcpu] = share(vcpu).round() as u8;
                }
                return;
            }
            for vcpu in full {
                self.of_each[vcpu] = MAX_SHARE as u8;
                wanted -= MAX_SHARE * self.demand[vcpu];
            }
            open = part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(percent: u8, written: &[u64]) -> Vec<u8> {
        let mut shares = Shares::even(written.len());
        shares.heard(written);
        shares.set(percent);
        shares.of_each().to_vec()
    }

    #[test]
    fn without_knowledge_all_are_slowed_alike() {
        let mut shares = Shares::even(3);
        assert!(!shares.heard(&[0, 0, 0]));
        shares.set(40);
        assert_eq!(shares.of_each(), [40, 40, 40]);
        shares.set(0);
        assert_eq!(shares.of_each(), [0, 0, 0]);
    }

    #[test]
    fn who_writes_all_is_slowed_by_all_and_the_others_not_at_all() {
        assert_eq!(shares(30, &[0, 5000, 0, 0]), [0, 30, 0, 0]);
        assert_eq!(shares(99, &[0, 5000, 0, 0]), [0, 99, 0, 0]);
    }

    #[test]
    fn who_writes_more_is_slowed_by_more() {
        let shares = shares(20, &[1000, 3000]);
        // (1000 * 8 + 3000 * 24) / 4000 = 20
        assert_eq!(shares, [8, 24]);
    }

    #[test]
    fn what_one_cannot_give_any_more_the_others_give() {
        let shares = shares(90, &[1000, 3000]);
        assert_eq!(shares[1], 99);
        assert_eq!(shares[0], 63);
    }

    #[test]
    fn a_vcpu_that_writes_less_because_it_is_slowed_stays_slowed() {
        let mut shares = Shares::even(2);
        shares.heard(&[1000, 9000]);
        shares.set(60);
        let first = shares.of_each().to_vec();
        let written: Vec<u64> = [1000, 9000]
            .iter()
            .zip(&first)
            .map(|(&pages, &share)| pages * (100 - u64::from(share)) / 100)
            .collect();
        shares.heard(&written);
        for (now, before) in shares.of_each().iter().zip(&first) {
            assert!(
                now.abs_diff(*before) <= 1,
                "{first:?} {:?}",
                shares.of_each()
            );
        }
    }

    #[test]
    fn a_guest_that_begins_to_write_elsewhere_is_slowed_there() {
        let mut shares = Shares::even(2);
        shares.heard(&[5000, 0]);
        shares.set(50);
        assert_eq!(shares.of_each(), [50, 0]);
        assert!(shares.heard(&[0, 5000]));
        assert_eq!(shares.of_each(), [0, 50]);
        assert!(!shares.heard(&[1]), "of another guest");
    }

    proptest! {
        #[test]
        fn together_the_shares_take_away_what_was_asked_for(
            percent in 0u8..=99,
            written in proptest::collection::vec(0u64..1_000_000, 1..64),
        ) {
            let shares = shares(percent, &written);
            prop_assert!(shares.iter().all(|&share| share <= 99));
            let all: f64 = written.iter().map(|&pages| pages as f64).sum();
            if all > 0.0 {
                let taken: f64 = written
                    .iter()
                    .zip(&shares)
                    .map(|(&pages, &share)| pages as f64 * f64::from(share))
                    .sum();
                prop_assert!((taken / all - f64::from(percent)).abs() <= 0.51, "{shares:?}");
            }
        }
    }
}
