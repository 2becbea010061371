//! How guest pages travel: what is sent of them, and the format of bulk streams.
//!
//! Pure: reads no clock, does no I/O, starts no thread. At the source a [`PageEncoder`] for each
//! bulk stream turns runs of pages into bytes; at the target a [`BatchReader`] cuts the bytes into
//! [`Batch`]es and a [`PageDecoder`] writes those into memory. All encoders share [`SentPages`], all
//! decoders a [`DigestTable`].
//!
//! It refuses to guess: bytes from the peer are used only after every length was checked against
//! the guest and the limits, and content is written only after its digest was. Nothing that a peer
//! sends makes it panic or hold more than a batch.
//!
//! | rule | |
//! |---|---|
//! | MIG-50 | Bulk streams carry batches of pages in the format of [`wire`], in the version that the sides settled on. A sender writes the newest common version; each build reads its own and the one before. |
//! | MIG-51 | Pages of zeros go as ranges. The target does not touch memory for them that was never touched. |
//! | MIG-52 | A page whose digest is that of what the target has is not sent. |
//! | MIG-53 | A delta is to what the target has after all earlier batches of the page. The check of the batch covers the result. |
//! | MIG-54 | A block is at most 64 pages in one zstd frame, shorter than the pages; else it goes as it is. |
//! | MIG-55 | All batches of a page in one round go over one stream; a round begins at the target only when all streams have finished the one before. |
//! | MIG-56 | After a batch was lost with its stream, the source forgets the digests of its pages ([`DigestTable::forget`]) before it encodes them again. |
//! | MIG-57 | Sequence numbers on a stream start at 0 and have no gaps; rounds never fall. |
//! | MIG-58 | A block is compressed only when that is measured to move more guest bytes a second than sending it raw. |
//! | MIG-59 | Both sides keep the digests of what was moved, so that on a return each page that is the same there is not sent. |

mod block;
mod cache;
mod codec;
mod decoder;
mod delta;
mod digest;
mod encoder;
mod reader;
mod stats;
#[cfg(test)]
mod tests;
mod varint;
pub mod wire;
mod zero;

pub use block::looks_random;
pub use codec::{Codec, CodecChooser, Compression};
pub use decoder::{ApplyError, PageDecoder};
pub use delta::DeltaError;
pub use digest::{DigestSeed, DigestTable, DigestTableError};
pub use encoder::{Clock, EncodeError, PageEncoder, SentPages};
pub use reader::{Batch, BatchReader};
pub use stats::{KindStats, PageStats};
pub use wire::{BatchHeader, BatchKind, PAGE_VERSIONS, Run, WireError};
pub use zero::is_zero;

/// Copies for deltas that a source keeps unless told otherwise, bytes: what 64 MiB leave besides
/// the buffers of streams.
pub const DEFAULT_COPIES_BYTES: u64 = 48 << 20;
