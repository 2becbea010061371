//! zstd over blocks of several pages: one frame a block, contexts kept from block to block.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// Bytes of a page that the probe looks at, in words spread over it.
const PROBE_WORDS: usize = 32;

/// Different values among the 256 bytes looked at from which on content passes for random: random
/// bytes show 162 +- 6 of them, text about 60, machine code about 100.
const RANDOM_VALUES: u32 = 138;

/// Whether a page looks like random bytes, on which compression would be wasted. A guess; costs a
/// small part of a copy of the page.
#[must_use]
pub fn looks_random(page: &[u8]) -> bool {
    let step = page.len() / PROBE_WORDS;
    if step < 8 {
        return false;
    }
    let mut seen = [0u8; 256];
    for at in 0..PROBE_WORDS {
        // Not always the same place within a cache line: fields of records repeat there.
        let from = at * step + (at * 8) % (step - 7);
        for &byte in &page[from..from + 8] {
            seen[usize::from(byte)] = 1;
        }
    }
    seen.iter().map(|&bit| u32::from(bit)).sum::<u32>() >= RANDOM_VALUES
}

/// Compresses blocks.
pub(crate) struct BlockCompressor {
    context: Compressor<'static>,
    level: i8,
    buffer: Vec<u8>,
}

impl BlockCompressor {
    /// A compressor; its context is allocated with the first block, about 1 MiB.
    pub(crate) fn new() -> Self {
        Self {
            context: Compressor::default(),
            level: 0,
            buffer: Vec::new(),
        }
    }

    /// `block` compressed at `level`; `None` when it would not become shorter.
    pub(crate) fn compress(&mut self, block: &[u8], level: i8) -> Option<&[u8]> {
        if self.level != level {
            self.context.set_compression_level(i32::from(level)).ok()?;
            self.level = level;
        }
        self.buffer.clear();
        self.buffer
            .reserve(zstd::zstd_safe::compress_bound(block.len()));
        let length = self.context.compress_to_buffer(block, &mut self.buffer);
        // The only failure left is a lack of memory, and then raw will do.
        (length.ok()? < block.len()).then_some(&self.buffer)
    }
}

/// Decompresses blocks.
pub(crate) struct BlockDecompressor {
    context: Decompressor<'static>,
}

impl BlockDecompressor {
    pub(crate) fn new() -> Self {
        Self {
            context: Decompressor::default(),
        }
    }

    /// Decompresses one frame into all of `block`. Takes no memory that the frame asks for: the
    /// window is the block itself.
    pub(crate) fn decompress(&mut self, frame: &[u8], block: &mut [u8]) -> io::Result<()> {
        let length = self.context.decompress_to_buffer(frame, block)?;
        if length != block.len() {
            let text = format!("{length} bytes instead of {}", block.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::populations::{self, Population};
    use crate::ports::PAGE_BYTES;
    use proptest::prelude::*;

    #[test]
    fn only_random_pages_look_random() {
        for population in populations::ALL {
            let bytes = populations::generate(population, 256, 1);
            let random = bytes
                .chunks(PAGE_BYTES)
                .filter(|page| looks_random(page))
                .count();
            let expected = if population == Population::Random {
                256
            } else {
                0
            };
            assert!(random.abs_diff(expected) <= 2, "{population:?}: {random}");
        }
    }

    #[test]
    fn a_block_comes_back_at_each_level() {
        let block = populations::generate(Population::Text, 64, 3);
        let (mut compressor, mut decompressor) = (BlockCompressor::new(), BlockDecompressor::new());
        for level in [-5, -3, -1, 1, 3, -5] {
            let frame = compressor.compress(&block, level).unwrap().to_vec();
            let mut again = vec![0; block.len()];
            decompressor.decompress(&frame, &mut again).unwrap();
            assert_eq!(again, block, "level {level}");
            let mut short = vec![0; block.len() - 1];
            assert!(decompressor.decompress(&frame, &mut short).is_err());
            let mut long = vec![0; block.len() + 1];
            assert!(decompressor.decompress(&frame, &mut long).is_err());
        }
    }

    #[test]
    fn random_bytes_are_not_made_longer() {
        let block = populations::generate(Population::Random, 64, 3);
        assert!(BlockCompressor::new().compress(&block, 1).is_none());
    }

    proptest! {
        #[test]
        fn a_damaged_frame_is_refused_or_fills_the_block(
            cut in 0usize..3000, flips in proptest::collection::vec((0usize..3000, any::<u8>()), 0..8),
        ) {
            let block = populations::generate(Population::Heap, 2, 3);
            let mut frame = BlockCompressor::new().compress(&block, 1).unwrap().to_vec();
            for (at, flip) in flips {
                let at = at % frame.len();
                frame[at] ^= flip;
            }
            frame.truncate(cut);
            let mut again = vec![0; block.len()];
            let _ = BlockDecompressor::new().decompress(&frame, &mut again);
        }
    }
}
