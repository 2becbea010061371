//! Making a vCPU thread leave the guest.
//!
//! `KVM_RUN` returns with `EINTR` when a signal arrives or when `kvm_run.immediate_exit` is set
//! before it enters. Setting the flag first and then signalling the thread leaves no window: a
//! thread inside the guest is interrupted, a thread about to enter does not (KVM API, 5 "The
//! kvm_run structure"; `KVM_CAP_IMMEDIATE_EXIT`).

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::KvmError;

/// Offset from `SIGRTMIN` of the signal that interrupts `KVM_RUN`.
pub const KICK_SIGNAL: i32 = 0;

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Makes the kick signal interrupt system calls instead of ending the process. Idempotent.
///
/// # Errors
/// [`KvmError::Ioctl`] when the kernel refuses the handler.
pub fn install_kick_handler() -> Result<(), KvmError> {
    register_signal_handler(SIGRTMIN() + KICK_SIGNAL, ignore).map_err(|errno| KvmError::Ioctl {
        operation: "install the handler of the signal that stops vCPUs",
        source: errno.into(),
    })
}

/// A second mapping of a vCPU's `kvm_run`, through which other threads set `immediate_exit`.
pub struct Kicker {
    run: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the only field of the mapping that is touched is one byte, and only atomically.
unsafe impl Send for Kicker {}
// SAFETY: as above; every access is an atomic store.
unsafe impl Sync for Kicker {}

impl Kicker {
    pub(super) fn map(vcpu: &impl AsRawFd, len: usize) -> io::Result<Self> {
        assert!(len >= size_of::<kvm_run>(), "KVM maps at least one kvm_run");
        // SAFETY: a fresh shared mapping of the vCPU's run structure, whose size KVM told; the
        // kernel keeps the pages alive as long as they are mapped.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let run = NonNull::new(address.cast()).expect("a successful mmap is not null");
        Ok(Self { run, len })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: `run` is valid for reads and writes while `self` lives; the kernel reads this
        // byte once per KVM_RUN, and userspace only touches it through atomics.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.run.as_ptr()).immediate_exit) }
    }

    /// The next (or current, with a signal) `KVM_RUN` returns at once.
    pub fn raise(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Lets `KVM_RUN` enter the guest again.
    pub fn lower(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`, unmapped once.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.len) };
    }
}
