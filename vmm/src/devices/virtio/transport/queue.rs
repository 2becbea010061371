//! One queue's registers, and the ring they describe once it was checked.

use godwit_proto::state::queue::QueueState as SavedQueue;
use virtio_queue::{Queue, QueueState, QueueT};

use crate::memory::GuestMemory;

/// Why the ring that a driver or a saved state describes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The size is zero, no power of two, or larger than the device offers.
    #[error("size {size} is not a power of two of at most {max}")]
    Size {
        /// What was set.
        size: u16,
        /// What the device offers.
        max: u16,
    },
    /// A part of the ring is not aligned (virtio 1.2, 2.7).
    #[error("the {part} at {address:#x} is not aligned to {align} bytes")]
    Alignment {
        /// Which part.
        part: &'static str,
        /// Where it was set to.
        address: u64,
        /// What it must be aligned to.
        align: u64,
    },
    /// A part of the ring is not in guest memory.
    #[error(
        "size {size}, descriptor table at {desc_table:#x}, available ring at {avail_ring:#x} and \
         used ring at {used_ring:#x} are not all in memory"
    )]
    OutOfMemory {
        /// Entries.
        size: u16,
        /// Descriptor table.
        desc_table: u64,
        /// Available ring.
        avail_ring: u64,
        /// Used ring.
        used_ring: u64,
    },
}

/// What the driver sets up, and how far the device got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) desc_table: u64,
    pub(super) avail_ring: u64,
    pub(super) used_ring: u64,
    /// The device's position in the available ring; stale while the device works.
    pub(super) next_avail: u16,
    /// The device's position in the used ring; stale while the device works.
    pub(super) next_used: u16,
}

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ..Self::default()
        }
    }

    /// The ring, checked: its size, alignment, and that it lies in memory.
    pub(super) fn build(&self, event_idx: bool, memory: &GuestMemory) -> Result<Queue, QueueError> {
        if !self.size.is_power_of_two() || self.size > self.max_size {
            return Err(QueueError::Size {
                size: self.size,
                max: self.max_size,
            });
        }
        for (part, address, align) in [
            ("descriptor table", self.desc_table, 16),
            ("available ring", self.avail_ring, 2),
            ("used ring", self.used_ring, 4),
        ] {
            if !address.is_multiple_of(align) {
                return Err(QueueError::Alignment {
                    part,
                    address,
                    align,
                });
            }
        }
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
            size: self.size,
            ready: true,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        // The queue takes an available ring at address 0 for one that was never set up.
        match Queue::try_from(state) {
            Ok(queue) if self.avail_ring != 0 && queue.is_valid(memory) => Ok(queue),
            _ => Err(QueueError::OutOfMemory {
                size: self.size,
                desc_table: self.desc_table,
                avail_ring: self.avail_ring,
                used_ring: self.used_ring,
            }),
        }
    }

    pub(super) fn save(&self, event_idx: bool) -> SavedQueue {
        SavedQueue {
            max_size: self.max_size,
            size: self.size,
            ready: self.enabled,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
        }
    }
}

impl From<SavedQueue> for QueueRegisters {
    /// Takes the values as they are; whoever restores checks them.
    fn from(saved: SavedQueue) -> Self {
        Self {
            max_size: saved.max_size,
            size: saved.size,
            enabled: saved.ready,
            desc_table: saved.desc_table,
            avail_ring: saved.avail_ring,
            used_ring: saved.used_ring,
            next_avail: saved.next_avail,
            next_used: saved.next_used,
        }
    }
}
