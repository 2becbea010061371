//! Batches of pages as they are on a bulk stream, version 1.
//!
//! A batch is a header, the list of its pages, and a payload. Integers are little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | magic, `b"GP"` |
//! | 2 | 1 | version |
//! | 3 | 1 | kind |
//! | 4 | 4 | round |
//! | 8 | 8 | sequence: batches before this one on the stream |
//! | 16 | 4 | pages |
//! | 20 | 2 | bytes of the list |
//! | 22 | 1 | zstd level, signed; 0 for other kinds. For the receipt only |
//! | 23 | 1 | 0 |
//! | 24 | 4 | bytes of the payload |
//! | 28 | 8 | check |
//!
//! The list is a varint pair for each run of pages: the distance from the end of the run before (or
//! from page 0), and the number of pages less one. Runs rise; those that touch are one.
//!
//! | kind | payload |
//! |---|---|
//! | 0 zeros | none |
//! | 1 raw | the pages |
//! | 2 zstd | one frame that holds the pages |
//! | 3 delta | for each page the length of its delta as a varint, and the delta |
//!
//! A delta is pairs of varints, bytes to skip and bytes to replace, the new bytes after the second.
//! Varints hold seven bits a byte, low bits first, at most ten bytes; they need not be the shortest.
//!
//! The check is the xxh3 of the header before it, the list, and the digest of each page *as it is
//! at the target afterwards*. So it finds a wrong base of a delta as well as a damaged payload.
//! It guards against faults, not attackers: the stream is authenticated.

use godwit_proto::codes::ErrorCode;
use godwit_proto::version::VersionRange;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::digest::DigestSeed;
use super::varint;
use crate::ports::PAGE_BYTES;

/// The versions of this format that this build speaks; the sides settle on one beforehand.
pub const PAGE_VERSIONS: VersionRange = match VersionRange::new(1, 1) {
    Ok(versions) => versions,
    Err(_) => panic!("a range"),
};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 36;

/// Most pages in a batch that carries content.
pub const MAX_BLOCK_PAGES: usize = 64;

/// Most bytes of content in a batch.
pub const MAX_BLOCK_BYTES: usize = MAX_BLOCK_PAGES * PAGE_BYTES;

/// Most runs in a batch of zeros.
pub const MAX_ZERO_RUNS: usize = 1024;

/// Most pages of a guest that can be numbered: 16 TiB.
pub const MAX_PAGES: u64 = u32::MAX as u64;

/// Bytes before the check.
const CHECKED_BYTES: usize = 28;

/// The longest a list of a permitted number of runs can be.
const MAX_LIST_BYTES: usize = MAX_ZERO_RUNS * 2 * varint::MAX_BYTES;

const MAGIC: [u8; 2] = *b"GP";

/// Pages that follow each other: (first page, pages).
pub type Run = (u64, u64);

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BatchKind {
    /// Zeros.
    Zeros = 0,
    /// Pages as they are.
    Raw = 1,
    /// Pages in a zstd frame.
    Zstd = 2,
    /// Differences to what the target has.
    Delta = 3,
}

/// The fixed part of a batch, checked against the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it carries.
    pub kind: BatchKind,
    /// The round of the migration.
    pub round: u32,
    /// Batches before this one on the stream.
    pub sequence: u64,
    /// Pages.
    pub pages: u32,
    /// zstd level, 0 for other kinds.
    pub level: i8,
    /// Bytes of the list.
    pub(crate) list_bytes: u16,
    /// Bytes of the payload.
    pub(crate) payload_bytes: u32,
    /// See the [module](self).
    pub(crate) check: u64,
}

/// Why bytes are no batch that a guest of this size can be sent on this stream. The stream is of no
/// use afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are no header.
    #[error("a batch of pages starts with {found:02x?}")]
    Magic {
        /// The bytes instead of the magic.
        found: [u8; 2],
    },
    /// Not the version that the sides settled on.
    #[error("a batch of pages has version {found} instead of {expected}")]
    Version {
        /// As found.
        found: u8,
        /// As agreed.
        expected: u16,
    },
    /// A kind that this version does not have.
    #[error("a batch of pages of unknown kind {found}")]
    Kind {
        /// As found.
        found: u8,
    },
    /// A reserved byte is not zero, or there is a level without zstd.
    #[error("a batch of pages has reserved bytes set")]
    Reserved,
    /// A batch is lost, repeated or out of order.
    #[error("batch {found} of pages came where {expected} was due")]
    Sequence {
        /// As found.
        found: u64,
        /// As due.
        expected: u64,
    },
    /// The round is before that of the batch before.
    #[error("a batch of round {found} came after one of round {last}")]
    Round {
        /// As found.
        found: u32,
        /// Of the batch before.
        last: u32,
    },
    /// The number of pages is 0, or more than the guest or a batch of this kind may have.
    #[error("a batch of {found} pages, at most {limit} are allowed")]
    Pages {
        /// As found.
        found: u32,
        /// The limit.
        limit: u64,
    },
    /// The length of the list is 0 or beyond the limit.
    #[error("a list of pages of {found} bytes, at most {limit} are allowed")]
    ListLength {
        /// As found.
        found: u16,
        /// The limit.
        limit: usize,
    },
    /// The length of the payload does not fit its kind.
    #[error("a payload of {found} bytes for {pages} pages")]
    PayloadLength {
        /// As found.
        found: u32,
        /// Pages of the batch.
        pages: u32,
    },
    /// The list is cut off, goes on after its end, or does not have the pages of the header.
    #[error("the list of pages is malformed")]
    List,
    /// A run is outside the guest, or touches the one before.
    #[error("the list of pages has {count} pages from {first} on, the guest has {pages}")]
    Run {
        /// First page as found.
        first: u64,
        /// Pages as found.
        count: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// The stream ended within a batch.
    #[error("the stream of pages ended {missing} bytes before the end of a batch")]
    CutOff {
        /// Bytes still missing, as far as known.
        missing: usize,
    },
}

impl WireError {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::PeerProtocol
    }
}

impl BatchHeader {
    /// Reads a header. What depends on the batches before is left to the reader of the stream.
    pub(crate) fn read(
        bytes: &[u8; HEADER_BYTES],
        version: u16,
        guest_pages: u64,
    ) -> Result<Self, WireError> {
        let four = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let eight = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes[..2] != MAGIC {
            let found = [bytes[0], bytes[1]];
            return Err(WireError::Magic { found });
        }
        if u16::from(bytes[2]) != version {
            let (found, expected) = (bytes[2], version);
            return Err(WireError::Version { found, expected });
        }
        let header = Self {
            kind: BatchKind::from_number(bytes[3])?,
            round: four(4),
            sequence: eight(8),
            pages: four(16),
            list_bytes: u16::from_le_bytes([bytes[20], bytes[21]]),
            level: bytes[22] as i8,
            payload_bytes: four(24),
            check: eight(28),
        };
        let level_allowed = header.kind == BatchKind::Zstd;
        if bytes[23] != 0 || (header.level != 0 && !level_allowed) {
            return Err(WireError::Reserved);
        }
        header.check_lengths(guest_pages)?;
        Ok(header)
    }

    fn check_lengths(&self, guest_pages: u64) -> Result<(), WireError> {
        let pages = self.pages;
        let limit = match self.kind {
            BatchKind::Zeros => guest_pages,
            _ => guest_pages.min(MAX_BLOCK_PAGES as u64),
        };
        if pages == 0 || u64::from(pages) > limit {
            return Err(WireError::Pages {
                found: pages,
                limit,
            });
        }
        let runs = (pages as usize).min(MAX_ZERO_RUNS);
        let limit = runs * 2 * varint::MAX_BYTES;
        if self.list_bytes == 0 || usize::from(self.list_bytes) > limit {
            let found = self.list_bytes;
            return Err(WireError::ListLength { found, limit });
        }
        let found = self.payload_bytes;
        // Both are far below 2^32 unless the kind is zeros, which has no payload.
        let full = u64::from(pages) * PAGE_BYTES as u64;
        let fits = match self.kind {
            BatchKind::Zeros => found == 0,
            BatchKind::Raw => u64::from(found) == full,
            BatchKind::Zstd => found > 0 && u64::from(found) < full,
            BatchKind::Delta => found >= pages && u64::from(found) < full,
        };
        if fits {
            Ok(())
        } else {
            Err(WireError::PayloadLength { found, pages })
        }
    }

    /// Bytes of list and payload.
    pub(crate) fn body_bytes(&self) -> usize {
        usize::from(self.list_bytes) + self.payload_bytes as usize
    }

    /// The header before its check.
    fn checked_bytes(&self) -> [u8; CHECKED_BYTES] {
        let mut bytes = [0; CHECKED_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = PAGE_VERSIONS.newest() as u8;
        bytes[3] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.round.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.pages.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.list_bytes.to_le_bytes());
        bytes[22] = self.level as u8;
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }
}

impl BatchKind {
    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Raw),
            2 => Ok(Self::Zstd),
            3 => Ok(Self::Delta),
            found => Err(WireError::Kind { found }),
        }
    }
}

/// A batch to be sent; the lengths of the header are filled in by [`write`].
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: BatchKind,
    pub(crate) level: i8,
    pub(crate) round: u32,
    pub(crate) sequence: u64,
    pub(crate) runs: &'a [Run],
    pub(crate) digests: &'a [u64],
    pub(crate) payload: &'a [u8],
}

/// Appends a batch. The caller keeps to the limits.
pub(crate) fn write(batch: &Outgoing<'_>, seed: DigestSeed, out: &mut Vec<u8>) {
    let mut list = Vec::with_capacity(batch.runs.len() * 2);
    let (mut pages, mut end) = (0, 0);
    for &(first, count) in batch.runs {
        varint::push(first - end, &mut list);
        varint::push(count - 1, &mut list);
        (pages, end) = (pages + count, first + count);
    }
    debug_assert!(list.len() <= MAX_LIST_BYTES && batch.payload.len() <= MAX_BLOCK_BYTES);
    let header = BatchHeader {
        kind: batch.kind,
        round: batch.round,
        sequence: batch.sequence,
        pages: pages.try_into().expect("a guest of at most MAX_PAGES"),
        level: batch.level,
        list_bytes: list.len() as u16,
        payload_bytes: batch.payload.len() as u32,
        check: 0,
    };
    out.extend_from_slice(&header.checked_bytes());
    out.extend_from_slice(&check(&header, &list, batch.digests, seed).to_le_bytes());
    out.extend_from_slice(&list);
    out.extend_from_slice(batch.payload);
}

/// The check of a batch whose pages have these digests.
pub(crate) fn check(header: &BatchHeader, list: &[u8], digests: &[u64], seed: DigestSeed) -> u64 {
    let mut bytes = Vec::with_capacity(CHECKED_BYTES + list.len() + digests.len() * 8);
    bytes.extend_from_slice(&header.checked_bytes());
    bytes.extend_from_slice(list);
    for digest in digests {
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, seed.0)
}

/// Reads the list of a batch into `runs`.
pub(crate) fn read_list(
    mut list: &[u8],
    header: &BatchHeader,
    guest_pages: u64,
    runs: &mut Vec<Run>,
) -> Result<(), WireError> {
    runs.clear();
    let limit = (header.pages as usize).min(MAX_ZERO_RUNS);
    let (mut pages, mut end) = (0u64, 0u64);
    while !list.is_empty() {
        let distance = varint::take(&mut list).ok_or(WireError::List)?;
        let more = varint::take(&mut list).ok_or(WireError::List)?;
        let (first, count) = (end.saturating_add(distance), more.saturating_add(1));
        let touches = distance == 0 && !runs.is_empty();
        if touches || first > guest_pages || count > guest_pages - first {
            let pages = guest_pages;
            return Err(WireError::Run {
                first,
                count,
                pages,
            });
        }
        if runs.len() == limit {
            return Err(WireError::List);
        }
        runs.push((first, count));
        (pages, end) = (pages + count, first + count);
    }
    if pages == u64::from(header.pages) {
        Ok(())
    } else {
        Err(WireError::List)
    }
}
