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
//! ```
//! # use std::{sync::Arc, time::{Duration, Instant}};
//! # use godwit_migration::{PageSet, page::*, ports::*};
//! # fn copy(source: &dyn GuestMemory, target: &dyn GuestMemory) -> Result<(), Box<dyn std::error::Error>> {
//! let seed = DigestSeed(42);
//! let known = Arc::new(DigestTable::new(source.pages(), seed));
//! let sent = Arc::new(SentPages::new(known, DEFAULT_COPIES_BYTES));
//! let start = Instant::now();
//! let chooser = CodecChooser::new(Compression::Auto);
//! let mut encoder = PageEncoder::new(sent, chooser, Box::new(move || start.elapsed()));
//! let mut bytes = Vec::new();
//! encoder.encode(source, PageSet::full(source.pages()).runs(), 0, &mut bytes)?;
//! encoder.codec_mut().observe_link(bytes.len() as u64, Duration::from_millis(9), true);
//!
//! let mut reader = BatchReader::new(PAGE_VERSIONS.newest(), target.pages());
//! let received = Arc::new(DigestTable::new(target.pages(), seed));
//! let mut decoder = PageDecoder::new(received);
//! let mut input = &bytes[..];
//! while let Some(batch) = reader.next(&mut input)? {
//!     decoder.apply(&batch, target)?;
//! }
//! reader.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! | rule | |
//! |---|---|
//! | MIG-70 | Bulk streams carry batches of pages in the format of [`wire`], in the version that the sides settled on. A sender writes the newest common version; each build reads its own and the one before. |
//! | MIG-71 | Pages of zeros go as ranges. The target does not touch memory for them that was never touched. |
//! | MIG-72 | A page whose digest is that of what the target has is not sent. |
//! | MIG-73 | A delta is to what the target has after all earlier batches of the page. The check of the batch covers the result. |
//! | MIG-74 | A block is at most 64 pages in one zstd frame, shorter than the pages; else it goes as it is. |
//! | MIG-75 | All batches of a page in one round go over one stream; a round begins at the target only when all streams have finished the one before. |
//! | MIG-76 | When a batch was lost with its stream, or the target discarded pages (at the switch to post-copy), the source forgets their digests ([`DigestTable::forget`]) before it encodes them again. Pages that the target waits for are sent whole whatever it has ([`PageEncoder::sending_always`]). |
//! | MIG-77 | Sequence numbers on a stream start at 0 and have no gaps; rounds never fall. |
//! | MIG-78 | A block is compressed only when that is measured to move more guest bytes a second than sending it raw. |
//! | MIG-79 | Both sides keep the digests of what was moved, so that on a return each page that is the same there is not sent. |

mod block;
mod cache;
mod codec;
mod decoder;
mod delta;
mod digest;
mod encoder;
mod parts;
mod reader;
mod sent;
mod sink;
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
pub use encoder::{Clock, EncodeError, PageEncoder};
pub use reader::{Batch, BatchReader};
pub use sent::SentPages;
pub use stats::{KindStats, PageStats};
pub use wire::{BatchHeader, BatchKind, PAGE_VERSIONS, Run, WireError};
pub use zero::is_zero;

/// What a source keeps for deltas unless told otherwise, copies of pages and digests of their parts,
/// bytes: what 64 MiB leave besides the buffers of streams.
pub const DEFAULT_COPIES_BYTES: u64 = 40 << 20;
