//! The ioctls of a tap (kernel `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`).

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

// `_IOW('T', n, int)` and `_IOW('T', n, unsigned int)`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETQUEUE: libc::Ioctl = 0x4004_54d9;

/// The longest name of an interface, bytes, without its terminating zero.
pub const MAX_NAME_BYTES: usize = libc::IFNAMSIZ - 1;

/// The host may give packets whose checksum the guest must finish.
pub const OFFLOAD_CSUM: u32 = libc::TUN_F_CSUM;
/// The host may give TCP/IPv4 segments larger than the MTU.
pub const OFFLOAD_TSO4: u32 = libc::TUN_F_TSO4;
/// The host may give TCP/IPv6 segments larger than the MTU.
pub const OFFLOAD_TSO6: u32 = libc::TUN_F_TSO6;
/// Such segments may carry ECN.
pub const OFFLOAD_TSO_ECN: u32 = libc::TUN_F_TSO_ECN;

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn request(flags: libc::c_int) -> libc::ifreq {
    // SAFETY: `ifreq` is plain bytes and integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// Opens the clone device of all taps, not blocking.
///
/// # Errors
/// The kernel's answer.
pub fn open_clone_device() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
}

/// Makes `file`, from [`open_clone_device`], a queue of the tap `name`: whole Ethernet frames behind
/// a virtio-net header. A tap that does not exist is made and goes with its last queue, if this
/// process may (`CAP_NET_ADMIN`).
///
/// # Errors
/// The kernel's answer: `ResourceBusy` when it is taken, `PermissionDenied` when it belongs to
/// another user or would have to be made, `InvalidInput` when it is of another kind. A name that is
/// too long is `InvalidInput` too.
pub fn attach(file: &File, name: &str, multi_queue: bool) -> io::Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = request(flags);
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until the call has returned.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })
}

/// Sets the length of the header before each frame, bytes.
///
/// # Errors
/// The kernel's answer.
pub fn set_header_bytes(queue: BorrowedFd<'_>, bytes: u8) -> io::Result<()> {
    let bytes = libc::c_int::from(bytes);
    // SAFETY: TUNSETVNETHDRSZ reads one int, to which the pointer leads.
    checked(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Says which packets the guest takes unfinished: a set of the `OFFLOAD_` bits.
///
/// # Errors
/// The kernel's answer.
pub fn set_offload(queue: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    let bits = libc::c_ulong::from(bits);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETOFFLOAD, bits) })
}

/// Lets a queue of a multi-queue tap take part in traffic, or not.
///
/// # Errors
/// The kernel's answer; `InvalidInput` when it is so already.
pub fn enable_queue(queue: BorrowedFd<'_>, enable: bool) -> io::Result<()> {
    let flag = if enable {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    let request = request(flag);
    // SAFETY: TUNSETQUEUE reads one `ifreq`, which lives until the call has returned.
    checked(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETQUEUE, &raw const request) })
}

/// For tests: moves this thread, and threads it starts, into a network namespace of its own. What is
/// made there goes with its last user.
///
/// # Errors
/// The kernel's answer; it takes `CAP_SYS_ADMIN`.
#[cfg(test)]
pub(crate) fn enter_private_network() -> io::Result<()> {
    // SAFETY: `unshare` takes no pointers; it changes the calling thread's namespace only.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}
