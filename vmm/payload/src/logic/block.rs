//! Disk blocks that know their place and their sequence number, and the rules
//! by which a block read back is judged.
//!
//! Write number `s` (from 1) goes to block `s % blocks`, so which write each
//! block must hold follows from the last number alone.

use super::random::{Random, mix};

/// First word of every block.
const MAGIC: u64 = 0x676f_6477_6974_0001;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Never written by us.
    Empty,
    /// The write of that number, whole.
    Write(u64),
    /// Ours, but torn or of another place.
    Bad,
}

/// Fills `block` with write `sequence` of block number `index`. The length is
/// a multiple of 64.
pub(crate) fn stamp(block: &mut [u64], index: u64, sequence: u64) {
    let mut random = Random::new(mix(index) ^ sequence);
    for word in &mut *block {
        *word = random.next();
    }
    block[0] = MAGIC;
    block[1] = index;
    block[2] = sequence;
    block[3] = checksum(block);
}

/// What `block`, read from block number `index`, holds.
pub(crate) fn read(block: &[u64], index: u64) -> Found {
    if block[0] != MAGIC {
        return Found::Empty;
    }
    if block[1] == index && block[3] == checksum(block) {
        Found::Write(block[2])
    } else {
        Found::Bad
    }
}

fn checksum(block: &[u64]) -> u64 {
    let mut sum = block.len() as u64;
    for (index, word) in block.iter().enumerate() {
        if index != 3 {
            sum = mix(sum ^ word);
        }
    }
    sum
}

/// The last of the writes `1..=last` that went to that block; 0 for none.
pub(crate) fn expected(index: u64, last: u64, blocks: u64) -> u64 {
    let back = (last % blocks + blocks - index) % blocks;
    last.saturating_sub(back)
}

/// The verdict on a block read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Right,
    /// An acknowledged write is not there.
    Lost,
    /// A write is there that was never asked for.
    Repeated,
}

/// `acknowledged` is the newest acknowledged write to the block when the read
/// was sent, `issued` the newest one sent when it came back.
pub(crate) fn judge(found: Found, acknowledged: u64, issued: u64) -> Verdict {
    match found {
        Found::Write(sequence) if sequence > issued => Verdict::Repeated,
        Found::Write(sequence) if sequence >= acknowledged => Verdict::Right,
        Found::Empty if acknowledged == 0 => Verdict::Right,
        // A block that is being written may be read half new.
        Found::Bad if issued > acknowledged => Verdict::Right,
        _ => Verdict::Lost,
    }
}

/// What a disk that was written before holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    blocks: u64,
    seen: u64,
    /// Newest write found.
    pub(crate) last: u64,
    /// First write that is missing, if any was seen to be.
    missing: Option<u64>,
    pub(crate) empty: u64,
    pub(crate) bad: u64,
}

impl Survey {
    pub(crate) fn new(blocks: u64) -> Self {
        Self {
            blocks,
            ..Self::default()
        }
    }

    /// Takes in the next block, in order.
    pub(crate) fn add(&mut self, found: Found) {
        let index = self.seen;
        self.seen += 1;
        // The next write to go to this block is the first it may lack.
        let missing = match found {
            Found::Write(sequence) => {
                self.last = self.last.max(sequence);
                sequence + self.blocks
            }
            Found::Empty => {
                self.empty += 1;
                if index == 0 { self.blocks } else { index }
            }
            Found::Bad => {
                self.bad += 1;
                return;
            }
        };
        self.missing = Some(self.missing.map_or(missing, |least| least.min(missing)));
    }

    /// The last write up to which none is missing. Bad blocks say nothing.
    pub(crate) fn complete(&self) -> u64 {
        self.missing.map_or(0, |missing| missing - 1).min(self.last)
    }

    pub(crate) fn finished(&self) -> bool {
        self.seen >= self.blocks
    }

    pub(crate) fn next(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_block_is_recognised_and_a_changed_one_is_not() {
        let mut block = [0u64; 64];
        assert_eq!(read(&block, 5), Found::Empty);
        stamp(&mut block, 5, 77);
        assert_eq!(read(&block, 5), Found::Write(77));
        assert_eq!(read(&block, 6), Found::Bad, "a block of another place");
        for index in 1..64 {
            block[index] ^= 4;
            assert_eq!(read(&block, 5), Found::Bad, "word {index}");
            block[index] ^= 4;
        }
    }

    #[test]
    fn which_write_a_block_must_hold_follows_from_the_last() {
        let blocks = 5;
        let mut held = [0u64; 5];
        for last in 0..40 {
            if last > 0 {
                held[(last % blocks) as usize] = last;
            }
            for index in 0..blocks {
                assert_eq!(
                    expected(index, last, blocks),
                    held[index as usize],
                    "{index} after {last}"
                );
            }
        }
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_lost() {
        assert_eq!(judge(Found::Write(7), 7, 7), Verdict::Right);
        assert_eq!(judge(Found::Write(2), 7, 7), Verdict::Lost);
        assert_eq!(judge(Found::Empty, 7, 7), Verdict::Lost);
        assert_eq!(judge(Found::Bad, 7, 7), Verdict::Lost);
        assert_eq!(judge(Found::Empty, 0, 0), Verdict::Right);
    }

    #[test]
    fn a_write_in_flight_may_or_may_not_be_there() {
        for found in [Found::Write(7), Found::Write(12), Found::Bad] {
            assert_eq!(judge(found, 7, 12), Verdict::Right);
        }
        assert_eq!(judge(Found::Write(12), 7, 7), Verdict::Repeated);
        assert_eq!(judge(Found::Write(17), 7, 12), Verdict::Repeated);
    }

    #[test]
    fn a_survey_finds_the_last_write_and_the_last_before_a_hole() {
        let blocks = 4u64;
        let survey = |held: [Found; 4]| {
            let mut survey = Survey::new(blocks);
            held.into_iter().for_each(|found| survey.add(found));
            assert!(survey.finished());
            (survey.last, survey.complete(), survey.empty, survey.bad)
        };
        let w = Found::Write;
        assert_eq!(survey([Found::Empty; 4]), (0, 0, 4, 0));
        assert_eq!(
            survey([Found::Empty, w(1), w(2), Found::Empty]),
            (2, 2, 2, 0)
        );
        assert_eq!(survey([w(8), w(9), w(6), w(7)]), (9, 9, 0, 0));
        assert_eq!(
            survey([w(8), w(9), w(6), w(3)]),
            (9, 6, 0, 0),
            "write 7 is missing"
        );
        assert_eq!(survey([w(8), w(9), Found::Bad, w(7)]), (9, 9, 0, 1));
    }
}
