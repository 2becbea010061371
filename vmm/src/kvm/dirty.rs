//! The kernel's two dirty logs beyond what `kvm-ioctls` wraps: manual clearing of the bitmap and
//! the per-vCPU ring (KVM API 4.117 `KVM_CLEAR_DIRTY_LOG`, 8.29 `KVM_CAP_DIRTY_LOG_RING`).

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iowr_nr};

use crate::memory::layout::PAGE_SIZE;

ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// The most entries a ring gets, which is also the most the kernel gives: 256 MiB of guest memory can
/// be written before a vCPU has to wait for the ring to be emptied; 1 MiB of host memory per vCPU.
pub const RING_MAX_ENTRIES: u32 = 65_536;

/// `struct kvm_dirty_gfn`, 16 bytes.
#[repr(C)]
struct DirtyGfn {
    flags: AtomicU32,
    slot: u32,
    offset: u64,
}

const _: () = assert!(size_of::<DirtyGfn>() == 16);

/// `KVM_DIRTY_GFN_F_DIRTY`: the kernel filled the entry.
const DIRTY: u32 = 1;
/// `KVM_DIRTY_GFN_F_RESET`: userspace harvested the entry.
const RESET: u32 = 2;

/// How many entries fit a ring of the size the capability reports, bounded.
pub(super) fn ring_entries(capability_bytes: i32) -> u32 {
    let entries = u32::try_from(capability_bytes).unwrap_or(0) / size_of::<DirtyGfn>() as u32;
    entries.min(RING_MAX_ENTRIES)
}

pub(super) fn ring_bytes(entries: u32) -> u64 {
    u64::from(entries) * size_of::<DirtyGfn>() as u64
}

/// Write-protects again those of the pages from `first_page` on whose bit is set in `bitmap`.
///
/// `first_page` is a multiple of 64 and so is `num_pages`, unless it ends the slot.
pub(super) fn clear_dirty_log(
    vm: &impl AsRawFd,
    slot: u32,
    first_page: u64,
    num_pages: u32,
    bitmap: &[u64],
) -> io::Result<()> {
    assert!(
        bitmap.len() * 64 >= num_pages as usize,
        "the bitmap covers the pages to clear"
    );
    let arguments = kvm_clear_dirty_log {
        slot,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: the fd is a VM's; the kernel reads `num_pages` bits of `bitmap`, which the assertion
    // above proves to be there, and writes nothing.
    let result = unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &arguments) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Gives every harvested entry of all rings back to the kernel, which protects the pages again.
/// Returns how many.
pub(super) fn reset_rings(vm: &impl AsRawFd) -> io::Result<u32> {
    // SAFETY: the fd is a VM's; the ioctl takes no argument.
    let result = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// One vCPU's ring, mapped.
pub struct DirtyRing {
    entries: NonNull<DirtyGfn>,
    count: u32,
    /// The entry to look at next; wraps at `count`, a power of two.
    next: u32,
}

// SAFETY: the mapping is plain shared memory; `&mut self` in `harvest` makes one reader at a time.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    pub(super) fn map(vcpu: &impl AsRawFd, count: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a ring has a power of two entries");
        // SAFETY: a fresh shared mapping of the vCPU's ring, of the size set when it was enabled.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                ring_bytes(count) as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                (u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE) as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).expect("a successful mmap is not null");
        Ok(Self {
            entries,
            count,
            next: 0,
        })
    }

    /// Calls `page(slot, page index in the slot)` for each page the vCPU wrote since the last call.
    /// The pages stay unprotected until the rings are reset. At most one turn of the ring.
    pub fn harvest(&mut self, mut page: impl FnMut(u32, u64)) -> u32 {
        let mut harvested = 0;
        while harvested < self.count {
            let index = (self.next & (self.count - 1)) as usize;
            // SAFETY: `index < count` entries are mapped; `flags` is the only field that both
            // sides write, and it is atomic.
            let entry = unsafe { self.entries.add(index).as_ref() };
            // Acquire pairs with the kernel's release: slot and offset are complete.
            if entry.flags.load(Ordering::Acquire) != DIRTY {
                break;
            }
            page(entry.slot & 0xffff, entry.offset);
            entry.flags.store(RESET, Ordering::Release);
            self.next = self.next.wrapping_add(1);
            harvested += 1;
        }
        harvested
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`, unmapped once.
        unsafe {
            libc::munmap(
                self.entries.as_ptr().cast(),
                ring_bytes(self.count) as usize,
            )
        };
    }
}
