//! Which pages were written: by the guest, as KVM logs it, and by devices, as vm-memory marks it.
//!
//! ```text
//!   start() --> collect() --> arm(pages) --> read the pages --> collect() ... --> stop()
//! ```
//!
//! A page that was collected must be armed before it is read, so that a write that comes after the
//! read is seen by the next `collect`. Which of the kernel's ways is in use changes only when pages
//! are protected again: by `collect` (plain bitmap, ring) or by `arm` (manual bitmap, which makes
//! `collect` cheap and spreads the cost of protecting over the copying). Right after `start` every
//! page may be reported; whoever starts a log copies all memory anyway.

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestMemoryBackend;

use super::GuestRam;
use super::layout::PAGE_SIZE;
use crate::kvm::{DirtyRing, KvmError, MemorySlot, Vm};

/// Pages that are cleared with one call into the kernel; bounds how long it holds its lock.
const ARM_CHUNK_PAGES: u64 = 64 * 1024;

/// A set of guest pages, one bitmap per memory slot. Pages are numbered from the start of RAM, the
/// hole left out, as in the memory file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyPages {
    slots: Vec<SlotPages>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotPages {
    first_page: u64,
    pages: u64,
    words: Vec<u64>,
}

impl DirtyPages {
    /// An empty set over the memory of `ram`.
    pub fn empty(ram: &GuestRam) -> Self {
        Self::over(ram.slots().iter().map(|slot| slot.len / PAGE_SIZE))
    }

    fn over(pages_per_slot: impl Iterator<Item = u64>) -> Self {
        let mut first_page = 0;
        let slots = pages_per_slot
            .map(|pages| {
                let words = vec![0; pages.div_ceil(64) as usize];
                let slot = SlotPages {
                    first_page,
                    pages,
                    words,
                };
                first_page += pages;
                slot
            })
            .collect();
        Self { slots }
    }

    /// How many pages are in the set.
    pub fn count(&self) -> u64 {
        self.words().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether the set has no page.
    pub fn is_empty(&self) -> bool {
        self.words().all(|w| w == 0)
    }

    /// Whether `page` is in the set.
    pub fn contains(&self, page: u64) -> bool {
        self.slots.iter().any(|s| {
            page.checked_sub(s.first_page)
                .filter(|&p| p < s.pages)
                .is_some_and(|p| s.words[(p / 64) as usize] >> (p % 64) & 1 == 1)
        })
    }

    /// Puts `pages` pages from `first` on in; what is no page is left out.
    pub fn insert_run(&mut self, first: u64, pages: u64) {
        let end = first.saturating_add(pages);
        for slot in &mut self.slots {
            let from = first.max(slot.first_page);
            let to = end.min(slot.first_page + slot.pages);
            let mut page = from;
            while page < to {
                let inside = page - slot.first_page;
                let (bit, room) = (inside % 64, 64 - inside % 64);
                let count = room.min(to - page);
                slot.words[(inside / 64) as usize] |= (u64::MAX >> (64 - count)) << bit;
                page += count;
            }
        }
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.words.fill(0);
        }
    }

    /// Calls `run(first page, pages)` for each run of neighbouring pages in the set, rising.
    pub fn for_each_run(&self, mut run: impl FnMut(u64, u64)) {
        for slot in &self.slots {
            let mut page = 0;
            while let Some(start) = slot.next(page, true) {
                let end = slot.next(start, false).unwrap_or(slot.pages);
                run(slot.first_page + start, end - start);
                page = end;
            }
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().flat_map(|s| s.words.iter().copied())
    }

    fn add_words(&mut self, slot: usize, words: &[u64]) {
        let slot = &mut self.slots[slot];
        for (mine, theirs) in slot.words.iter_mut().zip(words) {
            *mine |= theirs;
        }
        // The kernel rounds its bitmap up; bits past the end are not pages.
        if let (Some(last), tail @ 1..) = (slot.words.last_mut(), slot.pages % 64) {
            *last &= (1 << tail) - 1;
        }
    }

    /// Whether the page was not in the set before.
    fn add(&mut self, slot: usize, page: u64) -> bool {
        let Some(slot) = self.slots.get_mut(slot).filter(|slot| page < slot.pages) else {
            return false;
        };
        let (word, bit) = (&mut slot.words[(page / 64) as usize], 1 << (page % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl SlotPages {
    /// The first page at or after `from` whose bit equals `set`.
    fn next(&self, from: u64, set: bool) -> Option<u64> {
        let mut word = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while let Some(&bits) = self.words.get(word) {
            let bits = if set { bits } else { !bits } & mask;
            if bits != 0 {
                let page = word as u64 * 64 + u64::from(bits.trailing_zeros());
                return (page < self.pages).then_some(page);
            }
            mask = u64::MAX;
            word += 1;
        }
        None
    }
}

/// The log of written pages of one guest.
pub struct DirtyLog {
    vm: Arc<Vm>,
    ram: Arc<GuestRam>,
    rings: Mutex<Rings>,
}

/// The vCPUs' rings, and what was taken out of them because one was full.
struct Rings {
    rings: Vec<DirtyRing>,
    drained: DirtyPages,
    /// Pages that each ring was the first to report in a collection, since [`DirtyLog::written_by_vcpu`] was
    /// asked last.
    written: Vec<u64>,
}

impl DirtyLog {
    /// A log, not started. `rings` are the vCPUs' when the machine reports by ring.
    pub fn new(vm: Arc<Vm>, ram: Arc<GuestRam>, rings: Vec<DirtyRing>) -> Self {
        let rings = Rings {
            drained: DirtyPages::empty(&ram),
            written: vec![0; rings.len()],
            rings,
        };
        Self {
            vm,
            ram,
            rings: Mutex::new(rings),
        }
    }

    /// Starts logging. The guest may run.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn start(&self) -> Result<(), KvmError> {
        for region in self.ram.memory().iter() {
            region.get_mmap().bitmap().reset();
        }
        self.rings().written.fill(0);
        self.ram.set_logging(&self.vm, true)
    }

    /// Stops logging; the guest runs at full speed again.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn stop(&self) -> Result<(), KvmError> {
        self.ram.set_logging(&self.vm, false)
    }

    /// Adds to `into` every page that was written since it was last armed.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn collect(&self, into: &mut DirtyPages) -> Result<(), KvmError> {
        if self.vm.ring_entries() > 0 {
            let mut rings = self.rings();
            rings.drain(&self.vm)?;
            for (number, slot) in rings.drained.slots.iter_mut().enumerate() {
                into.add_words(number, &slot.words);
                slot.words.fill(0);
            }
        } else {
            for (number, slot) in self.ram.slots().iter().enumerate() {
                into.add_words(number, &self.vm.dirty_bitmap(slot)?);
            }
        }
        for (number, region) in self.ram.memory().iter().enumerate() {
            into.add_words(number, &region.get_mmap().bitmap().get_and_reset());
        }
        Ok(())
    }

    /// How many pages each vCPU was the first to write since they were armed, as far as collected, since this
    /// was asked last; `None` unless each has a ring of its own: a bitmap does not tell who wrote.
    pub fn written_by_vcpu(&self) -> Option<Vec<u64>> {
        if self.vm.ring_entries() == 0 {
            return None;
        }
        let mut rings = self.rings();
        let none = vec![0; rings.rings.len()];
        Some(std::mem::replace(&mut rings.written, none))
    }

    /// Empties the rings. A vCPU calls it when its ring is full, for it cannot go on before.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn drain_rings(&self) -> Result<(), KvmError> {
        self.rings().drain(&self.vm)
    }

    fn rings(&self) -> std::sync::MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets writes to `pages` be seen again. Call before reading what was collected.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn arm(&self, pages: &DirtyPages) -> Result<(), KvmError> {
        if !self.vm.clears_manually() {
            return Ok(());
        }
        for (slot, set) in self.ram.slots().iter().zip(&pages.slots) {
            arm_slot(&self.vm, slot, set)?;
        }
        Ok(())
    }
}

impl Rings {
    /// Moves what the rings hold to `drained`. Resetting gives back exactly what was harvested, as
    /// both happen under the lock.
    fn drain(&mut self, vm: &Vm) -> Result<(), KvmError> {
        let Self {
            rings,
            drained,
            written,
        } = self;
        let mut harvested = 0;
        for (ring, written) in rings.iter_mut().zip(written) {
            // Some kernels report a page as often as it is written: it counts once.
            harvested += ring.harvest(|slot, page| {
                *written += u64::from(drained.add(slot as usize, page));
            });
        }
        if harvested > 0 {
            vm.reset_dirty_rings()?;
        }
        Ok(())
    }
}

fn arm_slot(vm: &Vm, slot: &MemorySlot, set: &SlotPages) -> Result<(), KvmError> {
    for first in (0..set.pages).step_by(ARM_CHUNK_PAGES as usize) {
        let pages = (set.pages - first).min(ARM_CHUNK_PAGES);
        let words = &set.words[(first / 64) as usize..(first + pages).div_ceil(64) as usize];
        if words.iter().any(|&w| w != 0) {
            vm.clear_dirty(slot, first, pages as u32, words)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_is_new_to_a_set_once() {
        let mut pages = DirtyPages::over([70, 3].into_iter());
        assert!(pages.add(0, 69) && pages.add(1, 2));
        assert!(!pages.add(0, 69) && !pages.add(1, 2));
        assert_eq!(pages.count(), 2);
    }

    #[test]
    fn bits_past_the_end_of_a_slot_are_not_pages() {
        let mut pages = DirtyPages::over([70, 3].into_iter());
        pages.add_words(0, &[u64::MAX, u64::MAX]);
        assert_eq!(pages.count(), 70);
        assert!(!pages.add(1, 3) && !pages.add(7, 0));
        assert_eq!(pages.count(), 70);
        assert!(pages.contains(69) && !pages.contains(70));
    }

    proptest! {
        #[test]
        fn runs_name_each_page_of_the_set_once(bits in proptest::collection::vec(any::<bool>(), 1..400), split in 1usize..400) {
            let split = split.min(bits.len());
            let mut pages = DirtyPages::over([split as u64, (bits.len() - split) as u64].into_iter());
            for (page, _) in bits.iter().enumerate().filter(|(_, set)| **set) {
                let _ = if page < split { pages.add(0, page as u64) } else { pages.add(1, (page - split) as u64) };
            }
            let mut seen = vec![false; bits.len()];
            let mut copy = DirtyPages::over([split as u64, (bits.len() - split) as u64].into_iter());
            pages.for_each_run(|first, len| copy.insert_run(first, len));
            prop_assert_eq!(&copy, &pages);
            copy.insert_run(0, u64::MAX);
            prop_assert_eq!(copy.count(), bits.len() as u64);
            pages.for_each_run(|first, len| {
                assert!(len > 0);
                for page in first..first + len {
                    assert!(!std::mem::replace(&mut seen[page as usize], true));
                }
            });
            prop_assert_eq!(&seen, &bits);
            prop_assert_eq!(pages.count(), bits.iter().filter(|b| **b).count() as u64);
            for (page, set) in bits.iter().enumerate() {
                prop_assert_eq!(pages.contains(page as u64), *set);
            }
        }
    }
}
