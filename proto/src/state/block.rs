//! A virtio block device.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// What a disk must carry over besides configuration space and ring; its content is not here.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BlockState {
    /// Capacity in sectors of 512 bytes. The driver read it once; a restored disk must have it too.
    pub sectors: u64,
    /// The driver's choice of write-back (true) or write-through (virtio 1.2, 5.2.5, `writeback`).
    pub write_cache: bool,
}
record!(BlockState, Kind::VirtioBlock, version = 1);
