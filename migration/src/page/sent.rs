//! What a source remembers of what it sent.

use std::sync::Arc;

use super::cache::CopyCache;
use super::digest::DigestTable;
use super::parts::PartTable;

/// What the target has of the guest, shared by the encoders of all streams.
#[derive(Debug)]
pub struct SentPages {
    digests: Arc<DigestTable>,
    pub(super) copies: CopyCache,
    pub(super) parts: PartTable,
}

impl SentPages {
    /// What the target has according to `digests`: nothing if those are new. Keeps for deltas at
    /// most `copies_bytes`, all streams together: half for digests of parts, the rest for copies.
    #[must_use]
    pub fn new(digests: Arc<DigestTable>, copies_bytes: u64) -> Self {
        let parts = PartTable::new(digests.seed(), digests.pages(), copies_bytes / 2);
        Self {
            digests,
            copies: CopyCache::new(copies_bytes - parts.most_bytes()),
            parts,
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
        self.digests.memory_bytes() + self.copies.memory_bytes() + self.parts.memory_bytes()
    }
}
