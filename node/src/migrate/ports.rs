//! What the migration engine asks of a guest, answered by the VMM.

use std::sync::{Arc, Mutex, PoisonError};

use godwit_migration::PageSet;
use godwit_migration::ports::{self, PortError};
use godwit_vmm::guest::Guest;
use godwit_vmm::memory::post_copy::{Arrival, PostCopy};
use godwit_vmm::memory::{DirtyLog, DirtyPages, GuestRam};

use crate::guest_process::mandate::Holder;

/// Guest page size, bytes.
const PAGE: u64 = ports::PAGE_BYTES as u64;

/// The least run of pages, in bytes, that is filled through the memory file.
const FILLED_BYTES: usize = 64 << 10;

/// A guest's memory.
pub struct MemoryPort(Arc<GuestRam>);

impl MemoryPort {
    /// The memory of `guest`.
    pub fn new(guest: &Guest) -> Self {
        Self(guest.ram().clone())
    }
}

impl ports::GuestMemory for MemoryPort {
    fn pages(&self) -> u64 {
        self.0.bytes() / PAGE
    }

    fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError> {
        Ok(self.0.read(offset(first)?, bytes)?)
    }

    fn write(&self, first: u64, bytes: &[u8]) -> Result<(), PortError> {
        let at = offset(first)?;
        // Long runs are memory that comes for the first time; single pages are those that the guest
        // writes again and again, and will touch at once.
        if bytes.len() >= FILLED_BYTES {
            Ok(self.0.fill(at, bytes)?)
        } else {
            Ok(self.0.write(at, bytes)?)
        }
    }

    fn write_zeros(&self, first: u64, count: u64) -> Result<(), PortError> {
        if self.is_untouched(first, count) {
            return Ok(());
        }
        let (start, len) = (offset(first)?, offset(count)?);
        if start
            .checked_add(len)
            .is_none_or(|end| end > self.0.bytes())
        {
            return Err(format!("pages {first}+{count} lie outside guest memory").into());
        }
        Ok(self.0.punch(start, len)?)
    }

    fn is_untouched(&self, first: u64, count: u64) -> bool {
        let (Ok(start), Ok(len)) = (offset(first), offset(count)) else {
            return false;
        };
        self.0
            .next_data(start)
            .is_some_and(|data| data >= start.saturating_add(len))
    }
}

fn offset(page: u64) -> Result<u64, PortError> {
    page.checked_mul(PAGE)
        .ok_or_else(|| format!("page {page} lies outside guest memory").into())
}

/// The log of pages that a guest writes.
pub struct LogPort {
    log: Arc<DirtyLog>,
    /// What the VMM fills, kept to save making one for each round.
    scratch: Mutex<DirtyPages>,
}

impl LogPort {
    /// The log of `guest`.
    pub fn new(guest: &Guest) -> Self {
        let scratch = Mutex::new(DirtyPages::empty(guest.ram()));
        Self {
            log: guest.dirty_log().clone(),
            scratch,
        }
    }

    fn with_scratch<R>(&self, use_it: impl FnOnce(&mut DirtyPages) -> R) -> R {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.clear();
        use_it(&mut scratch)
    }
}

impl ports::DirtyLog for LogPort {
    fn start(&self) -> Result<(), PortError> {
        Ok(self.log.start()?)
    }

    fn collect(&self, pages: &mut PageSet) -> Result<(), PortError> {
        self.with_scratch(|dirty| {
            self.log.collect(dirty)?;
            dirty.for_each_run(|first, count| pages.insert_run(first, count));
            Ok(())
        })
    }

    fn arm(&self, pages: &PageSet) -> Result<(), PortError> {
        self.with_scratch(|dirty| {
            for (first, count) in pages.runs() {
                dirty.insert_run(first, count);
            }
            Ok(self.log.arm(dirty)?)
        })
    }

    fn written_by_vcpu(&self) -> Option<Vec<u64>> {
        self.log.written_by_vcpu()
    }

    fn stop(&self) -> Result<(), PortError> {
        Ok(self.log.stop()?)
    }
}

/// A guest that can be stopped, saved and restored, and runs only while it may.
pub struct GuestPort {
    guest: Arc<Guest>,
    holder: Arc<Holder>,
    arrives: bool,
}

impl GuestPort {
    /// For `guest`, which runs here.
    pub fn leaving(guest: Arc<Guest>, holder: Arc<Holder>) -> Self {
        let arrives = false;
        Self {
            guest,
            holder,
            arrives,
        }
    }

    /// For `guest`, which is handed over to this process.
    pub fn arriving(guest: Arc<Guest>, holder: Arc<Holder>) -> Self {
        let arrives = true;
        Self {
            guest,
            holder,
            arrives,
        }
    }
}

impl ports::Pausable for GuestPort {
    fn pause(&self) -> Result<(), PortError> {
        Ok(self.guest.pause()?)
    }

    fn resume(&self) -> Result<(), PortError> {
        let run = || self.guest.resume().map_err(|error| error.coded());
        let runs = match self.arrives {
            true => self.holder.handed_over(run),
            false => self.holder.goes_on(run),
        };
        Ok(runs?)
    }

    fn save(&self) -> Result<Vec<u8>, PortError> {
        Ok(self.guest.save()?)
    }

    fn restore(&self, state: &[u8]) -> Result<(), PortError> {
        Ok(self.guest.take_state(state)?)
    }

    fn relinquish(&self) -> Result<(), PortError> {
        self.holder.relinquish();
        Ok(self.guest.relinquish()?)
    }
}

/// Memory that follows a guest.
pub struct FollowingPort {
    guest: Arc<Guest>,
    /// Pages that were given up already.
    stale: Mutex<PageSet>,
}

impl FollowingPort {
    /// For `guest`, which waits for its memory and state.
    pub fn new(guest: Arc<Guest>) -> Self {
        let stale = Mutex::new(PageSet::empty(guest.ram().bytes() / PAGE));
        Self { guest, stale }
    }
}

/// Pages of `guest` that the host installs together.
pub(super) fn unit_pages(guest: &Guest) -> u64 {
    guest.ram().huge_pages().page_bytes() / PAGE
}

impl ports::FollowingMemory for FollowingPort {
    fn unit_pages(&self) -> u64 {
        unit_pages(&self.guest)
    }

    fn give_up(&self, pages: &PageSet) -> Result<(), PortError> {
        self.guest.give_up_memory(pages.runs())?;
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        stale.union(pages);
        Ok(())
    }

    fn make_absent(
        &self,
        pages: &PageSet,
        mut tell: Box<dyn FnMut(ports::Arrival) + Send>,
    ) -> Result<Arc<dyn ports::ArrivingMemory>, PortError> {
        let mut rest = pages.clone();
        {
            let stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
            stale
                .runs()
                .for_each(|(first, count)| rest.remove_run(first, count));
        }
        self.guest.give_up_memory(rest.runs())?;
        let arriving = self.guest.await_memory(pages.runs(), move |arrival| {
            tell(match arrival {
                Arrival::Fault(page) => ports::Arrival::Fault(page),
                Arrival::Failed(error) => ports::Arrival::Failed(error.into()),
            });
        })?;
        Ok(Arc::new(ArrivingPort(arriving)))
    }
}

struct ArrivingPort(Arc<PostCopy>);

impl ports::ArrivingMemory for ArrivingPort {
    fn install(
        &self,
        first: u64,
        bytes: &[u8],
        arrived: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PortError> {
        Ok(self.0.install(first, bytes, arrived)?)
    }

    fn install_zeros(
        &self,
        first: u64,
        count: u64,
        arrived: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PortError> {
        Ok(self.0.install_zeros(first, count, arrived)?)
    }
}
