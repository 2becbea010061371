//! Where guest memory is, and what a snapshot's memory file holds.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// The guest-physical memory map.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Total bytes of memory; the sum of all ranges.
    pub size_bytes: u64,
    /// Bytes of a host page behind it: 4096 or 2097152.
    pub page_size: u32,
    /// The ranges by rising address, without overlap. Memory is stored in this order.
    pub ranges: Vec<MemoryRange>,
}
record!(MemoryLayout, Kind::MemoryLayout, version = 1);

/// A range of guest memory.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The memory file of a snapshot: guest memory in the order of [`MemoryLayout::ranges`], holes of the
/// file being zeros, checked by chunk so that a lazy restore can check what it touches.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMemory {
    /// Bytes of a chunk; the last one may be shorter.
    pub chunk_bytes: u32,
    /// XXH3-64 (seed 0) of each chunk.
    pub digests: Vec<u64>,
    /// Bytes of the file.
    pub file_bytes: u64,
}
record!(SnapshotMemory, Kind::SnapshotMemory, version = 1);
