//! Pages from one memory to another, and over a hostile wire.

mod bench;
mod golden;
mod hostile;
mod memory;
pub(in crate::page) mod populations;
mod round_trip;

use std::sync::Arc;
use std::time::Duration;

use self::memory::FakeMemory;
use super::*;
use crate::ports::GuestMemory;

const SEED: DigestSeed = DigestSeed(0x5eed);

/// Source and target of one stream, with a wire between.
struct Pair {
    encoder: PageEncoder,
    reader: BatchReader,
    decoder: PageDecoder,
    sent: Arc<SentPages>,
    received: Arc<DigestTable>,
    target: FakeMemory,
}

impl Pair {
    fn new(pages: u64, compression: Compression) -> Self {
        Self::with_copies(pages, compression, DEFAULT_COPIES_BYTES)
    }

    fn with_copies(pages: u64, compression: Compression, copies_bytes: u64) -> Self {
        let digests = Arc::new(DigestTable::new(pages, SEED));
        let sent = Arc::new(SentPages::new(digests, copies_bytes));
        let received = Arc::new(DigestTable::new(pages, SEED));
        Self {
            encoder: encoder(Arc::clone(&sent), compression),
            reader: BatchReader::new(1, pages),
            decoder: PageDecoder::new(Arc::clone(&received)),
            sent,
            received,
            target: FakeMemory::new(pages),
        }
    }

    /// Moves pages; returns the bytes on the wire.
    fn send(&mut self, source: &FakeMemory, runs: &[Run], round: u32) -> u64 {
        let mut out = Vec::new();
        self.encoder
            .encode(source, runs.iter().copied(), round, &mut out)
            .unwrap();
        let mut input = &out[..];
        while let Some(batch) = self.reader.next(&mut input).unwrap() {
            self.decoder.apply(&batch, &self.target).unwrap();
        }
        out.len() as u64
    }
}

/// An encoder with a clock that a level of zstd takes a millisecond on.
fn encoder(sent: Arc<SentPages>, compression: Compression) -> PageEncoder {
    let ticks = std::sync::atomic::AtomicU64::new(0);
    let clock =
        move || Duration::from_millis(ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    PageEncoder::new(sent, CodecChooser::new(compression), Box::new(clock))
}

/// The bytes that an encoder makes of all of `source`.
fn encoded(source: &FakeMemory, compression: Compression) -> Vec<u8> {
    let digests = Arc::new(DigestTable::new(source.pages(), SEED));
    let mut encoder = encoder(Arc::new(SentPages::new(digests, 0)), compression);
    let mut out = Vec::new();
    encoder
        .encode(source, [(0, source.pages())], 0, &mut out)
        .unwrap();
    out
}
