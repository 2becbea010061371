//! A split virtqueue.

use rkyv::{Archive, Deserialize, Serialize};

/// A split virtqueue (virtio 1.2, section 2.7); mirrors `virtio_queue::QueueState`. Part of
/// [`VirtioTransportState`](super::pci::VirtioTransportState).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The most entries the device offers.
    pub max_size: u16,
    /// Entries the driver selected.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest-physical address of the available ring.
    pub avail_ring: u64,
    /// Guest-physical address of the used ring.
    pub used_ring: u64,
    /// The next available entry that the device takes, modulo 2^16.
    pub next_avail: u16,
    /// The next used entry that the device writes, modulo 2^16.
    pub next_used: u16,
    /// Whether `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx_enabled: bool,
}
