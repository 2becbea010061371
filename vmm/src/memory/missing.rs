//! Guest memory whose pages are absent until somebody installs them (userfaultfd, "missing" faults).
//!
//! A thread that touches an absent page waits in the kernel, a vCPU inside `KVM_RUN` included, until
//! the page is installed: whole, at once, and only if it is still absent. What is installed is never
//! overwritten.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use userfaultfd::{Error, Event, FeatureFlags, RegisterMode, Uffd, UffdBuilder};

use super::GuestRam;

/// Why memory cannot be made absent.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    /// The kernel gives this process no userfaultfd.
    #[error(
        "cannot open userfaultfd; run as root, give access to /dev/userfaultfd, or set the sysctl \
         vm.unprivileged_userfaultfd to 1"
    )]
    Open(#[source] Error),
    /// Guest memory cannot be registered.
    #[error("cannot register guest memory at {guest_address:#x} with userfaultfd")]
    Register {
        /// The range's first guest address.
        guest_address: u64,
        /// The kernel's answer.
        #[source]
        source: Error,
    },
}

/// Registered guest memory. Dropping it closes the userfaultfd: what is absent then reads as zero.
pub(super) struct MissingMemory {
    uffd: Uffd,
    ram: Arc<GuestRam>,
}

impl MissingMemory {
    /// Whether this process may do so.
    pub(super) fn check() -> Result<(), MissingError> {
        Self::open().map(drop)
    }

    fn open() -> Result<Uffd, MissingError> {
        UffdBuilder::new()
            .close_on_exec(true)
            .non_blocking(true)
            .user_mode_only(false)
            .require_features(FeatureFlags::MISSING_SHMEM | FeatureFlags::MISSING_HUGETLBFS)
            .create()
            .map_err(MissingError::Open)
    }

    /// Reports faults on pages of `ram` that have nothing behind them from now on.
    pub(super) fn register(ram: Arc<GuestRam>) -> Result<Self, MissingError> {
        let uffd = Self::open()?;
        for slot in ram.slots() {
            uffd.register_with_mode(
                slot.host_address as *mut libc::c_void,
                slot.len as usize,
                RegisterMode::MISSING,
            )
            .map_err(|source| MissingError::Register {
                guest_address: slot.guest_address,
                source,
            })?;
        }
        Ok(Self { uffd, ram })
    }

    pub(super) fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The next fault as an offset in the memory file; `None` when there is none now.
    pub(super) fn next_fault(&self) -> Result<Option<u64>, Error> {
        while let Some(event) = self.uffd.read_event()? {
            if let Event::Pagefault { addr, .. } = event
                && let Some(offset) = self.ram.offset_of_host(addr as u64)
            {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// Installs `bytes` at `offset` of the memory file, whole pages, and wakes who waits for them.
    /// Pages that are there already keep what they have.
    pub(super) fn install(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let page = self.ram.huge_pages().page_bytes();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (address, room) = self.ram.host_range(at);
            let rest = &bytes[done..(done + room as usize).min(bytes.len())];
            done += match self.copy(address, rest) {
                Ok(copied) => copied,
                // Interrupted on the way: go on behind what was copied.
                Err(Error::PartiallyCopied(copied)) if copied > 0 => copied,
                // The first page is there already, or the kernel asks to come again: one page at a
                // time tells which.
                Err(_) if rest.len() as u64 > page => {
                    self.install_page(address, &rest[..page as usize])?;
                    page as usize
                }
                Err(_) => {
                    self.install_page(address, rest)?;
                    rest.len()
                }
            };
        }
        Ok(())
    }

    /// Installs one page unless it is there.
    fn install_page(&self, address: u64, page: &[u8]) -> Result<(), Error> {
        // The kernel asks to come again while mappings change, which ends.
        for _ in 0..1000 {
            match self.copy(address, page) {
                Ok(_) => return Ok(()),
                Err(Error::CopyFailed(errno)) if errno as i32 == libc::EEXIST => {
                    return self.wake(address, page.len());
                }
                Err(Error::PartiallyCopied(_)) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Err(Error::PartiallyCopied(0))
    }

    fn copy(&self, address: u64, bytes: &[u8]) -> Result<usize, Error> {
        // SAFETY: the target is guest memory registered with this userfaultfd and kept mapped by
        // `self.ram`, at least `bytes.len()` of it up to the end of its slot; the source is a slice.
        // No reference to guest memory exists; the guest sees either no page or the whole page.
        unsafe {
            self.uffd.copy(
                bytes.as_ptr().cast(),
                address as *mut libc::c_void,
                bytes.len(),
                true,
            )
        }
    }

    /// Lets threads that wait for pages at host `address` look again.
    fn wake(&self, address: u64, len: usize) -> Result<(), Error> {
        self.uffd.wake(address as *mut libc::c_void, len)
    }

    /// Lets threads that wait for `len` bytes at `offset` of the memory file look again.
    pub(super) fn wake_at(&self, offset: u64, len: u64) -> Result<(), Error> {
        let mut done = 0;
        while done < len {
            let (address, room) = self.ram.host_range(offset + done);
            let part = room.min(len - done);
            self.wake(address, part as usize)?;
            done += part;
        }
        Ok(())
    }

    /// Gives memory back to the kernel's own faults: what is absent reads as zero from here on.
    pub(super) fn release(&self) {
        for slot in self.ram.slots() {
            let address = slot.host_address as *mut libc::c_void;
            if let Err(error) = self.uffd.unregister(address, slot.len as usize) {
                tracing::warn!(%error, "guest memory stays registered with userfaultfd");
            }
        }
    }
}

impl AsRawFd for MissingMemory {
    fn as_raw_fd(&self) -> RawFd {
        self.uffd.as_raw_fd()
    }
}
