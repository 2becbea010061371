//! In which order a workload touches its pages.

use super::random::{Random, mix};
use super::real::{exp, ln, pow};

/// The order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    /// Page after page, then again.
    Sequential,
    /// Uniform.
    Random,
    /// Rank k with a weight of about `k^-theta`, ranks scattered over the
    /// pages: a few hot ones and a long cold tail.
    Zipf { theta: f64 },
}

/// Page numbers in `0..pages` without end.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    order: Order,
    pages: u64,
    cursor: u64,
    stride: u64,
    random: Random,
    /// `(n + 1)^(1 - theta)`, or `ln(n + 1)` where theta is 1.
    bound: f64,
}

impl Pattern {
    pub(crate) fn new(order: Order, pages: u64, seed: u64) -> Self {
        let bound = match order {
            Order::Zipf { theta } if is_one(theta) => ln(pages as f64 + 1.0),
            Order::Zipf { theta } => pow(pages as f64 + 1.0, 1.0 - theta),
            _ => 0.0,
        };
        Self {
            order,
            pages,
            cursor: 0,
            stride: stride(pages),
            random: Random::new(seed),
            bound,
        }
    }

    /// The next page; 0 when there are none.
    pub(crate) fn next(&mut self) -> u64 {
        match self.order {
            Order::Sequential => {
                let page = self.cursor;
                self.cursor += 1;
                if self.cursor >= self.pages {
                    self.cursor = 0;
                }
                page
            }
            Order::Random => self.random.below(self.pages),
            Order::Zipf { theta } => scatter(self.rank(theta), self.stride, self.pages),
        }
    }

    /// Rank 0 is the hottest: the integer part of a draw from the continuous
    /// density `x^-theta` on `1..n + 1`, by inversion.
    fn rank(&mut self, theta: f64) -> u64 {
        let unit = self.random.unit();
        let x = if is_one(theta) {
            exp(self.bound * unit)
        } else {
            pow((self.bound - 1.0) * unit + 1.0, 1.0 / (1.0 - theta))
        };
        (x as u64)
            .saturating_sub(1)
            .min(self.pages.saturating_sub(1))
    }
}

fn is_one(theta: f64) -> bool {
    (theta - 1.0).abs() < 1e-6
}

/// A step that visits each of `pages` pages once before it comes back.
pub(crate) fn stride(pages: u64) -> u64 {
    if pages < 2 {
        return 1;
    }
    // Ends at the latest at `pages - 1`, which has no divisor in common.
    let mut step = mix(pages) % (pages - 1) + 1;
    while gcd(step, pages) != 1 {
        step += 1;
    }
    step
}

/// The page that is `index`-th in the order with that stride.
pub(crate) fn scatter(index: u64, stride: u64, pages: u64) -> u64 {
    ((u128::from(index) * u128::from(stride)) % u128::from(pages.max(1))) as u64
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_order_wraps() {
        let mut pattern = Pattern::new(Order::Sequential, 3, 0);
        let pages: Vec<_> = (0..7).map(|_| pattern.next()).collect();
        assert_eq!(pages, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn every_stride_visits_every_page_once() {
        for pages in 1..500 {
            let step = stride(pages);
            let mut seen = vec![false; pages as usize];
            for index in 0..pages {
                let page = scatter(index, step, pages) as usize;
                assert!(
                    !seen[page],
                    "{pages} pages, stride {step}: {page} comes twice"
                );
                seen[page] = true;
            }
        }
    }

    #[test]
    fn random_order_reaches_all_pages_about_equally() {
        let mut pattern = Pattern::new(Order::Random, 10, 7);
        let mut hits = [0u32; 10];
        for _ in 0..10_000 {
            hits[pattern.next() as usize] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    #[test]
    fn zipf_ranks_fall_with_the_power_asked_for() {
        for theta in [0.5, 0.99, 1.0, 1.5] {
            let mut pattern = Pattern::new(Order::Zipf { theta }, 1_000, 3);
            let mut hits = [0f64; 1_000];
            for _ in 0..200_000 {
                hits[pattern.rank(theta) as usize] += 1.0;
            }
            // Weight of 1..10 against 10..100 in the continuous law.
            let near: f64 = hits[..9].iter().sum();
            let far: f64 = hits[9..99].iter().sum();
            let integral = |a: f64, b: f64| {
                if theta == 1.0 {
                    (b / a).ln()
                } else {
                    (b.powf(1.0 - theta) - a.powf(1.0 - theta)) / (1.0 - theta)
                }
            };
            let want = integral(1.0, 10.0) / integral(10.0, 100.0);
            let found = near / far;
            assert!(
                (found / want - 1.0).abs() < 0.05,
                "theta {theta}: {found} not {want}"
            );
        }
    }

    #[test]
    fn an_empty_region_and_a_single_page_give_page_zero() {
        for order in [
            Order::Sequential,
            Order::Random,
            Order::Zipf { theta: 0.99 },
        ] {
            for pages in [0, 1] {
                let mut pattern = Pattern::new(order, pages, 1);
                assert!((0..10).all(|_| pattern.next() == 0), "{order:?} of {pages}");
            }
        }
    }
}
