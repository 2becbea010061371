//! What a source remembers of what it sent.

use std::sync::Arc;

use super::cache::CopyCache;
use super::digest::DigestTable;

/// What the target has of the guest, shared by the encoders of all streams.
#[derive(Debug)]
pub struct SentPages {
    digests: Arc<DigestTable>,
    pub(super) copies: CopyCache,
}

impl SentPages {
    /// What the target has according to `digests`: nothing if those are new. Keeps copies for deltas
    /// of at most `copies_bytes`, all streams together.
    #[must_use]
    pub fn new(digests: Arc<DigestTable>, copies_bytes: u64) -> Self {
        Self {
            digests,
            copies: CopyCache::new(copies_bytes),
        }
    }

    /// The digests of what the target has.
    #[must_use]
    pub fn digests(&self) -> &Arc<DigestTable> {
        &self.digests
    }

    /// Bytes that digests and copies take now.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.digests.memory_bytes() + self.copies.memory_bytes()
    }
}
