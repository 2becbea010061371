//! The protocol between the two ends of a migration, version 1: what is said on the control stream
//! and, for [`FromTarget::PageRequest`], on the fault stream. Rules: `docs/spec/migration-protocol.md`.
//!
//! ```text
//! source                                        target
//!   hello ---------------------------------------->
//!   <---------------------------------------- hello
//!   Offer ----------------------------------------->   builds the guest, checks, writes nothing
//!   <------------------------------- Accept | Refuse   every reason at once
//!   RoundBegin, (pages on bulk streams), RoundEnd -->
//!   <------------------------------------- RoundAck    ... as often as it takes
//!   Switch, (last pages | Missing), State ---------->  the guest is paused
//!   <---------------------------------------- Ready    all pages, state restored
//!   Relinquish ------------------------------------->  the source never runs this epoch again
//!   <-------------------------------------- Resumed    ... post-copy: PageRequest, pages, PushDone
//!   <------------------------------------- Complete    committed; the source frees memory
//!   <----------------------------------- FirstFrame    for the receipt; nothing depends on it
//! ```
//!
//! Each direction is a type of its own, so that neither side can be made to act on its own words.
//! What decodes here is well formed, not sensible: the machines check it.

mod from_source;
mod from_target;
mod offer;

pub use from_source::{FromSource, PageRun, RoundTotals, RunDigest, SwitchKind};
pub use from_target::{Accept, FromTarget, ResumeTimes};
pub use offer::{DigestMode, Mode, Offer, OfferedDevice, Retained};

pub use crate::message::MessageError;

use crate::frame::{FrameKind, Limits};
use crate::message::message;
use crate::version::VersionRange;

/// The versions of this protocol that this build speaks.
pub const VERSIONS: VersionRange = match VersionRange::new(1, 1) {
    Ok(versions) => versions,
    Err(_) => panic!("the oldest version is not above the newest"),
};

/// The longest message, in bytes of payload: [`FromSource::State`] with 64 vCPUs is about 2 MiB.
pub const MAX_MESSAGE_BYTES: u32 = 4 << 20;
/// The most runs of one [`FromSource::Missing`].
pub const MAX_RUNS: usize = 1 << 16;
/// The most digests of one [`FromSource::Digests`].
pub const MAX_DIGESTS: usize = 1 << 16;
/// The most words of one [`FromTarget::Received`]; a word speaks of 64 pages.
pub const MAX_BITMAP_WORDS: usize = 1 << 16;
/// The most bulk streams.
pub const MAX_STREAMS: usize = 64;
/// The most reasons of one [`FromTarget::Refuse`].
pub const MAX_REASONS: usize = 64;

/// What either end takes.
pub const LIMITS: Limits = Limits {
    versions: VERSIONS,
    max_payload_bytes: MAX_MESSAGE_BYTES,
};

message!(FromSource, FrameKind::FromSource, LIMITS);
message!(FromTarget, FrameKind::FromTarget, LIMITS);
