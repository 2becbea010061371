//! What a workload writes into a page.

use super::random::Random;

/// Words per page.
pub(crate) const WORDS: usize = 512;

/// The content of a page after a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The whole page: this percentage of its words random, evenly spread,
    /// the others zero.
    Entropy(u8),
    /// Only this many bytes change (a multiple of 8, 8..=4096), at a place
    /// that moves from touch to touch.
    Small(u16),
}

/// Writes `content` into a page; `touch` must differ from the last time.
pub(crate) fn write(page: &mut [u64; WORDS], content: Content, touch: u64) {
    match content {
        Content::Small(bytes) => {
            let words = (usize::from(bytes) / 8).clamp(1, WORDS);
            let mut random = Random::new(touch);
            let at = random.below((WORDS - words + 1) as u64) as usize;
            for word in &mut page[at..at + words] {
                *word ^= random.next();
            }
        }
        Content::Entropy(0) => page.fill(0),
        Content::Entropy(percent) => {
            let mut random = Random::new(touch);
            let mut share = 0u32;
            for word in page {
                share += u32::from(percent.min(100));
                *word = if share >= 100 {
                    share -= 100;
                    random.next()
                } else {
                    0
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_the_share_of_random_words() {
        for percent in [0u8, 1, 25, 50, 99, 100] {
            let mut page = [7; WORDS];
            write(&mut page, Content::Entropy(percent), 9);
            let random = page.iter().filter(|w| **w != 0).count();
            assert_eq!(random, WORDS * usize::from(percent) / 100, "{percent}");
        }
    }

    #[test]
    fn a_small_change_stays_small_and_is_a_change() {
        for touch in 0..200 {
            for bytes in [8u16, 16, 64, 4096] {
                let mut page = [3; WORDS];
                write(&mut page, Content::Small(bytes), touch);
                let first = page.iter().position(|w| *w != 3).expect("changed");
                let last = page.iter().rposition(|w| *w != 3).expect("changed");
                assert!(
                    (last - first + 1) * 8 <= usize::from(bytes),
                    "{touch} {bytes}"
                );
            }
        }
    }

    #[test]
    fn two_touches_differ() {
        let (mut a, mut b) = ([0; WORDS], [0; WORDS]);
        write(&mut a, Content::Entropy(100), 1);
        write(&mut b, Content::Entropy(100), 2);
        assert!(a.iter().zip(&b).all(|(a, b)| a != b));
    }
}
