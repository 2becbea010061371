//! The way out of the encoder: pages that wait for their batch, and batches that leave.

use std::sync::Arc;

use super::sent::SentPages;
use super::stats::{KindStats, PageStats};
use super::wire::{self, BatchKind, MAX_BLOCK_PAGES, Outgoing, Run};

/// Pages of one kind that wait for their batch.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) runs: Vec<Run>,
    pub(super) pages: u64,
    pub(super) digests: Vec<u64>,
    pub(super) bytes: Vec<u8>,
}

impl Pending {
    pub(super) fn add_run(&mut self, (first, count): Run) {
        match self.runs.last_mut() {
            Some(last) if last.0 + last.1 == first => last.1 += count,
            _ => self.runs.push((first, count)),
        }
        self.pages += count;
    }

    pub(super) fn add(&mut self, page: u64, digest: u64) {
        self.add_run((page, 1));
        self.digests.push(digest);
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.pages = 0;
        self.digests.clear();
        self.bytes.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.pages == MAX_BLOCK_PAGES as u64
    }
}

/// Where batches go: numbers them, counts them, and notes what the target will have.
pub(super) struct Sink {
    pub(super) sent: Arc<SentPages>,
    pub(super) sequence: u64,
    pub(super) round: u32,
    pub(super) stats: PageStats,
}

impl Sink {
    pub(super) fn send(
        &mut self,
        kind: BatchKind,
        level: i8,
        block: &Pending,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        let digests = self.sent.digests();
        let start = out.len();
        let batch = Outgoing {
            kind,
            level,
            round: self.round,
            sequence: self.sequence,
            runs: &block.runs,
            digests: &block.digests,
            payload,
        };
        wire::write(&batch, digests.seed(), out);
        self.sequence += 1;
        let stats = match kind {
            BatchKind::Zeros => &mut self.stats.zero,
            BatchKind::Raw => &mut self.stats.raw,
            BatchKind::Zstd => &mut self.stats.zstd,
            BatchKind::Delta => &mut self.stats.delta,
        };
        let (pages, bytes) = (block.pages, (out.len() - start) as u64);
        *stats += KindStats { pages, bytes };
        if kind == BatchKind::Zeros {
            block
                .runs
                .iter()
                .for_each(|&(first, count)| digests.note_zeros(first, count));
        }
        let pages = block
            .runs
            .iter()
            .flat_map(|&(first, count)| first..first + count);
        for (page, &digest) in pages.zip(&block.digests) {
            digests.note(page, digest);
        }
    }
}
