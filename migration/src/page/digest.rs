//! Digests of the content that the other side has of each page.
//!
//! 8 bytes a page, 0.2 % of the guest's memory, and only for parts of memory that were ever sent
//! as something else than zeros. The same table serves a return: what came with a guest is what
//! the host that gave it away still has.
//!
//! xxh3 is no cryptographic hash. The seed, drawn anew for each migration, is what a guest would
//! have to guess to make two contents of one page collide, and then it would harm only itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ports::PAGE_BYTES;

/// Pages per part of the table that is allocated at once: 16 MiB of guest memory, 32 KiB of digests.
const CHUNK_PAGES: u64 = 4096;

/// First bytes of a serialised table.
const MAGIC: [u8; 4] = *b"GDIG";

/// Version of a serialised table that this build writes, and the only one it reads.
const VERSION: u32 = 1;

/// Magic, version, pages, seed.
const HEADER_BYTES: usize = 24;

/// Index and digests of a chunk.
const CHUNK_RECORD_BYTES: usize = 8 + CHUNK_PAGES as usize * 8;

/// The seed of all digests of one migration; both sides know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestSeed(pub u64);

impl DigestSeed {
    /// The digest of a page's content; never 0, which stands for "unknown".
    #[must_use]
    pub fn digest(self, page: &[u8]) -> u64 {
        xxh3_64_with_seed(page, self.0).max(1)
    }
}

/// The digest of each page's content at the other side, where known. Shared by all streams.
#[derive(Debug)]
pub struct DigestTable {
    seed: DigestSeed,
    pages: u64,
    zero: u64,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// Why bytes are no table of a guest's digests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestTableError {
    /// The length is not that of a header and whole chunks.
    #[error("a digest table of {found} bytes is cut off or too long")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// Not a table, or of a version that this build does not know.
    #[error("these bytes are no digest table of version {VERSION}")]
    Unknown,
    /// The table of a guest of another size.
    #[error("the digest table is for {found} pages, the guest has {expected}")]
    Pages {
        /// Pages of the table.
        found: u64,
        /// Pages of the guest.
        expected: u64,
    },
    /// Chunks beyond the guest, repeated or out of order.
    #[error("chunk {index} of the digest table is outside the guest or out of order")]
    Chunk {
        /// The chunk's index as found.
        index: u64,
    },
    /// The bytes were altered.
    #[error("the digest table does not match its checksum")]
    Checksum,
}

impl DigestTable {
    /// The table of a guest with `pages` pages of which nothing is known.
    #[must_use]
    pub fn new(pages: u64, seed: DigestSeed) -> Self {
        Self {
            seed,
            pages,
            zero: seed.digest(&[0; PAGE_BYTES]),
            chunks: (0..pages.div_ceil(CHUNK_PAGES))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// How many pages the guest has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The seed of the digests.
    #[must_use]
    pub fn seed(&self) -> DigestSeed {
        self.seed
    }

    /// The digest of a page of zeros.
    #[must_use]
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The digest of what the other side has of `page`; `None` when unknown or no page.
    #[must_use]
    pub fn known(&self, page: u64) -> Option<u64> {
        if page >= self.pages {
            return None;
        }
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize)?.get()?;
        let digest = chunk[(page % CHUNK_PAGES) as usize].load(Ordering::Relaxed);
        (digest != 0).then_some(digest)
    }

    /// Notes the digest of what the other side now has of `page`; nothing for what is no page.
    pub fn note(&self, page: u64, digest: u64) {
        if page >= self.pages {
            return;
        }
        let chunk = self.chunks[(page / CHUNK_PAGES) as usize]
            .get_or_init(|| (0..CHUNK_PAGES).map(|_| AtomicU64::new(0)).collect());
        chunk[(page % CHUNK_PAGES) as usize].store(digest, Ordering::Relaxed);
    }

    /// Notes that the other side has zeros in `count` pages from `first` on. Allocates nothing:
    /// where nothing else was ever sent they stay unknown, and zeros sent again cost next to
    /// nothing.
    pub fn note_zeros(&self, first: u64, count: u64) {
        self.store_where_allocated(first, count, self.zero);
    }

    /// Forgets what the other side has of `count` pages from `first` on: it may never have arrived,
    /// or was discarded there (MIG-76).
    pub fn forget(&self, first: u64, count: u64) {
        self.store_where_allocated(first, count, 0);
    }

    /// Bytes that the table takes now.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let allocated = self.chunks.iter().filter(|c| c.get().is_some()).count() as u64;
        allocated * CHUNK_PAGES * 8 + size_of_val(&*self.chunks) as u64
    }

    /// The most bytes that [`to_bytes`](Self::to_bytes) makes of a guest with `pages` pages.
    #[must_use]
    pub fn max_bytes(pages: u64) -> u64 {
        let chunks = pages.div_ceil(CHUNK_PAGES);
        chunks
            .saturating_mul(CHUNK_RECORD_BYTES as u64)
            .saturating_add(HEADER_BYTES as u64 + 8)
    }

    /// The table as kept for a return: magic, version, pages, seed, then index and digests of each
    /// chunk, then a checksum; all little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.memory_bytes() as usize + HEADER_BYTES + 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes.extend_from_slice(&self.seed.0.to_le_bytes());
        for (index, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk.get() else { continue };
            bytes.extend_from_slice(&(index as u64).to_le_bytes());
            for digest in chunk {
                bytes.extend_from_slice(&digest.load(Ordering::Relaxed).to_le_bytes());
            }
        }
        let check = xxh3_64(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// The table that was kept, for a guest with `pages` pages. Takes no more memory than a full
    /// table of such a guest.
    ///
    /// # Errors
    /// When the bytes are no such table.
    pub fn from_bytes(bytes: &[u8], pages: u64) -> Result<Self, DigestTableError> {
        let length = DigestTableError::Length { found: bytes.len() };
        if bytes.len() as u64 > Self::max_bytes(pages) {
            return Err(length);
        }
        let Some((body, check)) = bytes.split_last_chunk::<8>() else {
            return Err(length);
        };
        let Some((header, records)) = body.split_first_chunk::<HEADER_BYTES>() else {
            return Err(length);
        };
        if header[..4] != MAGIC || header[4..8] != VERSION.to_le_bytes() {
            return Err(DigestTableError::Unknown);
        }
        if xxh3_64(body) != u64::from_le_bytes(*check) {
            return Err(DigestTableError::Checksum);
        }
        let found = u64_at(header, 8);
        if found != pages {
            let expected = pages;
            return Err(DigestTableError::Pages { found, expected });
        }
        if records.len() % CHUNK_RECORD_BYTES != 0 {
            return Err(length);
        }
        let table = Self::new(pages, DigestSeed(u64_at(header, 16)));
        let mut lowest = 0;
        for record in records.chunks_exact(CHUNK_RECORD_BYTES) {
            let index = u64_at(record, 0);
            if index < lowest || index >= table.chunks.len() as u64 {
                return Err(DigestTableError::Chunk { index });
            }
            lowest = index + 1;
            let digests = (1..=CHUNK_PAGES as usize).map(|at| u64_at(record, at * 8).into());
            table.chunks[index as usize].get_or_init(|| digests.collect());
        }
        Ok(table)
    }

    fn store_where_allocated(&self, first: u64, count: u64, digest: u64) {
        let end = first.saturating_add(count).min(self.pages);
        let mut page = first;
        while page < end {
            let chunk_end = ((page / CHUNK_PAGES + 1) * CHUNK_PAGES).min(end);
            if let Some(chunk) = self.chunks[(page / CHUNK_PAGES) as usize].get() {
                let from = (page % CHUNK_PAGES) as usize;
                for slot in &chunk[from..from + (chunk_end - page) as usize] {
                    slot.store(digest, Ordering::Relaxed);
                }
            }
            page = chunk_end;
        }
    }
}

/// The little-endian integer at `at`, which the caller knows to be inside.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: DigestSeed = DigestSeed(7);

    #[test]
    fn a_table_knows_what_was_noted_and_nothing_else() {
        let table = DigestTable::new(10_000, SEED);
        table.note(5000, 42);
        table.note(10_000, 42);
        assert_eq!(table.known(5000), Some(42));
        assert_eq!(table.known(5001), None);
        assert_eq!(table.known(10_000), None);
        table.forget(0, u64::MAX);
        assert_eq!(table.known(5000), None);
    }

    #[test]
    fn zeros_replace_what_was_known_and_allocate_nothing() {
        let table = DigestTable::new(1 << 20, SEED);
        let empty = table.memory_bytes();
        table.note_zeros(0, 1 << 20);
        assert_eq!(table.memory_bytes(), empty);
        table.note(4095, 42);
        table.note_zeros(4095, 2);
        assert_eq!(table.known(4095), Some(table.zero()));
        assert_eq!(table.known(4096), None, "its chunk was never needed");
    }

    #[test]
    fn a_full_table_takes_two_thousandths_of_the_guest() {
        let pages = 1 << 18;
        let table = DigestTable::new(pages, SEED);
        (0..pages).for_each(|page| table.note(page, 1));
        let guest = pages * PAGE_BYTES as u64;
        assert!(
            table.memory_bytes() * 1000 <= guest * 2,
            "{}",
            table.memory_bytes()
        );
    }

    #[test]
    fn a_table_survives_being_kept() {
        let table = DigestTable::new(9000, SEED);
        table.note(1, 11);
        table.note(8999, 99);
        let bytes = table.to_bytes();
        assert!(bytes.len() as u64 <= DigestTable::max_bytes(9000));
        let again = DigestTable::from_bytes(&bytes, 9000).unwrap();
        assert_eq!(again.seed(), SEED);
        assert!((0..9000).all(|page| again.known(page) == table.known(page)));
    }

    #[test]
    fn a_damaged_table_is_refused() {
        let table = DigestTable::new(9000, SEED);
        table.note(8999, 99);
        let bytes = table.to_bytes();
        for length in (0..64).chain(bytes.len() - 64..bytes.len()) {
            assert!(DigestTable::from_bytes(&bytes[..length], 9000).is_err());
        }
        for at in (0..48).chain(bytes.len() - 48..bytes.len()) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(DigestTable::from_bytes(&bytes, 9000).is_err(), "byte {at}");
        }
        let other = DigestTable::from_bytes(&bytes, 9001);
        let (found, expected) = (9000, 9001);
        assert_eq!(
            other.unwrap_err(),
            DigestTableError::Pages { found, expected }
        );
    }

    #[test]
    fn chunks_out_of_order_or_outside_are_refused_even_with_a_right_checksum() {
        let table = DigestTable::new(9000, SEED);
        table.note(0, 1);
        table.note(4096, 2);
        let bytes = table.to_bytes();
        for index in [1u64, 3, u64::MAX] {
            let mut bytes = bytes.clone();
            bytes[HEADER_BYTES..][..8].copy_from_slice(&index.to_le_bytes());
            let end = bytes.len() - 8;
            let check = xxh3_64(&bytes[..end]);
            bytes[end..].copy_from_slice(&check.to_le_bytes());
            let found = DigestTable::from_bytes(&bytes, 9000);
            assert!(
                matches!(found, Err(DigestTableError::Chunk { .. })),
                "{index}"
            );
        }
    }
}
