//! Giving chains back to the driver, and when to tell it.
//!
//! `virtio_queue::Queue` publishes each used chain by itself and ignores
//! `VIRTQ_AVAIL_F_NO_INTERRUPT`. A frame that fills several receive buffers must appear as a whole
//! (virtio 1.2, 5.1.6.3.2), and a driver that polls does not want interrupts; so both are here.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.6).
const NO_INTERRUPT: u16 = 1;
/// Offset of the ring in `struct virtq_used` and `struct virtq_avail`, bytes.
const RING: u64 = 4;

/// Chains given back since the driver was last told.
#[derive(Debug, Default)]
pub struct UsedChains {
    added: u32,
}

impl UsedChains {
    /// Gives one chain back; the device wrote `len` bytes into it.
    ///
    /// # Errors
    /// When the used ring is not in memory, or `head` is no descriptor.
    pub fn add(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory,
        head: u16,
        len: u32,
    ) -> Result<(), Error> {
        queue.add_used(memory, head, len)?;
        self.added += 1;
        Ok(())
    }

    /// Gives several chains back, heads and lengths, so that the driver sees all of them or none.
    ///
    /// # Errors
    /// When the used ring is not in memory, or a head is no descriptor.
    pub fn add_together(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory,
        chains: &[(u16, u32)],
    ) -> Result<(), Error> {
        let Some((&(last, last_len), front)) = chains.split_last() else {
            return Ok(());
        };
        let first = queue.next_used();
        for (i, &(head, len)) in front.iter().enumerate() {
            let slot = first.wrapping_add(i as u16) % queue.size();
            let at = field(queue.used_ring(), RING + u64::from(slot) * 8)?;
            let element = [u32::from(head).to_le(), len.to_le()];
            memory.write_obj(element, at).map_err(Error::GuestMemory)?;
        }
        // The last one publishes the index, behind all of them.
        queue.set_next_used(first.wrapping_add(front.len() as u16));
        queue.add_used(memory, last, last_len)?;
        self.added += chains.len() as u32;
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back since the last call (2.7.7).
    pub fn wants_interrupt(&mut self, queue: &Queue, memory: &GuestMemory) -> bool {
        let added = std::mem::take(&mut self.added);
        if added == 0 {
            return false;
        }
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        // When the wish cannot be read the driver is told: an interrupt too many does no harm.
        wish(queue, memory, added).unwrap_or(true)
    }
}

fn wish(queue: &Queue, memory: &GuestMemory, added: u32) -> Result<bool, GuestMemoryError> {
    if !queue.event_idx_enabled() {
        let flags: u16 = memory.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)?;
        return Ok(u16::from_le(flags) & NO_INTERRUPT == 0);
    }
    let offset = RING + u64::from(queue.size()) * 2;
    let at = GuestAddress(queue.avail_ring()).unchecked_add(offset);
    let event = u16::from_le(memory.load(at, Ordering::Relaxed)?);
    // `vring_need_event`: whether the index went past `event` within the last `added` steps.
    let behind = queue.next_used().wrapping_sub(event).wrapping_sub(1);
    Ok(u32::from(behind) < added)
}

fn field(ring: u64, offset: u64) -> Result<GuestAddress, Error> {
    GuestAddress(ring)
        .checked_add(offset)
        .ok_or(Error::AddressOverflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::TestRing;

    fn rig(event_idx: bool) -> (GuestMemory, TestRing, Queue) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let ring = TestRing::new(&memory, 0, 8);
        let queue = ring.active(0, event_idx).queue;
        (memory, ring, queue)
    }

    #[test]
    fn chains_given_together_appear_in_order_also_around_the_end_of_the_ring() {
        let (memory, mut ring, mut queue) = rig(false);
        let mut used = UsedChains::default();
        for round in 0..20u16 {
            let chains: Vec<_> = (0..round % 6).map(|i| (i, u32::from(round + i))).collect();
            used.add_together(&mut queue, &memory, &chains).unwrap();
            used.add(&mut queue, &memory, 7, 0).unwrap();
            for chain in chains {
                assert_eq!(ring.pop_used(), Some(chain));
            }
            assert_eq!(ring.pop_used(), Some((7, 0)));
            assert_eq!(ring.pop_used(), None);
        }
        assert!(used.add(&mut queue, &memory, 8, 0).is_err());
    }

    #[test]
    fn the_driver_is_told_once_when_the_index_passes_its_event() {
        let (memory, ring, mut queue) = rig(true);
        let mut used = UsedChains::default();
        for start in [0u16, 5, u16::MAX - 1] {
            queue.set_next_used(start);
            ring.set_used_event(start.wrapping_add(2));
            used.add(&mut queue, &memory, 0, 0).unwrap();
            assert!(!used.wants_interrupt(&queue, &memory));
            used.add_together(&mut queue, &memory, &[(0, 0); 4])
                .unwrap();
            assert!(used.wants_interrupt(&queue, &memory));
            assert!(!used.wants_interrupt(&queue, &memory));
            used.add(&mut queue, &memory, 0, 0).unwrap();
            assert!(!used.wants_interrupt(&queue, &memory));
        }
    }

    #[test]
    fn a_driver_that_polls_gets_no_interrupt() {
        let (memory, ring, mut queue) = rig(false);
        let mut used = UsedChains::default();
        for flags in [0u16, NO_INTERRUPT] {
            ring.set_avail_flags(flags);
            used.add(&mut queue, &memory, 0, 0).unwrap();
            assert_eq!(used.wants_interrupt(&queue, &memory), flags == 0);
        }
    }
}
