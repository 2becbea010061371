//! Which pages of guest memory are still to arrive, and parts of huge pages that have arrived.
//!
//! Pure bookkeeping, for many threads at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::layout::PAGE_SIZE;
use super::post_copy::PostCopyError;

/// Huge pages of which a part is there, at most: 128 MiB. A source sends each over one stream, and
/// so has no more under way than it has streams and requests.
const MAX_GATHERED: usize = 64;

/// The pages that are still to arrive.
pub(super) struct AbsentPages {
    words: Box<[AtomicU64]>,
    pages: u64,
    /// Guest pages in a page of the host, a power of two up to 512.
    unit: u64,
    gathered: Mutex<HashMap<u64, Unit>>,
}

/// A page of the host that is half there.
struct Unit {
    bytes: Box<[u8]>,
    have: [u64; 8],
}

/// What became of part of a page of the host.
pub(super) enum Gathered {
    /// Other parts are missing.
    Partly,
    /// It was the last part; the caller installs the page.
    Whole { first: u64, bytes: Box<[u8]> },
}

impl AbsentPages {
    /// None of `pages` pages, on a host whose pages have `unit` of them.
    pub(super) fn new(pages: u64, unit: u64) -> Self {
        Self {
            words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            pages,
            unit,
            gathered: Mutex::default(),
        }
    }

    /// Whether the guest has these pages.
    pub(super) fn are_pages(&self, first: u64, count: u64) -> bool {
        first
            .checked_add(count)
            .is_some_and(|end| end <= self.pages)
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        page < self.pages && self.word(page / 64) >> (page % 64) & 1 == 1
    }

    pub(super) fn insert(&self, first: u64, count: u64) {
        self.for_words(first, count, |word, mask| {
            word.fetch_or(mask, Ordering::AcqRel);
        });
    }

    pub(super) fn remove(&self, first: u64, count: u64) {
        self.for_words(first, count, |word, mask| {
            word.fetch_and(!mask, Ordering::AcqRel);
        });
    }

    /// The first run of absent pages at or after `from` and before `end`, as (first page, pages).
    pub(super) fn next_run(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let first = self.next(from, end, true)?;
        let after = self.next(first, end, false).unwrap_or(end);
        Some((first, after - first))
    }

    /// Whether these are whole pages of the host.
    pub(super) fn is_unit(&self, first: u64, count: u64) -> bool {
        first.is_multiple_of(self.unit) && count.is_multiple_of(self.unit)
    }

    /// The pages cut at the host's.
    pub(super) fn pieces(&self, first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
        let (unit, end) = (self.unit, first + count);
        let mut at = first;
        std::iter::from_fn(move || {
            let piece = (end - at).min(unit - at % unit);
            at += piece;
            (piece > 0).then(|| (at - piece, piece))
        })
    }

    /// Keeps a part of a page of the host, of zeros without `bytes`.
    pub(super) fn gather(
        &self,
        first: u64,
        count: u64,
        bytes: Option<&[u8]>,
    ) -> Result<Gathered, PostCopyError> {
        let index = first / self.unit;
        let whole_bytes = (self.unit * PAGE_SIZE) as usize;
        let mut units = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if units.len() >= MAX_GATHERED && !units.contains_key(&index) {
            return Err(PostCopyError::Scattered { most: MAX_GATHERED });
        }
        let unit = units.entry(index).or_insert_with(|| Unit {
            bytes: vec![0; whole_bytes].into(),
            have: [0; 8],
        });
        let start = first % self.unit;
        if let Some(bytes) = bytes {
            let at = (start * PAGE_SIZE) as usize;
            unit.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        for page in start..start + count {
            unit.have[(page / 64) as usize] |= 1 << (page % 64);
        }
        let have: u32 = unit.have.iter().map(|word| word.count_ones()).sum();
        if u64::from(have) < self.unit {
            return Ok(Gathered::Partly);
        }
        let unit = units.remove(&index).expect("it was just filled");
        Ok(Gathered::Whole {
            first: index * self.unit,
            bytes: unit.bytes,
        })
    }

    fn word(&self, index: u64) -> u64 {
        self.words[index as usize].load(Ordering::Acquire)
    }

    fn for_words(&self, first: u64, count: u64, change: impl Fn(&AtomicU64, u64)) {
        let (mut page, end) = (first, (first + count).min(self.pages));
        while page < end {
            let bit = page % 64;
            let count = (64 - bit).min(end - page);
            let mask = (u64::MAX >> (64 - count)) << bit;
            change(&self.words[(page / 64) as usize], mask);
            page += count;
        }
    }

    fn next(&self, from: u64, end: u64, absent: bool) -> Option<u64> {
        let mut index = from / 64;
        let mut mask = u64::MAX << (from % 64);
        while index * 64 < end {
            let word = self.word(index);
            let bits = if absent { word } else { !word } & mask;
            if bits != 0 {
                let page = index * 64 + u64::from(bits.trailing_zeros());
                return (page < end).then_some(page);
            }
            mask = u64::MAX;
            index += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_pages_are_there_or_nobody_asks() {
        let absent = AbsentPages::new(300, 1);
        absent.insert(60, 100);
        absent.remove(100, 1);
        assert_eq!(absent.next_run(0, 300), Some((60, 40)));
        assert_eq!(absent.next_run(70, 80), Some((70, 10)));
        assert_eq!(absent.next_run(100, 300), Some((101, 59)));
        assert_eq!(absent.next_run(160, 300), None);
        assert!(absent.contains(159) && !absent.contains(100) && !absent.contains(300));
        assert!(absent.are_pages(299, 1) && !absent.are_pages(299, 2));
        assert!(!absent.are_pages(u64::MAX, 2));
    }

    #[test]
    fn parts_of_a_huge_page_make_a_whole_one_in_any_order() {
        let absent = AbsentPages::new(4096, 512);
        let page = |byte: u8| vec![byte; PAGE_SIZE as usize];
        assert!(matches!(
            absent.gather(513, 511, None),
            Ok(Gathered::Partly)
        ));
        // The same again changes nothing.
        assert!(matches!(
            absent.gather(1000, 1, Some(&page(0))),
            Ok(Gathered::Partly)
        ));
        let Ok(Gathered::Whole { first, bytes }) = absent.gather(512, 1, Some(&page(7))) else {
            panic!("not whole");
        };
        assert_eq!((first, bytes.len()), (512, 2 << 20));
        assert!(bytes[..4096].iter().all(|&b| b == 7) && bytes[4096..].iter().all(|&b| b == 0));
    }

    #[test]
    fn pieces_do_not_cross_pages_of_the_host() {
        let absent = AbsentPages::new(4096, 512);
        let pieces: Vec<_> = absent.pieces(500, 600).collect();
        assert_eq!(pieces, [(500, 12), (512, 512), (1024, 76)]);
        assert!(absent.is_unit(512, 1024) && !absent.is_unit(512, 100));
    }

    #[test]
    fn a_source_that_scatters_parts_of_huge_pages_is_stopped() {
        let absent = AbsentPages::new(1 << 20, 512);
        for unit in 0..MAX_GATHERED as u64 {
            assert!(absent.gather(unit * 512, 1, None).is_ok());
        }
        let next = MAX_GATHERED as u64 * 512;
        assert!(absent.gather(next, 1, None).is_err());
        assert!(absent.gather(0, 2, None).is_ok(), "what is begun goes on");
    }
}
