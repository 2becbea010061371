//! A page that knows which page it is, how often it was written, and whether
//! it is whole; and the order that says what each page must hold right now
//! without a second copy of anything.

use super::pattern::{scatter, stride};
use super::random::{Random, mix};

/// Words per page.
pub(crate) const WORDS: usize = 512;

const GFN: usize = 0;
const COUNTER: usize = 1;
const CHECKSUM: usize = 2;
const BODY: usize = 3;

/// How a page differs from what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// `gfn`, `counter` or `checksum`.
    pub(crate) what: &'static str,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

/// Writes version `counter` of the page of guest frame `gfn`; `entropy` is the
/// percentage of its words that are random.
pub(crate) fn write(page: &mut [u64; WORDS], gfn: u64, counter: u64, entropy: u8) {
    page[GFN] = gfn;
    page[COUNTER] = counter;
    let mut random = Random::new(mix(gfn) ^ counter);
    let mut share = 0u32;
    for word in &mut page[BODY..] {
        share += u32::from(entropy.min(100));
        *word = if share >= 100 {
            share -= 100;
            random.next()
        } else {
            0
        };
    }
    page[CHECKSUM] = checksum(page);
}

/// Whether the page is version `counter` of frame `gfn`, whole.
pub(crate) fn verify(page: &[u64; WORDS], gfn: u64, counter: u64) -> Result<(), Wrong> {
    let expect = |what, expected, found| {
        if expected == found {
            Ok(())
        } else {
            Err(Wrong {
                what,
                expected,
                found,
            })
        }
    };
    expect("gfn", gfn, page[GFN])?;
    expect("counter", counter, page[COUNTER])?;
    expect("checksum", checksum(page), page[CHECKSUM])
}

/// Of all words but the checksum; any single changed word changes it.
fn checksum(page: &[u64; WORDS]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1u64, 2, 3, 4];
    for (index, quad) in page.chunks_exact(4).enumerate() {
        for (lane, word) in lanes.iter_mut().zip(quad) {
            *lane = (*lane ^ word).wrapping_mul(ODD).rotate_left(23);
        }
        if index == 0 {
            // Take the checksum's own word back out of its lane.
            lanes[CHECKSUM] = 3;
        }
    }
    lanes.iter().fold(0, |sum, lane| mix(sum ^ lane))
}

/// Rewrites and verifies a region in the same scattered order. Page number
/// `scatter(k)` has been rewritten in the present pass exactly if `k` is below
/// the cursor, so its version is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    pages: u64,
    stride: u64,
    pass: u64,
    cursor: u64,
    checked: u64,
    /// Times that every page was verified.
    pub(crate) passes: u64,
}

impl Sweep {
    /// Over `pages` pages, all of which hold version 1.
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            pages,
            stride: stride(pages),
            pass: 1,
            cursor: 0,
            checked: 0,
            passes: 0,
        }
    }

    /// The next page to rewrite, and its new version.
    pub(crate) fn next_write(&mut self) -> (u64, u64) {
        let page = scatter(self.cursor, self.stride, self.pages);
        let version = self.pass + 1;
        self.cursor += 1;
        if self.cursor >= self.pages {
            self.cursor = 0;
            self.pass += 1;
        }
        (page, version)
    }

    /// The next page to verify, and the version that it must hold.
    pub(crate) fn next_check(&mut self) -> (u64, u64) {
        let index = self.checked;
        let page = scatter(index, self.stride, self.pages);
        let version = self.pass + u64::from(index < self.cursor);
        self.checked += 1;
        if self.checked >= self.pages {
            self.checked = 0;
            self.passes += 1;
        }
        (page, version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_right_until_any_one_word_changes() {
        let mut page = [0; WORDS];
        for entropy in [0, 40, 100] {
            write(&mut page, 7, 3, entropy);
            assert_eq!(verify(&page, 7, 3), Ok(()));
            for index in 0..WORDS {
                for flip in [1, 1 << 63] {
                    page[index] ^= flip;
                    let wrong = verify(&page, 7, 3).expect_err("a changed word");
                    let what = ["gfn", "counter", "checksum"][index.min(2)];
                    assert_eq!(wrong.what, what, "word {index}");
                    page[index] ^= flip;
                }
            }
        }
    }

    #[test]
    fn an_older_version_and_another_page_are_wrong() {
        let mut page = [0; WORDS];
        write(&mut page, 7, 3, 100);
        assert_eq!(
            verify(&page, 7, 4),
            Err(Wrong {
                what: "counter",
                expected: 4,
                found: 3
            })
        );
        assert_eq!(
            verify(&page, 8, 3),
            Err(Wrong {
                what: "gfn",
                expected: 8,
                found: 7
            })
        );
        let zero = [0; WORDS];
        assert_eq!(
            verify(&zero, 0, 0)
                .expect_err("a zero page is never right")
                .what,
            "checksum"
        );
    }

    #[test]
    fn the_sweep_knows_every_version_at_any_moment() {
        for pages in [1u64, 2, 3, 10, 97] {
            let mut sweep = Sweep::new(pages);
            let mut held = vec![1u64; pages as usize];
            let mut random = Random::new(pages);
            for _ in 0..5_000 {
                if random.next() & 1 == 0 {
                    let (page, version) = sweep.next_write();
                    assert_eq!(version, held[page as usize] + 1);
                    held[page as usize] = version;
                } else {
                    let (page, version) = sweep.next_check();
                    assert_eq!(version, held[page as usize], "page {page} of {pages}");
                }
            }
            assert!(sweep.passes > 0);
        }
    }
}
