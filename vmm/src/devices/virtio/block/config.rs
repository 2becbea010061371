//! What a disk is configured with, and the configuration space the driver reads.

use std::path::PathBuf;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::disk::Disk;

/// The longest disk id, bytes: the length of the serial number that `VIRTIO_BLK_T_GET_ID` returns.
pub const ID_BYTES: usize = 20;
/// Unit of capacity, sector numbers and lengths in the protocol, bytes; independent of `blk_size`.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Ring size offered to the driver.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Most data segments per request: the ring's size without the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors in one discard range: 1 GiB, which a filesystem releases in milliseconds.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most ranges in one discard request.
pub(super) const MAX_DISCARD_RANGES: u32 = 16;
/// Most sectors in one write-zeroes request: 64 MiB, since a host may have to write them out.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;
/// Most ranges in one write-zeroes request.
pub(super) const MAX_WRITE_ZEROES_RANGES: u32 = 1;

/// How a disk's data passes through the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the host's page cache; a flush makes it durable.
    #[default]
    Host,
    /// Past the page cache (`O_DIRECT`). Needed where another host may open the same volume, since
    /// a page cache would go stale there.
    Direct,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Name of the disk in the guest, also its serial number; 1 to [`ID_BYTES`] bytes.
    pub id: String,
    /// A raw image or a block device.
    pub path: PathBuf,
    /// Refuse every write, and share the disk with other readers.
    pub read_only: bool,
    /// Pass discards on, which frees space in the image.
    pub discard: bool,
    /// Whether the host's page cache is used.
    pub cache: CacheMode,
}

/// The features offered for a disk.
pub(super) fn features(config: &BlockConfig) -> u64 {
    let mut bits = vec![
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_CONFIG_WCE,
    ];
    if config.read_only {
        bits.push(VIRTIO_BLK_F_RO);
    } else {
        bits.push(VIRTIO_BLK_F_WRITE_ZEROES);
        if config.discard {
            bits.push(VIRTIO_BLK_F_DISCARD);
        }
    }
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

/// Offset of `writeback` in the configuration space, the one field a driver may write.
pub(super) const WRITEBACK_OFFSET: usize = 32;
/// Length of the part of `struct virtio_blk_config` that the offered features make valid, bytes.
const CONFIG_BYTES: usize = 60;

/// `struct virtio_blk_config` (virtio 1.2, 5.2.4), little-endian. `writeback` is filled by the
/// device, since it changes.
pub(super) fn config_space(disk: &Disk, discard: bool) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        space[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &disk.sectors().to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    let block = disk.block_bytes();
    let physical = block.max(4096);
    put(20, &block.to_le_bytes());
    // Topology: physical_block_exp (logical blocks per physical block, log2), alignment_offset,
    // min_io_size and opt_io_size in logical blocks.
    put(24, &[(physical / block).ilog2() as u8, 0]);
    put(26, &((physical / block) as u16).to_le_bytes());
    put(28, &0u32.to_le_bytes());
    put(34, &1u16.to_le_bytes());
    if !disk.read_only() {
        if discard {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_DISCARD_RANGES.to_le_bytes());
            put(44, &(physical / SECTOR_BYTES as u32).to_le_bytes());
        }
        put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        put(52, &MAX_WRITE_ZEROES_RANGES.to_le_bytes());
        put(56, &[u8::from(discard)]);
    }
    space
}
