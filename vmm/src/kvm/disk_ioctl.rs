//! The system calls of a disk image that neither `std` nor `vmm-sys-util` has a safe form of.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

// include/uapi/linux/fs.h; these are `_IO(0x12, n)`, the same on every architecture.
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKZEROOUT: libc::Ioctl = 0x127f;

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Locks the whole of `file` for this open file description (`F_OFD_SETLK`), shared or exclusive.
/// The lock goes with the last copy of the descriptor, also when the process is killed. It excludes
/// QEMU too, whose image locks are of the same kind.
///
/// # Errors
/// `WouldBlock` when another open file description has a lock that excludes this one.
pub fn lock(file: BorrowedFd<'_>, exclusive: bool) -> io::Result<()> {
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    // POSIX allows both answers for a conflict.
    set_lock(file, kind).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES) => io::ErrorKind::WouldBlock.into(),
        _ => error,
    })
}

/// Gives up the lock of [`lock`]; nothing when there is none.
///
/// # Errors
/// The kernel's answer.
pub fn unlock(file: BorrowedFd<'_>) -> io::Result<()> {
    set_lock(file, libc::F_UNLCK)
}

fn set_lock(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: `flock` is plain integers, for which zero is a value.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    // SAFETY: the kernel reads `lock`, which lives until the call has returned.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
}

/// The logical block size of a block device, bytes.
///
/// # Errors
/// The kernel's answer, for instance when `device` is no block device.
pub fn logical_block_bytes(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int, to which the pointer leads.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &raw mut bytes) })?;
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Tells a block device that `len` bytes from `offset` are not needed any more.
///
/// # Errors
/// The kernel's answer; `Unsupported` when the device cannot discard.
pub fn discard(device: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64, which is what the pointer leads to.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

/// Makes `len` bytes from `offset` of a block device read as zero.
///
/// # Errors
/// The kernel's answer.
pub fn zero_out(device: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKZEROOUT reads two u64, which is what the pointer leads to.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, range.as_ptr()) })
}

/// What direct I/O on a file wants, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Alignment of buffers in memory, a power of two.
    pub memory: u32,
    /// Alignment of offsets and lengths in the file, a power of two.
    pub offset: u32,
}

/// What direct I/O on `file` wants (`STATX_DIOALIGN`); `None` when the kernel does not say.
pub fn direct_alignment(file: BorrowedFd<'_>) -> Option<DirectAlignment> {
    // SAFETY: `statx` is plain integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the path is an empty C string, the kernel writes one `statx` to `stat`.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut stat,
        )
    };
    let alignment = DirectAlignment {
        memory: stat.stx_dio_mem_align,
        offset: stat.stx_dio_offset_align,
    };
    let told = result == 0
        && stat.stx_mask & libc::STATX_DIOALIGN != 0
        && alignment.memory.is_power_of_two()
        && alignment.offset.is_power_of_two();
    told.then_some(alignment)
}
