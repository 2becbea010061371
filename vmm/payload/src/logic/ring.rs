//! Bookkeeping of a split virtqueue (virtio 1.2, 2.7) on the driver's side.

/// Most requests in flight per queue.
pub(crate) const MAX_SLOTS: usize = 256;

/// Which requests the device holds.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    free: [u16; MAX_SLOTS],
    len: usize,
    held: [bool; MAX_SLOTS],
}

impl Slots {
    pub(crate) fn new(count: u16) -> Self {
        let len = usize::from(count).min(MAX_SLOTS);
        let mut free = [0; MAX_SLOTS];
        for (slot, id) in free[..len].iter_mut().zip((0..len as u16).rev()) {
            *slot = id;
        }
        Self {
            free,
            len,
            held: [false; MAX_SLOTS],
        }
    }

    /// A free slot, lowest first at the start.
    pub(crate) fn take(&mut self) -> Option<u16> {
        self.len = self.len.checked_sub(1)?;
        let slot = self.free[self.len];
        self.held[usize::from(slot)] = true;
        Some(slot)
    }

    /// The device is done with a slot; false when it did not hold it.
    pub(crate) fn give(&mut self, slot: u16) -> bool {
        match self.held.get_mut(usize::from(slot)) {
            Some(held) if *held => {
                *held = false;
                self.free[self.len] = slot;
                self.len += 1;
                true
            }
            _ => false,
        }
    }
}

/// Entries the device has added to the used ring since `seen`; `None` when
/// that is more than the ring holds.
pub(crate) fn pending(used: u16, seen: u16, size: u16) -> Option<u16> {
    let new = used.wrapping_sub(seen);
    (new <= size).then_some(new)
}

/// Bytes of the three parts, in the order descriptors, available, used, and
/// where the latter two begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) bytes: u64,
}

impl Layout {
    /// For a queue of `size` descriptors (a power of two).
    pub(crate) fn new(size: u16) -> Self {
        let size = u64::from(size);
        let available = 16 * size;
        let used = (available + 6 + 2 * size).next_multiple_of(4);
        Self {
            available,
            used,
            bytes: used + 6 + 8 * size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_handed_out_once_until_they_come_back() {
        let mut slots = Slots::new(3);
        assert_eq!(
            [slots.take(), slots.take(), slots.take(), slots.take()],
            [Some(0), Some(1), Some(2), None]
        );
        assert!(slots.give(1));
        assert!(!slots.give(1), "given back twice");
        assert!(!slots.give(3), "never existed");
        assert!(!slots.give(u16::MAX));
        assert_eq!(slots.take(), Some(1));
        assert_eq!(slots.take(), None);
    }

    #[test]
    fn the_used_index_wraps_and_may_not_run_ahead() {
        assert_eq!(pending(2, 0xffff, 8), Some(3));
        assert_eq!(pending(5, 5, 8), Some(0));
        assert_eq!(pending(14, 5, 8), None);
        assert_eq!(pending(4, 5, 8), None, "it never goes back");
    }

    #[test]
    fn the_parts_do_not_overlap_and_are_aligned() {
        for size in [1u16, 2, 8, 256, 1024] {
            let layout = Layout::new(size);
            assert!(layout.available >= 16 * u64::from(size));
            assert!(layout.used >= layout.available + 6 + 2 * u64::from(size));
            assert!(layout.available.is_multiple_of(2) && layout.used.is_multiple_of(4));
        }
    }
}
