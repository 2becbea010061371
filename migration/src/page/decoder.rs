//! Writes batches into the guest's memory at the target.
//!
//! Keeps nothing of a batch but its digests. What was never touched stays so when zeros arrive.
//! Content is checked before it is written: a damaged batch changes no page.

use std::io;
use std::sync::Arc;

use godwit_proto::codes::ErrorCode;

use super::block::BlockDecompressor;
use super::delta::{self, DeltaError};
use super::digest::DigestTable;
use super::reader::Batch;
use super::stats::{KindStats, PageStats};
use super::varint;
use super::wire::{self, BatchKind, Run};
use crate::ports::{GuestMemory, PAGE_BYTES, PortError};

/// Writes the batches of one bulk stream.
pub struct PageDecoder {
    digests: Arc<DigestTable>,
    decompressor: BlockDecompressor,
    block: Vec<u8>,
    page_digests: Vec<u64>,
    stats: PageStats,
}

/// Why a batch could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The guest's memory refused.
    #[error("cannot {verb} {count} pages of the guest from {first} on")]
    Memory {
        /// "read", "write" or "clear".
        verb: &'static str,
        /// First page.
        first: u64,
        /// Pages.
        count: u64,
        /// Why.
        #[source]
        source: PortError,
    },
    /// The zstd frame is damaged or of another length than its pages.
    #[error("cannot decompress a block of {pages} pages")]
    Zstd {
        /// Pages of the block.
        pages: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A difference is damaged.
    #[error("cannot apply the difference of page {page}")]
    Delta {
        /// The page.
        page: u64,
        /// Why.
        #[source]
        source: DeltaError,
    },
    /// The lengths of the differences do not fill the payload.
    #[error("the differences of {pages} pages do not fill their batch")]
    DeltaLength {
        /// Pages of the batch.
        pages: u32,
    },
    /// The pages are not those that the source had: the batch was damaged, or a difference is not
    /// to what is here.
    #[error("batch {sequence} of round {round} does not match its check")]
    Check {
        /// Sequence number on its stream.
        sequence: u64,
        /// The round.
        round: u32,
    },
}

impl ApplyError {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Memory { .. } => ErrorCode::Memory,
            _ => ErrorCode::PeerProtocol,
        }
    }
}

impl PageDecoder {
    /// A decoder that notes in `digests` what arrived; the decoders of a migration share the table.
    #[must_use]
    pub fn new(digests: Arc<DigestTable>) -> Self {
        Self {
            digests,
            decompressor: BlockDecompressor::new(),
            block: Vec::new(),
            page_digests: Vec::new(),
            stats: PageStats::default(),
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn stats(&self) -> PageStats {
        self.stats
    }

    /// Writes a batch. When it fails for another reason than memory, no page was changed.
    ///
    /// # Errors
    /// When the batch is damaged or memory refuses.
    pub fn apply(&mut self, batch: &Batch<'_>, memory: &dyn GuestMemory) -> Result<(), ApplyError> {
        if batch.header.kind == BatchKind::Zeros {
            self.check(batch, &[])?;
            self.clear(batch.runs, memory)?;
        } else {
            let mut block = std::mem::take(&mut self.block);
            let result = self.write(batch, &mut block, memory);
            self.block = block;
            result?;
        }
        let kind = match batch.header.kind {
            BatchKind::Zeros => &mut self.stats.zero,
            BatchKind::Raw => &mut self.stats.raw,
            BatchKind::Zstd => &mut self.stats.zstd,
            BatchKind::Delta => &mut self.stats.delta,
        };
        let pages = batch.header.pages.into();
        let bytes = batch.wire_bytes();
        *kind += KindStats { pages, bytes };
        Ok(())
    }

    fn clear(&self, runs: &[Run], memory: &dyn GuestMemory) -> Result<(), ApplyError> {
        for &(first, count) in runs {
            self.digests.forget(first, count);
            if !memory.is_untouched(first, count) {
                let refused = memory_error("clear", (first, count));
                memory.write_zeros(first, count).map_err(refused)?;
            }
            self.digests.note_zeros(first, count);
        }
        Ok(())
    }

    fn write(
        &mut self,
        batch: &Batch<'_>,
        block: &mut Vec<u8>,
        memory: &dyn GuestMemory,
    ) -> Result<(), ApplyError> {
        let pages = batch.header.pages;
        let bytes = match batch.header.kind {
            BatchKind::Zeros | BatchKind::Raw => batch.payload,
            BatchKind::Zstd => {
                // The reader lets no more than `MAX_BLOCK_PAGES` through.
                block.resize(pages as usize * PAGE_BYTES, 0);
                let done = self.decompressor.decompress(batch.payload, block);
                done.map_err(|source| ApplyError::Zstd { pages, source })?;
                block
            }
            BatchKind::Delta => {
                block.resize(pages as usize * PAGE_BYTES, 0);
                for_runs(batch.runs, block, |(first, count), bytes| {
                    let refused = memory_error("read", (first, count));
                    memory.read(first, bytes).map_err(refused)
                })?;
                apply_deltas(batch, block)?;
                block
            }
        };
        let mut digests = std::mem::take(&mut self.page_digests);
        digests.clear();
        let seed = self.digests.seed();
        digests.extend(bytes.chunks_exact(PAGE_BYTES).map(|page| seed.digest(page)));
        let checked = self.check(batch, &digests);
        self.page_digests = digests;
        checked?;
        let mut rest = bytes;
        for &(first, count) in batch.runs {
            // Should the write fail half way, nobody knows what is there.
            self.digests.forget(first, count);
            let (now, later) = rest.split_at(count as usize * PAGE_BYTES);
            let refused = memory_error("write", (first, count));
            memory.write(first, now).map_err(refused)?;
            rest = later;
        }
        for (page, &digest) in pages_of(batch.runs).zip(&self.page_digests) {
            self.digests.note(page, digest);
        }
        Ok(())
    }

    fn check(&self, batch: &Batch<'_>, digests: &[u64]) -> Result<(), ApplyError> {
        let seed = self.digests.seed();
        if wire::check(&batch.header, batch.list, digests, seed) == batch.header.check {
            return Ok(());
        }
        let (sequence, round) = (batch.header.sequence, batch.header.round);
        Err(ApplyError::Check { sequence, round })
    }
}

/// Turns the pages of `block` into the new ones.
fn apply_deltas(batch: &Batch<'_>, block: &mut [u8]) -> Result<(), ApplyError> {
    let mut payload = batch.payload;
    let pages = batch.header.pages;
    for (page, bytes) in pages_of(batch.runs).zip(block.chunks_exact_mut(PAGE_BYTES)) {
        let length = varint::take(&mut payload).and_then(|length| usize::try_from(length).ok());
        let parts = length.and_then(|length| payload.split_at_checked(length));
        let (delta, rest) = parts.ok_or(ApplyError::DeltaLength { pages })?;
        delta::apply(delta, bytes).map_err(|source| ApplyError::Delta { page, source })?;
        payload = rest;
    }
    if payload.is_empty() {
        Ok(())
    } else {
        Err(ApplyError::DeltaLength { pages })
    }
}

/// Calls `act` with each run and its part of `block`.
fn for_runs<E>(
    runs: &[Run],
    mut block: &mut [u8],
    mut act: impl FnMut(Run, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    for &(first, count) in runs {
        let (now, later) = block.split_at_mut(count as usize * PAGE_BYTES);
        act((first, count), now)?;
        block = later;
    }
    Ok(())
}

fn pages_of(runs: &[Run]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|&(first, count)| first..first + count)
}

fn memory_error(verb: &'static str, run: Run) -> impl FnOnce(PortError) -> ApplyError {
    let (first, count) = run;
    move |source| ApplyError::Memory {
        verb,
        first,
        count,
        source,
    }
}
