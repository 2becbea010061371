//! The memory that backs a guest: one memfd, mapped once per range of the address map.
//!
//! A memfd can be handed to another process (an in-place upgrade of the VMM copies no page), can be
//! sparse, and gives userfaultfd both missing and minor faults.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestRegionMmap,
};

use super::GuestMemory;
use super::layout::{PAGE_SIZE, ram_ranges};
use crate::kvm::{KvmError, MemorySlot, Vm};

/// Smallest guest, bytes.
pub const MIN_BYTES: u64 = 16 << 20;
/// Largest guest, bytes.
pub const MAX_BYTES: u64 = 1 << 40;
const HUGE_2M: u64 = 2 << 20;

/// Which pages back guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// 4 KiB pages.
    #[default]
    None,
    /// 2 MiB pages where the kernel finds them (transparent huge pages).
    Transparent,
    /// Reserved 2 MiB pages (hugetlbfs); the guest does not start when too few are free.
    Huge2M,
}

impl HugePages {
    /// The size of a page that is certain to be mapped as one piece, bytes.
    pub fn page_bytes(self) -> u64 {
        match self {
            Self::None | Self::Transparent => PAGE_SIZE,
            Self::Huge2M => HUGE_2M,
        }
    }
}

/// Why guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Less or more than a guest can have, or not a multiple of the page size.
    #[error(
        "guest memory of {bytes} bytes is not possible; use 16 MiB to 1 TiB in whole pages of \
         {page_bytes} bytes"
    )]
    Size {
        /// What was asked for.
        bytes: u64,
        /// The page size that applies.
        page_bytes: u64,
    },
    /// The kernel gave no memory file.
    #[error("cannot create the memory file of {bytes} bytes")]
    Create {
        /// Its size.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Too few reserved huge pages.
    #[error(
        "too few free 2 MiB huge pages for {bytes} bytes of guest memory; reserve {pages} with \
         the sysctl vm.nr_hugepages or start without huge pages"
    )]
    HugePages {
        /// Guest memory.
        bytes: u64,
        /// Pages that it takes.
        pages: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file that was handed over is not the memory file of such a guest.
    #[error(
        "the file that was handed over is no guest memory of {bytes} bytes: it has {found}, or could shrink"
    )]
    Foreign {
        /// What the guest has.
        bytes: u64,
        /// The length of the file.
        found: u64,
    },
    /// The memory file could not be mapped.
    #[error("cannot map {bytes} bytes of guest memory at guest address {guest_address:#x}")]
    Map {
        /// Length.
        bytes: u64,
        /// Where in the guest.
        guest_address: u64,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A guest's RAM.
pub struct GuestRam {
    memory: GuestMemory,
    slots: Vec<MemorySlot>,
    file: Arc<File>,
    huge_pages: HugePages,
    bytes: u64,
}

impl GuestRam {
    /// Makes `bytes` of zeroed memory. Nothing is touched, so it costs address space only, unless
    /// huge pages are reserved for it.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn allocate(bytes: u64, huge_pages: HugePages) -> Result<Self, MemoryError> {
        check_size(bytes, huge_pages)?;
        let file = memory_file(huge_pages)
            .and_then(|file| file.set_len(bytes).map(|()| file))
            .and_then(|file| fix_size(&file).map(|()| file))
            .map_err(|source| MemoryError::Create { bytes, source })?;
        Self::over(Arc::new(file), bytes, huge_pages)
    }

    /// Takes over the memory of another process's guest, whose `file` it is. Both see the same pages
    /// from now on, so only one of them may run the guest.
    ///
    /// # Errors
    /// [`MemoryError`]; [`MemoryError::Foreign`] when `file` is not what [`GuestRam::allocate`] made
    /// for the same size.
    pub fn adopt(file: File, bytes: u64, huge_pages: HugePages) -> Result<Self, MemoryError> {
        check_size(bytes, huge_pages)?;
        let found = file.metadata().map_or(0, |metadata| metadata.len());
        if found != bytes || !has_fixed_size(&file) {
            return Err(MemoryError::Foreign { bytes, found });
        }
        Self::over(Arc::new(file), bytes, huge_pages)
    }

    fn over(file: Arc<File>, bytes: u64, huge_pages: HugePages) -> Result<Self, MemoryError> {
        let mut offset = 0;
        let mut regions = Vec::new();
        let mut slots = Vec::new();
        for (number, range) in ram_ranges(bytes).into_iter().enumerate() {
            let region = map(&file, offset, range.len, huge_pages)
                .map_err(|error| map_error(error, bytes, range.start, huge_pages))?;
            let host_address = region.as_ptr() as u64;
            if huge_pages == HugePages::Transparent {
                advise_huge(host_address, range.len);
            }
            slots.push(MemorySlot {
                slot: number as u32,
                guest_address: range.start,
                len: range.len,
                host_address,
            });
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(range.start))
                    .expect("the address map ends far below 2^64"),
            );
            offset += range.len;
        }
        let memory =
            GuestMemory::from_regions(regions).expect("the address map's ranges are disjoint");
        Ok(Self {
            memory,
            slots,
            file,
            huge_pages,
            bytes,
        })
    }

    /// The memory as devices and the loader see it.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// How it is mapped, by rising guest address. A slot's position in the memory file is the sum
    /// of the lengths before it.
    pub fn slots(&self) -> &[MemorySlot] {
        &self.slots
    }

    /// The memory file: all RAM, ranges one after the other.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Which pages back it.
    pub fn huge_pages(&self) -> HugePages {
        self.huge_pages
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it to a machine.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn attach(&self, vm: &Vm) -> Result<(), KvmError> {
        self.set_logging(vm, false)
    }

    /// Turns the kernel's logging of writes on or off.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub(super) fn set_logging(&self, vm: &Vm, log_writes: bool) -> Result<(), KvmError> {
        for slot in &self.slots {
            // SAFETY: the mapping is owned by `self.memory`, which the guest keeps until its `Vm`
            // is gone; all access goes through vm-memory's volatile slices, never a reference.
            unsafe { vm.set_memory(slot, log_writes) }?;
        }
        Ok(())
    }

    /// Copies memory from `offset` of the memory file on. The guest may write it at the same time;
    /// each byte is then old or new.
    ///
    /// # Errors
    /// When the range leaves memory.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let len = bytes.len();
        self.pieces(offset, len)?
            .try_for_each(|(address, start, len)| {
                self.memory
                    .read_slice(&mut bytes[start..start + len], GuestAddress(address))
            })
    }

    /// Writes memory from `offset` of the memory file on.
    ///
    /// # Errors
    /// When the range leaves memory.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        self.pieces(offset, bytes.len())?
            .try_for_each(|(address, start, len)| {
                self.memory
                    .write_slice(&bytes[start..start + len], GuestAddress(address))
            })
    }

    /// Writes memory from `offset` of the memory file on, through the file: where no page is, the kernel puts one
    /// without clearing it first and without a fault for each. Whoever touches such a page later has it
    /// mapped then. Not for memory whose writes are logged.
    ///
    /// # Errors
    /// When the range leaves memory, or the kernel has no page.
    pub fn fill(&self, offset: u64, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        // Huge pages are not written through the file, or would be split.
        if self.huge_pages != HugePages::None {
            return self.write(offset, bytes);
        }
        let inside = offset.checked_add(bytes.len() as u64);
        inside
            .filter(|&end| end <= self.bytes)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(GuestMemoryError::IOError)
    }

    /// The guest ranges of `len` bytes at `offset` of the memory file, as (guest address, start in
    /// the piece, length): one, or two around the PCI hole.
    fn pieces(
        &self,
        offset: u64,
        len: usize,
    ) -> Result<impl Iterator<Item = (u64, usize, usize)>, GuestMemoryError> {
        let end = offset
            .checked_add(len as u64)
            .filter(|&end| end <= self.bytes)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        let mut base = 0;
        Ok(self.slots.iter().filter_map(move |slot| {
            let (first, last) = (base, base + slot.len);
            base = last;
            let (from, to) = (offset.max(first), end.min(last));
            (from < to).then(|| {
                let address = slot.guest_address + (from - first);
                (address, (from - offset) as usize, (to - from) as usize)
            })
        }))
    }

    /// The first offset at or after `offset` of the memory file that has a page behind it; the size
    /// when there is none, `None` when the kernel cannot tell.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let from = libc::off_t::try_from(offset).ok()?;
        // SAFETY: seeks in a file that this process owns; nothing reads it by position.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_DATA) };
        if found < 0 {
            let nothing_there = io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            return nothing_there.then_some(self.bytes);
        }
        u64::try_from(found).ok()
    }

    /// Gives every page back to the host: all memory reads as zero again, and is as good as written
    /// to the dirty log.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn clear(&self) -> io::Result<()> {
        for region in self.memory.iter() {
            let mapping = region.get_mmap();
            mapping.bitmap().set_addr_range(0, mapping.size());
        }
        self.punch(0, self.bytes)
    }

    /// Gives the pages of `len` bytes at `offset` of the memory file back to the host.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (offset as libc::off_t, len as libc::off_t);
        // SAFETY: the call touches no memory of this process; the guest and its devices are paused.
        let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) };
        if result != 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Bytes that have pages behind them.
    pub fn resident_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// The host address at `offset` of the memory file, and the bytes from there to the end of its
    /// slot. Past the end of memory is the caller's mistake.
    pub(super) fn host_range(&self, offset: u64) -> (u64, u64) {
        let mut start = 0;
        for slot in &self.slots {
            if offset < start + slot.len {
                let inside = offset - start;
                return (slot.host_address + inside, slot.len - inside);
            }
            start += slot.len;
        }
        panic!(
            "offset {offset:#x} lies outside guest memory of {} bytes",
            self.bytes
        )
    }

    /// Where host `address` lies in the memory file.
    pub(super) fn offset_of_host(&self, address: u64) -> Option<u64> {
        let mut offset = 0;
        for slot in &self.slots {
            if let Some(inside) = address.checked_sub(slot.host_address)
                && inside < slot.len
            {
                return Some(offset + inside);
            }
            offset += slot.len;
        }
        None
    }

    /// Where guest physical `address` lies in the memory file.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let mut offset = 0;
        for slot in &self.slots {
            if let Some(inside) = address.checked_sub(slot.guest_address)
                && inside < slot.len
            {
                return Some(offset + inside);
            }
            offset += slot.len;
        }
        None
    }
}

fn check_size(bytes: u64, huge_pages: HugePages) -> Result<(), MemoryError> {
    let page_bytes = huge_pages.page_bytes();
    if (MIN_BYTES..=MAX_BYTES).contains(&bytes) && bytes.is_multiple_of(page_bytes) {
        Ok(())
    } else {
        Err(MemoryError::Size { bytes, page_bytes })
    }
}

fn memory_file(huge_pages: HugePages) -> io::Result<File> {
    const NAME: &CStr = c"godwit-guest-memory";
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if huge_pages == HugePages::Huge2M {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    // SAFETY: the name is a NUL-terminated string; the call touches no other memory.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whoever maps a file that shrinks is killed when it touches what is gone.
const FIXED_SIZE: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Seals `file` so that nobody who has it can change its size.
fn fix_size(file: &File) -> io::Result<()> {
    // SAFETY: the call touches no memory of this process.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, FIXED_SIZE) };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn has_fixed_size(file: &File) -> bool {
    // SAFETY: the call touches no memory of this process; it fails for what is no memory file.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & FIXED_SIZE == FIXED_SIZE
}

fn map(
    file: &Arc<File>,
    offset: u64,
    len: u64,
    huge_pages: HugePages,
) -> Result<vm_memory::MmapRegion<AtomicBitmap>, MmapRegionError> {
    // Without NORESERVE the kernel sets huge pages aside now, so that a guest never dies of SIGBUS
    // for want of one later.
    let reserve = match huge_pages {
        HugePages::Huge2M => 0,
        HugePages::None | HugePages::Transparent => libc::MAP_NORESERVE,
    };
    let page_size = std::num::NonZeroUsize::new(PAGE_SIZE as usize).expect("not zero");
    let bitmap = AtomicBitmap::new(len as usize, page_size);
    MmapRegionBuilder::new_with_bitmap(len as usize, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | reserve)
        .with_file_offset(FileOffset::from_arc(file.clone(), offset))
        .build()
}

fn map_error(
    error: MmapRegionError,
    bytes: u64,
    guest_address: u64,
    huge_pages: HugePages,
) -> MemoryError {
    match error {
        MmapRegionError::Mmap(source) if huge_pages == HugePages::Huge2M => {
            MemoryError::HugePages {
                bytes,
                pages: bytes / HUGE_2M,
                source,
            }
        }
        other => MemoryError::Map {
            bytes,
            guest_address,
            source: Box::new(other),
        },
    }
}

/// A hint; a kernel without transparent huge pages for shared memory ignores it.
fn advise_huge(address: u64, len: u64) {
    // SAFETY: the range is a mapping made above; the advice changes how it is backed, not what it
    // holds.
    let result = unsafe {
        libc::madvise(
            address as *mut libc::c_void,
            len as usize,
            libc::MADV_HUGEPAGE,
        )
    };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "no transparent huge pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_adopted_only_from_a_file_that_cannot_shrink() {
        let here = GuestRam::allocate(MIN_BYTES, HugePages::None).unwrap();
        here.write(4096, b"both see this").unwrap();
        let handed = || here.file().try_clone().unwrap();
        let there = GuestRam::adopt(handed(), MIN_BYTES, HugePages::None).unwrap();
        let mut seen = [0; 13];
        there.read(4096, &mut seen).unwrap();
        assert_eq!(&seen, b"both see this");
        assert!(handed().set_len(4096).is_err());

        let other_size = GuestRam::adopt(handed(), 2 * MIN_BYTES, HugePages::None);
        assert!(matches!(other_size, Err(MemoryError::Foreign { .. })));
        let unsealed = tempfile::tempfile().unwrap();
        unsealed.set_len(MIN_BYTES).unwrap();
        let unsealed = GuestRam::adopt(unsealed, MIN_BYTES, HugePages::None);
        assert!(matches!(unsealed, Err(MemoryError::Foreign { .. })));
    }

    #[test]
    fn memory_is_zero_and_keeps_what_is_written_on_both_sides_of_the_hole() {
        let ram = GuestRam::allocate(4 << 30, HugePages::None).unwrap();
        for address in [0, 0xbfff_fff8, 0x1_0000_0000, 0x1_3fff_fff8] {
            let address = GuestAddress(address);
            assert_eq!(ram.memory().read_obj::<u64>(address).unwrap(), 0);
            ram.memory().write_obj(address.0 + 1, address).unwrap();
            assert_eq!(
                ram.memory().read_obj::<u64>(address).unwrap(),
                address.0 + 1
            );
        }
        assert!(
            ram.memory()
                .read_obj::<u64>(GuestAddress(0xc000_0000))
                .is_err()
        );
        assert!(
            ram.memory()
                .read_obj::<u64>(GuestAddress(0x1_4000_0000))
                .is_err()
        );
    }

    #[test]
    fn the_memory_file_holds_the_ranges_one_after_the_other() {
        let ram = GuestRam::allocate(4 << 30, HugePages::None).unwrap();
        assert_eq!(ram.file_offset(0x1000), Some(0x1000));
        assert_eq!(ram.file_offset(0xc000_0000), None);
        assert_eq!(ram.file_offset(0x1_0000_0000), Some(0xc000_0000));
        assert_eq!(ram.file_offset(0x1_4000_0000), None);
    }

    #[test]
    fn memory_is_read_and_written_across_the_hole_and_never_past_its_end() {
        let ram = GuestRam::allocate(4 << 30, HugePages::None).unwrap();
        let hole = 0xc000_0000;
        ram.write(hole - 2, &[1, 2, 3, 4]).unwrap();
        let low: [u8; 2] = ram.memory().read_obj(GuestAddress(hole - 2)).unwrap();
        let high: [u8; 2] = ram.memory().read_obj(GuestAddress(0x1_0000_0000)).unwrap();
        assert_eq!((low, high), ([1, 2], [3, 4]));
        let mut back = [0; 6];
        ram.read(hole - 3, &mut back).unwrap();
        assert_eq!(back, [0, 1, 2, 3, 4, 0]);
        assert!(ram.read((4 << 30) - 1, &mut back).is_err());
        assert!(ram.write(u64::MAX, &[0]).is_err());
    }

    #[test]
    fn what_is_filled_through_the_file_is_in_memory_and_never_past_its_end() {
        let ram = GuestRam::allocate(MIN_BYTES, HugePages::None).unwrap();
        ram.fill(PAGE_SIZE - 1, &[1, 2]).unwrap();
        let here: [u8; 4] = ram.memory().read_obj(GuestAddress(PAGE_SIZE - 2)).unwrap();
        assert_eq!(here, [0, 1, 2, 0]);
        assert!(ram.fill(MIN_BYTES - 1, &[1, 2]).is_err());
        assert!(ram.fill(u64::MAX, &[1]).is_err());
        assert_eq!(ram.file.metadata().unwrap().len(), MIN_BYTES);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for bytes in [
            0,
            4096,
            MIN_BYTES - PAGE_SIZE,
            MIN_BYTES + 1,
            MAX_BYTES + PAGE_SIZE,
        ] {
            assert!(matches!(
                GuestRam::allocate(bytes, HugePages::None),
                Err(MemoryError::Size { .. })
            ));
        }
        assert!(matches!(
            GuestRam::allocate(MIN_BYTES + PAGE_SIZE, HugePages::Huge2M),
            Err(MemoryError::Size {
                page_bytes: HUGE_2M,
                ..
            })
        ));
    }

    #[test]
    fn missing_huge_pages_are_reported_with_how_many_to_reserve() {
        let error = match GuestRam::allocate(MAX_BYTES, HugePages::Huge2M) {
            Ok(_) => return, // a machine with a terabyte of huge pages
            Err(error) => error,
        };
        assert!(matches!(
            error,
            MemoryError::HugePages { pages: 524_288, .. } | MemoryError::Create { .. }
        ));
    }
}
