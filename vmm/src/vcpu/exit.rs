//! What comes out of the guest, and what that means for the machine.

use std::fmt;

use kvm_ioctls::VcpuExit;

use crate::bus::Bus;

/// What a vCPU thread tells the machine, once, before it pauses itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEvent {
    /// A device asked for the end of the run; the device has said what through its own event.
    Yielded,
    /// The guest cannot go on.
    Crashed(Crash),
}

/// A guest that cannot go on, with what a person needs to find out why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// What happened.
    pub cause: CrashCause,
    /// The vCPU it happened on.
    pub vcpu: u32,
    /// That vCPU's registers, several lines; or why they cannot be read.
    pub registers: String,
}

/// Why a guest cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashCause {
    /// The guest faulted while handling a double fault; real hardware would reset.
    TripleFault,
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`), with its suberror: 1 emulation failed,
    /// 2 two exceptions at once, 3 event delivery, 4 unexpected exit.
    InternalError {
        /// The suberror.
        suberror: u32,
    },
    /// The processor refused the guest's state (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM left the guest for a reason this program does not know.
    UnknownExit {
        /// KVM's description.
        exit: String,
    },
    /// `KVM_RUN` itself failed.
    RunFailed {
        /// The kernel's answer.
        error: String,
    },
    /// Guest memory could not be provided, for instance because a snapshot's page is damaged.
    Memory {
        /// What is wrong.
        error: String,
    },
}

impl fmt::Display for CrashCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::InternalError { suberror } => {
                write!(f, "KVM internal error, suberror {suberror}")?;
                match suberror {
                    1 => f.write_str(" (an instruction cannot be emulated)"),
                    2 => f.write_str(" (two exceptions at once)"),
                    3 => f.write_str(" (an exit while an event was delivered)"),
                    4 => f.write_str(" (unexpected exit)"),
                    _ => Ok(()),
                }
            }
            Self::FailEntry { reason } => {
                write!(
                    f,
                    "the processor refused to enter the guest, reason {reason:#x}"
                )
            }
            Self::UnknownExit { exit } => write!(f, "unknown exit from KVM: {exit}"),
            Self::RunFailed { error } => write!(f, "KVM_RUN failed: {error}"),
            Self::Memory { error } => write!(f, "guest memory is not available: {error}"),
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vcpu {}: {}", self.vcpu, self.cause)
    }
}

/// What the run loop does after an exit.
pub(super) enum Next {
    /// Enter the guest again.
    Run,
    /// The dirty ring is full: empty it, then enter again.
    DrainRing,
    /// KVM failed inside; its suberror is still to be read.
    InternalError,
    /// Stop with this.
    Stop(CrashCause),
}

/// `KVM_EXIT_DIRTY_RING_FULL`, which kvm-ioctls does not name.
const EXIT_DIRTY_RING_FULL: u32 = 31;

/// Serves an exit. Accesses that no device answers are what the guest probes with; they read as
/// ones, and writes go nowhere.
pub(super) fn handle(exit: VcpuExit<'_>, pio: &Bus, mmio: &Bus) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => {
            pio.read(port.into(), data);
            Next::Run
        }
        VcpuExit::IoOut(port, data) => {
            pio.write(port.into(), data);
            Next::Run
        }
        VcpuExit::MmioRead(address, data) => {
            mmio.read(address, data);
            Next::Run
        }
        VcpuExit::MmioWrite(address, data) => {
            mmio.write(address, data);
            Next::Run
        }
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => Next::Run,
        VcpuExit::Shutdown => Next::Stop(CrashCause::TripleFault),
        VcpuExit::InternalError => Next::InternalError,
        VcpuExit::FailEntry(reason, _) => Next::Stop(CrashCause::FailEntry { reason }),
        VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL) => Next::DrainRing,
        other => Next::Stop(CrashCause::UnknownExit {
            exit: format!("{other:?}"),
        }),
    }
}
