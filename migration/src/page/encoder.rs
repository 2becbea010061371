//! Makes batches of the guest's pages at the source.
//!
//! Each page is read once into a buffer of our own, and everything is decided about and made of
//! that copy: the guest may write the page meanwhile, and then it is dirty and comes again. What
//! becomes of a page, in this order:
//!
//! 1. zeros: a range, with no content (MIG-71);
//! 2. same digest as what the target has: nothing (MIG-72);
//! 3. sent before, and the copy of that is at hand, or the digests of its parts: a delta (MIG-73);
//! 4. a block of up to 64 pages, through zstd if that is fastest (MIG-74), else as it is.

use std::sync::Arc;
use std::time::Duration;

use super::block::{self, BlockCompressor};
use super::cache::Delta;
use super::codec::{Codec, CodecChooser};
use super::sent::SentPages;
use super::sink::{Pending, Sink};
use super::stats::PageStats;
use super::varint;
use super::wire::{BatchKind, MAX_BLOCK_PAGES, MAX_PAGES, MAX_ZERO_RUNS, Run};
use super::zero::is_zero;
use crate::ports::{GuestMemory, PAGE_BYTES, PortError};

/// Pages asked about at once whether they were ever touched: 2 MiB.
const UNTOUCHED_PAGES: u64 = 512;

/// Of so many blocks that look random, one is compressed to see whether they really are.
const PROBE_CHECK_BLOCKS: u32 = 16;

/// Bytes out for each 16 in up to which a block that looked random was worth compressing.
const WORTHWHILE_SIXTEENTHS: usize = 14;

/// The level at which to see that: the fastest.
const PROBE_CHECK_LEVEL: i8 = -5;

/// Pages over which the use of deltas is judged.
const DELTA_RECORD_PAGES: u32 = 512;

/// Deltas are worth trying while one of so many is short enough; else one page of so many is tried.
const DELTA_SAMPLE_PAGES: u32 = 16;

/// Tells the time since some moment; only differences count.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

/// Why pages could not be encoded. Batches appended before are whole and count as sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The guest's memory refused.
    #[error("cannot read {count} pages of the guest from {first} on")]
    Memory {
        /// First page.
        first: u64,
        /// Pages.
        count: u64,
        /// Why.
        #[source]
        source: PortError,
    },
    /// Pages that the guest does not have.
    #[error("{count} pages from {first} on are not in a guest of {pages} pages")]
    Outside {
        /// First page.
        first: u64,
        /// Pages.
        count: u64,
        /// Pages of the guest.
        pages: u64,
    },
}

/// How deltas fared lately. A guest that rewrites whole pages makes copies cost more than they
/// bring; then they are kept of a sample only, to see when that changes.
#[derive(Debug, Default)]
struct DeltaRecord {
    tried: u32,
    made: u32,
}

impl DeltaRecord {
    fn add(&mut self, found: Delta) {
        self.tried += u32::from(found != Delta::NoBase);
        self.made += u32::from(found == Delta::Made);
        if self.tried == DELTA_RECORD_PAGES {
            self.tried /= 2;
            self.made /= 2;
        }
    }

    fn is_worth_trying(&self, page: u64) -> bool {
        let enough = self.made * DELTA_SAMPLE_PAGES >= self.tried;
        self.tried < DELTA_RECORD_PAGES / 2
            || enough
            || page.is_multiple_of(DELTA_SAMPLE_PAGES.into())
    }
}

/// What becomes of a page that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing more to do: zero, unchanged, or a delta.
    Done,
    /// Into a block to compress.
    Compress(u64),
    /// Into a block to send as it is.
    Raw(u64),
}

/// Encodes pages for one bulk stream.
pub struct PageEncoder {
    codec: CodecChooser,
    clock: Clock,
    compressor: BlockCompressor,
    staging: Vec<u8>,
    fates: Vec<Fate>,
    zeros: Pending,
    deltas: Pending,
    compress: Pending,
    raw: Pending,
    plan: Codec,
    raw_blocks: u32,
    distrust_blocks: u32,
    always: bool,
    delta_record: DeltaRecord,
    sink: Sink,
}

impl PageEncoder {
    /// An encoder for a new stream.
    #[must_use]
    pub fn new(sent: Arc<SentPages>, codec: CodecChooser, clock: Clock) -> Self {
        let sink = Sink {
            sent,
            sequence: 0,
            round: 0,
            stats: PageStats::default(),
        };
        Self {
            sink,
            codec,
            clock,
            compressor: BlockCompressor::new(),
            staging: vec![0; MAX_BLOCK_PAGES * PAGE_BYTES],
            fates: Vec::with_capacity(MAX_BLOCK_PAGES),
            zeros: Pending::default(),
            deltas: Pending::default(),
            compress: Pending::default(),
            raw: Pending::default(),
            plan: Codec::Raw,
            raw_blocks: 0,
            distrust_blocks: 0,
            always: false,
            delta_record: DeltaRecord::default(),
        }
    }

    /// The same encoder, but each page is sent whole whatever the target has: for pages that the
    /// target waits for. Another stream may have counted them as sent and not delivered them yet.
    #[must_use]
    pub fn sending_always(mut self) -> Self {
        self.always = true;
        self
    }

    /// What was encoded so far.
    #[must_use]
    pub fn stats(&self) -> PageStats {
        self.sink.stats
    }

    /// Batches encoded so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.sink.sequence
    }

    /// The choice of codec, to be told about the link.
    pub fn codec_mut(&mut self) -> &mut CodecChooser {
        &mut self.codec
    }

    /// Appends batches with all pages of `runs` to `out`: at most their size and a hundredth more.
    /// Fewest bytes come of many pages at once, since no batch is held back for more.
    ///
    /// Holds 1 MiB and a zstd context, besides `out`; clear and reuse that. In round 0 memory that was never touched is not read. Rounds must not fall (MIG-77).
    ///
    /// # Errors
    /// When pages are outside the guest or cannot be read.
    pub fn encode(
        &mut self,
        memory: &dyn GuestMemory,
        runs: impl IntoIterator<Item = Run>,
        round: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        assert!(round >= self.sink.round, "rounds rise");
        self.sink.round = round;
        let mut end = 0;
        for (first, count) in runs {
            if first < end {
                self.flush(out);
            }
            let encoded = self.encode_run(memory, (first, count), out);
            if let Err(error) = encoded {
                self.discard();
                return Err(error);
            }
            end = first + count;
        }
        self.flush(out);
        Ok(())
    }

    fn encode_run(
        &mut self,
        memory: &dyn GuestMemory,
        (first, count): Run,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let pages = memory
            .pages()
            .min(self.sink.sent.digests().pages())
            .min(MAX_PAGES);
        if first > pages || count > pages - first {
            return Err(EncodeError::Outside {
                first,
                count,
                pages,
            });
        }
        let end = first + count;
        if self.sink.round == 0 && count > 0 && memory.is_untouched(first, count) {
            self.add_zeros((first, count), out);
            return Ok(());
        }
        let mut at = first;
        while at < end {
            let piece_end = end.min((at / UNTOUCHED_PAGES + 1) * UNTOUCHED_PAGES);
            if self.sink.round == 0 && memory.is_untouched(at, piece_end - at) {
                self.add_zeros((at, piece_end - at), out);
                at = piece_end;
            }
            while at < piece_end {
                let count = (piece_end - at).min(MAX_BLOCK_PAGES as u64);
                self.encode_piece(memory, (at, count), out)?;
                at += count;
            }
        }
        Ok(())
    }

    /// Encodes at most a block of pages.
    fn encode_piece(
        &mut self,
        memory: &dyn GuestMemory,
        (first, count): Run,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut staging = std::mem::take(&mut self.staging);
        let bytes = &mut staging[..count as usize * PAGE_BYTES];
        let read = memory.read(first, bytes);
        if read.is_ok() {
            self.plan = self.codec.next_block();
            self.encode_copy(first, bytes, out);
        }
        self.staging = staging;
        read.map_err(|source| EncodeError::Memory {
            first,
            count,
            source,
        })
    }

    fn encode_copy(&mut self, first: u64, bytes: &[u8], out: &mut Vec<u8>) {
        let mut fates = std::mem::take(&mut self.fates);
        fates.clear();
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let fate = self.fate(page, bytes, out);
            fates.push(fate);
        }
        if !self.send_whole(first, bytes, &fates, out) {
            for ((page, bytes), fate) in (first..).zip(bytes.chunks_exact(PAGE_BYTES)).zip(&fates) {
                let (pending, digest) = match *fate {
                    Fate::Done => continue,
                    Fate::Compress(digest) => (&mut self.compress, digest),
                    Fate::Raw(digest) => (&mut self.raw, digest),
                };
                pending.add(page, digest);
                pending.bytes.extend_from_slice(bytes);
                if pending.is_full() {
                    match fate {
                        Fate::Raw(_) => self.flush_raw(out),
                        _ => self.flush_compress(out),
                    }
                }
            }
        }
        self.fates = fates;
    }

    fn fate(&mut self, page: u64, bytes: &[u8], out: &mut Vec<u8>) -> Fate {
        let digests = self.sink.sent.digests();
        let known = digests.known(page).filter(|_| !self.always);
        if is_zero(bytes) {
            if known == Some(digests.zero()) {
                self.sink.stats.unchanged.pages += 1;
            } else {
                self.add_zeros((page, 1), out);
            }
            return Fate::Done;
        }
        let digest = digests.seed().digest(bytes);
        if known == Some(digest) {
            self.sink.stats.unchanged.pages += 1;
            return Fate::Done;
        }
        let is_delta = known.is_some_and(|known| {
            // Before the parts of what the target has are forgotten.
            self.add_delta(page, known, (digest, bytes), out)
        });
        if !self.always {
            self.sink.sent.parts.note(page, digest, bytes);
        }
        if is_delta {
            return Fate::Done;
        }
        let compress = match self.plan {
            Codec::Raw => false,
            Codec::Zstd(_) => self.distrust_blocks > 0 || !block::looks_random(bytes),
        };
        if compress {
            Fate::Compress(digest)
        } else {
            Fate::Raw(digest)
        }
    }

    /// Sends a full block from where it was read, when all of it goes the same way.
    fn send_whole(&mut self, first: u64, bytes: &[u8], fates: &[Fate], out: &mut Vec<u8>) -> bool {
        if fates.len() < MAX_BLOCK_PAGES {
            return false;
        }
        let all_raw = fates.iter().all(|fate| matches!(fate, Fate::Raw(_)));
        let all_compress = fates.iter().all(|fate| matches!(fate, Fate::Compress(_)));
        if !all_raw && !all_compress {
            return false;
        }
        let mut pending = Pending::default();
        for (page, fate) in (first..).zip(fates) {
            if let Fate::Raw(digest) | Fate::Compress(digest) = *fate {
                pending.add(page, digest);
            }
        }
        if all_raw {
            self.send_raw(&pending, bytes, out);
        } else {
            self.send_compressed(&pending, bytes, out);
        }
        true
    }

    fn add_zeros(&mut self, run: Run, out: &mut Vec<u8>) {
        if self.zeros.runs.len() == MAX_ZERO_RUNS {
            self.flush_zeros(out);
        }
        self.zeros.add_run(run);
    }

    /// Adds the difference of a page to what the target has, if that is at hand and short.
    fn add_delta(
        &mut self,
        page: u64,
        known: u64,
        content: (u64, &[u8]),
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.delta_record.is_worth_trying(page) {
            return false;
        }
        let deltas = &mut self.deltas;
        let start = deltas.bytes.len();
        // The length comes first and is known last; two bytes hold all that a delta may have.
        deltas.bytes.extend_from_slice(&[0; 2]);
        let sent = &self.sink.sent;
        let round = self.sink.round;
        let found = match sent
            .copies
            .replace(page, known, content, round, &mut deltas.bytes)
        {
            Delta::NoBase => sent.parts.encode(page, known, content.1, &mut deltas.bytes),
            found => found,
        };
        self.delta_record.add(found);
        if found != Delta::Made {
            deltas.bytes.truncate(start);
            return false;
        }
        let length = deltas.bytes.len() - start - 2;
        let prefix = varint::two_bytes(length as u16);
        deltas.bytes[start..start + 2].copy_from_slice(&prefix);
        deltas.add(page, content.0);
        if deltas.is_full() {
            self.flush_deltas(out);
        }
        true
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.flush_zeros(out);
        self.flush_deltas(out);
        self.flush_compress(out);
        self.flush_raw(out);
    }

    fn discard(&mut self) {
        for pending in [
            &mut self.zeros,
            &mut self.deltas,
            &mut self.compress,
            &mut self.raw,
        ] {
            pending.clear();
        }
    }

    fn flush_zeros(&mut self, out: &mut Vec<u8>) {
        if self.zeros.pages > 0 {
            self.sink.send(BatchKind::Zeros, 0, &self.zeros, &[], out);
        }
        self.zeros.clear();
    }

    fn flush_deltas(&mut self, out: &mut Vec<u8>) {
        if self.deltas.pages > 0 {
            self.sink
                .send(BatchKind::Delta, 0, &self.deltas, &self.deltas.bytes, out);
        }
        self.deltas.clear();
    }

    fn flush_compress(&mut self, out: &mut Vec<u8>) {
        let mut compress = std::mem::take(&mut self.compress);
        if compress.pages > 0 {
            self.send_compressed(&compress, &compress.bytes, out);
        }
        compress.clear();
        self.compress = compress;
    }

    fn flush_raw(&mut self, out: &mut Vec<u8>) {
        let mut raw = std::mem::take(&mut self.raw);
        if raw.pages > 0 {
            self.send_raw(&raw, &raw.bytes, out);
        }
        raw.clear();
        self.raw = raw;
    }

    fn send_compressed(&mut self, block: &Pending, bytes: &[u8], out: &mut Vec<u8>) {
        // The plan may have turned to raw since these pages began to wait.
        let Codec::Zstd(level) = self.plan else {
            return self.sink.send(BatchKind::Raw, 0, block, bytes, out);
        };
        self.distrust_blocks = self.distrust_blocks.saturating_sub(1);
        let start = (self.clock)();
        let frame = self.compressor.compress(bytes, level);
        let took = (self.clock)().saturating_sub(start);
        let bytes_out = frame.map_or(bytes.len(), <[u8]>::len) as u64;
        self.codec
            .observe_compress(level, bytes.len() as u64, bytes_out, took);
        match frame {
            Some(frame) => self.sink.send(BatchKind::Zstd, level, block, frame, out),
            None => self.sink.send(BatchKind::Raw, 0, block, bytes, out),
        }
    }

    /// Sends a block as it is, unless it only looked random and is the one by which that shows.
    fn send_raw(&mut self, block: &Pending, bytes: &[u8], out: &mut Vec<u8>) {
        if self.plan != Codec::Raw {
            self.raw_blocks = self.raw_blocks.wrapping_add(1);
            if self.raw_blocks.is_multiple_of(PROBE_CHECK_BLOCKS) {
                let frame = self.compressor.compress(bytes, PROBE_CHECK_LEVEL);
                let worthwhile = bytes.len() / 16 * WORTHWHILE_SIXTEENTHS;
                if let Some(frame) = frame.filter(|frame| frame.len() <= worthwhile) {
                    self.distrust_blocks = PROBE_CHECK_BLOCKS;
                    let level = PROBE_CHECK_LEVEL;
                    return self.sink.send(BatchKind::Zstd, level, block, frame, out);
                }
            }
        }
        self.sink.send(BatchKind::Raw, 0, block, bytes, out);
    }
}
