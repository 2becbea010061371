//! What became of pages, for the receipt.

use std::ops::AddAssign;

/// Pages and the bytes on the wire that they took, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// Pages.
    pub pages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Pages and bytes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageStats {
    /// Pages of zeros, sent as ranges.
    pub zero: KindStats,
    /// Pages that the other side has already; they take no bytes.
    pub unchanged: KindStats,
    /// Pages sent as the difference to what the other side has.
    pub delta: KindStats,
    /// Pages in compressed blocks.
    pub zstd: KindStats,
    /// Pages sent as they are.
    pub raw: KindStats,
}

impl PageStats {
    /// All kinds together: bytes on the wire, and pages looked at or written.
    #[must_use]
    pub fn total(&self) -> KindStats {
        let mut total = KindStats::default();
        for kind in [self.zero, self.unchanged, self.delta, self.zstd, self.raw] {
            total += kind;
        }
        total
    }
}

impl PageStats {
    /// What was added since `before`, an earlier value of the same count.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let difference = |now: KindStats, then: KindStats| KindStats {
            pages: now.pages - then.pages,
            bytes: now.bytes - then.bytes,
        };
        Self {
            zero: difference(self.zero, before.zero),
            unchanged: difference(self.unchanged, before.unchanged),
            delta: difference(self.delta, before.delta),
            zstd: difference(self.zstd, before.zstd),
            raw: difference(self.raw, before.raw),
        }
    }
}

impl AddAssign for KindStats {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.bytes += other.bytes;
    }
}

impl AddAssign for PageStats {
    fn add_assign(&mut self, other: Self) {
        self.zero += other.zero;
        self.unchanged += other.unchanged;
        self.delta += other.delta;
        self.zstd += other.zstd;
        self.raw += other.raw;
    }
}
