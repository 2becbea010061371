//! Digests of the parts of pages as last sent: the bases of deltas where there is no copy.
//!
//! A page of which a few bytes change is sent as the parts whose digests changed, the first time
//! that it is sent again: nobody can keep a copy of every page, but some words of each. The more
//! memory the guest has, the fewer and larger the parts, so that the table stays within its limit.
//!
//! Two contents of a part may have one digest, by a chance of 2^-64 or by the doing of a guest that
//! guessed the seed. The target then notices that the page is not what it should be, as it does
//! for each page, and the migration ends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_64_with_seed};

use super::cache::Delta;
use super::digest::DigestSeed;
use super::varint;
use crate::ports::PAGE_BYTES;

/// Parts of a page, the best first.
const PARTS: [usize; 3] = [16, 8, 4];

/// Pages whose digests are allocated at once.
const CHUNK_PAGES: u64 = 4096;

/// Words of xxh3's secret; it wants at least 17.
const SECRET_WORDS: u64 = 24;

/// The longest delta: a quarter of a page, in parts of any size.
const MAX_DELTA_BYTES: usize = PAGE_BYTES / 4 + 16;

/// For each page, the digest of the whole and of each part, where known. Shared by all streams.
#[derive(Debug)]
pub(crate) struct PartTable {
    secret: Vec<u8>,
    /// Parts of a page; none when not even the fewest fit.
    parts: usize,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl PartTable {
    /// A table for a guest of `pages` that takes at most `limit_bytes`.
    pub(crate) fn new(seed: DigestSeed, pages: u64, limit_bytes: u64) -> Self {
        let chunks = pages.div_ceil(CHUNK_PAGES);
        let fits = |parts: &usize| Self::bytes(chunks, *parts) <= limit_bytes;
        let parts = PARTS.into_iter().find(fits).unwrap_or(0);
        let words = |index: u64| xxh3_64_with_seed(&index.to_le_bytes(), seed.0).to_le_bytes();
        Self {
            secret: (0..SECRET_WORDS).flat_map(words).collect(),
            parts,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The most that it takes when every page was sent, bytes.
    pub(crate) fn most_bytes(&self) -> u64 {
        match self.parts {
            0 => 0,
            parts => Self::bytes(self.chunks.len() as u64, parts),
        }
    }

    /// Bytes that it takes now.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let made = self.chunks.iter().filter(|chunk| chunk.get().is_some());
        made.count() as u64 * Self::bytes(1, self.parts)
    }

    fn bytes(chunks: u64, parts: usize) -> u64 {
        chunks * CHUNK_PAGES * 8 * (parts as u64 + 1)
    }

    /// Notes that `bytes`, whose digest is `digest`, are what the target will have of `page`.
    pub(crate) fn note(&self, page: u64, digest: u64, bytes: &[u8]) {
        let Some(chunk) = self.chunks.get((page / CHUNK_PAGES) as usize) else {
            return;
        };
        if self.parts == 0 {
            return;
        }
        let words = CHUNK_PAGES as usize * (self.parts + 1);
        let chunk = chunk.get_or_init(|| (0..words).map(|_| AtomicU64::new(0)).collect());
        let (whole, parts) = self.words(chunk, page);
        // Whoever should read meanwhile finds no base.
        whole.store(0, Ordering::Release);
        for (word, part) in parts.iter().zip(self.split(bytes)) {
            word.store(self.digest(part), Ordering::Relaxed);
        }
        whole.store(digest, Ordering::Release);
    }

    /// Appends the parts of `bytes` that differ from the content of `page` whose digest is `base`.
    /// `out` stays as it was when that is not known or when the delta is too long.
    pub(crate) fn encode(&self, page: u64, base: u64, bytes: &[u8], out: &mut Vec<u8>) -> Delta {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize);
        let Some(chunk) = chunk.and_then(OnceLock::get).filter(|_| self.parts > 0) else {
            return Delta::NoBase;
        };
        let (whole, parts) = self.words(chunk, page);
        if whole.load(Ordering::Acquire) != base {
            return Delta::NoBase;
        }
        let start = out.len();
        let mut skipped = 0;
        for (word, part) in parts.iter().zip(self.split(bytes)) {
            if word.load(Ordering::Relaxed) == self.digest(part) {
                skipped += part.len();
                continue;
            }
            varint::push(skipped as u64, out);
            varint::push(part.len() as u64, out);
            out.extend_from_slice(part);
            skipped = 0;
            if out.len() - start > MAX_DELTA_BYTES {
                out.truncate(start);
                return Delta::TooLong;
            }
        }
        Delta::Made
    }

    fn words<'a>(&self, chunk: &'a [AtomicU64], page: u64) -> (&'a AtomicU64, &'a [AtomicU64]) {
        let each = self.parts + 1;
        let at = (page % CHUNK_PAGES) as usize * each;
        let words = &chunk[at..at + each];
        (&words[0], &words[1..])
    }

    fn split<'a>(&self, page: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        page.chunks(page.len() / self.parts)
    }

    fn digest(&self, part: &[u8]) -> u64 {
        xxh3_64_with_secret(part, &self.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::super::delta;
    use super::*;
    use proptest::prelude::*;

    const SEED: DigestSeed = DigestSeed(7);
    const LIMIT: u64 = 1 << 20;

    fn table() -> PartTable {
        PartTable::new(SEED, 100, LIMIT)
    }

    proptest! {
        #[test]
        fn a_delta_of_parts_turns_the_base_into_the_page(
            changes in proptest::collection::vec((0..PAGE_BYTES, any::<u8>()), 0..6),
        ) {
            let base: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 31 / 7) as u8).collect();
            let mut page = base.clone();
            for (at, byte) in changes {
                page[at] = byte;
            }
            let table = table();
            table.note(42, SEED.digest(&base), &base);
            let mut out = vec![9];
            match table.encode(42, SEED.digest(&base), &page, &mut out) {
                Delta::Made => {
                    prop_assert!(out.len() <= 1 + MAX_DELTA_BYTES);
                    let mut again = base;
                    delta::apply(&out[1..], &mut again).unwrap();
                    prop_assert_eq!(again, page);
                }
                found => {
                    prop_assert_eq!(found, Delta::TooLong);
                    prop_assert_eq!(out, [9], "nothing is left of an attempt");
                }
            }
        }
    }

    #[test]
    fn a_small_change_takes_a_part() {
        let (table, mut page) = (table(), vec![1; PAGE_BYTES]);
        table.note(3, 11, &page);
        page[1000] = 2;
        let mut out = Vec::new();
        assert_eq!(table.encode(3, 11, &page, &mut out), Delta::Made);
        assert!(out.len() <= PAGE_BYTES / 16 + 4, "{}", out.len());
    }

    #[test]
    fn what_the_target_has_must_be_what_was_noted() {
        let (table, page) = (table(), vec![1; PAGE_BYTES]);
        let mut out = Vec::new();
        assert_eq!(table.encode(3, 11, &page, &mut out), Delta::NoBase);
        table.note(3, 11, &page);
        for (page_number, base) in [(3, 12), (4, 11), (1 << 40, 11)] {
            let found = table.encode(page_number, base, &page, &mut out);
            assert_eq!(found, Delta::NoBase);
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_larger_guest_gets_larger_parts_and_a_huge_one_none() {
        let limit = 24 << 20;
        let parts = [1 << 14, 1 << 18, 1 << 19, 1 << 22]
            .map(|pages| PartTable::new(SEED, pages, limit))
            .map(|table| (table.parts, table.most_bytes() <= limit));
        assert_eq!(parts, [(16, true), (8, true), (4, true), (0, true)]);
    }

    #[test]
    fn memory_is_taken_for_what_was_sent_only() {
        let table = PartTable::new(SEED, 1 << 16, LIMIT * 16);
        assert_eq!(table.memory_bytes(), 0);
        table.note(5, 1, &[1; PAGE_BYTES]);
        assert_eq!(table.memory_bytes() * 16, table.most_bytes());
    }
}
