//! Copies of pages as last sent, the bases of deltas.
//!
//! Bounded, and kept only of pages that were sent twice: those are written again and again. A copy
//! gives way only when its page was not sent in this round or the one before. So when more pages
//! are hot than fit, those that did fit keep their place and their deltas; with the least recently
//! used going first, a guest that writes its memory in circles would never find a copy again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::delta;
use crate::ports::PAGE_BYTES;

/// Parts with a lock each, so that streams do not wait for each other.
const SHARDS: u64 = 16;

/// Neighbouring pages that share a shard, as they are sent by one stream.
const SHARD_RUN_PAGES: u64 = 64;

/// Copies looked at for one that may give way.
const MAX_LOOKS: usize = 4;

/// What the index and the slot of a copy take besides its bytes, roughly.
const OVERHEAD_BYTES: u64 = 128;

/// What came of looking for a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delta {
    /// There was one, and the delta was appended.
    Made,
    /// There was one, and the delta is too long.
    TooLong,
    /// There was none.
    NoBase,
}

/// Copies of pages as last sent, for all streams.
#[derive(Debug)]
pub(crate) struct CopyCache {
    shards: Box<[Mutex<Shard>]>,
    copies_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Copy>,
    by_page: HashMap<u64, usize>,
    hand: usize,
}

#[derive(Debug)]
struct Copy {
    page: u64,
    digest: u64,
    round: u32,
    bytes: Box<[u8]>,
}

impl CopyCache {
    /// A cache of at most `limit_bytes`.
    pub(crate) fn new(limit_bytes: u64) -> Self {
        let copies = limit_bytes / (PAGE_BYTES as u64 + OVERHEAD_BYTES);
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            copies_per_shard: (copies / SHARDS) as usize,
        }
    }

    /// Appends the delta of `page` to the copy whose digest is `base`, and makes `bytes` the copy.
    /// `out` stays as it was without such a copy or when the delta is too long.
    pub(crate) fn replace(
        &self,
        page: u64,
        base: u64,
        (digest, bytes): (u64, &[u8]),
        round: u32,
        out: &mut Vec<u8>,
    ) -> Delta {
        let mut shard = self.shard(page);
        let Some(copy) = shard.slot(page, round, self.copies_per_shard) else {
            return Delta::NoBase;
        };
        // A copy of what another stream replaced since, or of another page, is no base.
        let found = if copy.page != page || copy.digest != base {
            Delta::NoBase
        } else if delta::encode(&copy.bytes, bytes, delta::MAX_DELTA_BYTES, out) {
            Delta::Made
        } else {
            Delta::TooLong
        };
        copy.page = page;
        copy.digest = digest;
        copy.bytes.copy_from_slice(bytes);
        copy.round = round;
        found
    }

    /// Bytes that the copies take now.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let copies: usize = self.shards.iter().map(|s| lock(s).slots.len()).sum();
        copies as u64 * (PAGE_BYTES as u64 + OVERHEAD_BYTES)
    }

    fn shard(&self, page: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(page / SHARD_RUN_PAGES % SHARDS) as usize])
    }
}

impl Shard {
    /// The copy of `page`, else a free one or one that gives way.
    fn slot(&mut self, page: u64, round: u32, limit: usize) -> Option<&mut Copy> {
        if let Some(&at) = self.by_page.get(&page) {
            return Some(&mut self.slots[at]);
        }
        let at = if self.slots.len() < limit {
            self.slots.push(Copy {
                page,
                digest: 0,
                round,
                bytes: vec![0; PAGE_BYTES].into_boxed_slice(),
            });
            self.slots.len() - 1
        } else {
            let at = self.stale(round)?;
            self.by_page.remove(&self.slots[at].page);
            at
        };
        self.by_page.insert(page, at);
        Some(&mut self.slots[at])
    }

    /// A copy that was of no use in this round and the one before.
    fn stale(&mut self, round: u32) -> Option<usize> {
        for _ in 0..MAX_LOOKS.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            if self.slots[self.hand].round.saturating_add(1) < round {
                return Some(self.hand);
            }
        }
        None
    }
}

/// A copy that a panicking thread left half written has a digest that no table knows, or its old
/// digest and bytes; but none of the calls under the lock panics.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(tag: u8) -> [u8; PAGE_BYTES] {
        [tag; PAGE_BYTES]
    }

    /// Sends page `page` with `tag` as content and digest, on top of `base`.
    fn send(cache: &CopyCache, page: u64, base: u8, tag: u8, round: u32) -> bool {
        let mut bytes = content(0);
        bytes[0] = tag;
        let mut out = Vec::new();
        let content = (u64::from(tag), &bytes[..]);
        cache.replace(page, base.into(), content, round, &mut out) == Delta::Made
    }

    #[test]
    fn a_delta_needs_the_copy_that_the_other_side_has() {
        let cache = CopyCache::new(1 << 20);
        assert!(!send(&cache, 3, 1, 2, 1), "no copy yet");
        assert!(send(&cache, 3, 2, 3, 2));
        assert!(
            !send(&cache, 3, 9, 4, 3),
            "the other side has something else"
        );
        assert!(send(&cache, 3, 4, 5, 4), "and is known again afterwards");
    }

    #[test]
    fn a_circle_larger_than_the_cache_still_finds_copies() {
        let cache = CopyCache::new(1 << 20);
        let pages = 1024;
        let mut hits = 0;
        for round in 1..=4 {
            for page in 0..pages {
                let hit = send(&cache, page, round as u8 - 1, round as u8, round);
                hits += u64::from(hit && round == 4);
            }
        }
        assert!(hits >= 200, "a quarter of the circle fits, found {hits}");
        assert!(cache.memory_bytes() <= 1 << 20);
    }

    #[test]
    fn a_page_that_cooled_down_gives_way() {
        let cache = CopyCache::new(SHARDS * (PAGE_BYTES as u64 + OVERHEAD_BYTES));
        assert!(!send(&cache, 0, 9, 1, 1));
        assert!(
            !send(&cache, 1, 9, 1, 2),
            "refused: page 0 was of use just now"
        );
        assert!(!send(&cache, 1, 1, 2, 3), "takes the place of page 0");
        assert!(send(&cache, 1, 2, 3, 4));
        assert!(!send(&cache, 0, 1, 2, 5));
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let cache = CopyCache::new(0);
        assert!(!send(&cache, 0, 9, 1, 1));
        assert!(!send(&cache, 0, 1, 2, 9));
        assert_eq!(cache.memory_bytes(), 0);
    }
}
