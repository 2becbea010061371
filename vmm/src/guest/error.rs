//! Why something about a guest failed, with the code that users and peers see.

use std::io;
use std::path::PathBuf;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::record::RecordError;

use crate::boot::acpi::AcpiError;
use crate::boot::{BootError, Part};
use crate::bus::BusError;
use crate::config::ConfigError;
use crate::cpu::CpuError;
use crate::devices::pci::PciError;
use crate::devices::power::PowerStateError;
use crate::devices::serial::SerialStateError;
use crate::devices::virtio::block::DiskError;
use crate::devices::virtio::net::NetError;
use crate::interrupt::InterruptError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::memory::image::ImageError;
use crate::memory::lazy::LazyError;
use crate::memory::post_copy::PostCopyError;
use crate::vcpu::VcpuError;

/// Why a guest could not be built, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The configuration is not possible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM cannot do it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host's CPU does not do.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The kernel, initrd or command line does not do.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The ACPI tables cannot be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// A disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A tap cannot be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Its descriptors cannot be copied for another process.
    #[error("cannot hand the guest's memory and taps to another process")]
    HandOver(#[source] io::Error),
    /// Interrupts or doorbells cannot be set up.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// A device does not fit the machine.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device's helper could not be started.
    #[error("cannot set up the {device}")]
    Device {
        /// Which device.
        device: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A vCPU does not do what it should.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The guest is in another state than the request needs.
    #[error("cannot {request} a guest that {is}")]
    WrongState {
        /// What was asked.
        request: &'static str,
        /// What the guest does.
        is: &'static str,
    },
    /// Saved state cannot be read.
    #[error("the saved state cannot be read")]
    Record(#[from] RecordError),
    /// Saved state does not fit together.
    #[error(
        "the saved state has {found} {what}, the machine has {here}; it is damaged, or of another guest"
    )]
    Mismatch {
        /// What is counted.
        what: &'static str,
        /// In the saved state.
        found: u64,
        /// In the machine that its spec describes.
        here: u64,
    },
    /// A saved serial port cannot be restored.
    #[error(transparent)]
    Serial(#[from] SerialStateError),
    /// Saved power registers cannot be restored.
    #[error(transparent)]
    Power(#[from] PowerStateError),
    /// A snapshot's memory cannot be written or read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Memory cannot fill on demand.
    #[error(transparent)]
    Lazy(#[from] LazyError),
    /// Memory cannot follow the guest.
    #[error(transparent)]
    PostCopy(#[from] PostCopyError),
    /// An override names a device that the snapshot does not have.
    #[error("the snapshot has no device {id:?} to override")]
    NoSuchDevice {
        /// The id.
        id: String,
    },
    /// The place for a snapshot exists.
    #[error("{} exists; give a directory that does not", path.display())]
    SnapshotExists {
        /// The directory.
        path: PathBuf,
    },
    /// A snapshot's file cannot be written.
    #[error("cannot write the snapshot at {}", path.display())]
    SnapshotWrite {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A snapshot's file cannot be opened or read.
    #[error("cannot read the snapshot at {}; give the directory that a snapshot was written to", path.display())]
    SnapshotRead {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Memory cannot be cleared for a reset.
    #[error("cannot clear guest memory for a reset")]
    Clear(#[source] io::Error),
    /// The memory of a lazily restored guest is damaged or gone.
    #[error("the memory of this guest could not be restored: {cause}")]
    MemoryLost {
        /// What is wrong.
        cause: String,
    },
}

impl GuestError {
    /// The code that users see as exit code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Config(_) => ErrorCode::ConfigInvalid,
            Self::Kvm(error) => kvm_code(error),
            Self::Vcpu(VcpuError::Kvm { source, .. }) => kvm_code(source),
            Self::Memory(_) | Self::Clear(_) => ErrorCode::Memory,
            Self::Cpu(_) => ErrorCode::ConfigInvalid,
            Self::Boot(error) => match error.part() {
                Some(Part::Initrd) => ErrorCode::Initrd,
                Some(Part::Kernel) => ErrorCode::KernelImage,
                None => ErrorCode::ConfigInvalid,
            },
            Self::Disk(_) => ErrorCode::Disk,
            Self::Net(_) => ErrorCode::Tap,
            Self::WrongState { .. } => ErrorCode::WrongState,
            Self::Record(error) if error.is_from_newer_build() => ErrorCode::SnapshotNewer,
            Self::Image(ImageError::Write { .. })
            | Self::SnapshotWrite { .. }
            | Self::SnapshotExists { .. } => ErrorCode::SnapshotWrite,
            Self::Record(_)
            | Self::Mismatch { .. }
            | Self::Serial(_)
            | Self::Power(_)
            | Self::Image(_)
            | Self::NoSuchDevice { .. }
            | Self::SnapshotRead { .. }
            | Self::MemoryLost { .. } => ErrorCode::SnapshotInvalid,
            Self::Lazy(_) | Self::PostCopy(_) => ErrorCode::Memory,
            Self::Acpi(_)
            | Self::Interrupt(_)
            | Self::Pci(_)
            | Self::Bus(_)
            | Self::Device { .. }
            | Self::HandOver(_)
            | Self::Vcpu(_) => ErrorCode::Other,
        }
    }

    /// The failure as users and peers get it.
    pub fn coded(&self) -> CodedError {
        CodedError::from_error(self.code(), self)
    }
}

fn kvm_code(error: &KvmError) -> ErrorCode {
    match error {
        KvmError::Missing { .. } | KvmError::Permission { .. } => ErrorCode::KvmUnavailable,
        KvmError::ApiVersion { .. } | KvmError::Capability { .. } => ErrorCode::KvmCapability,
        KvmError::Msr { .. } | KvmError::StateSize { .. } => ErrorCode::SnapshotInvalid,
        KvmError::Ioctl { .. } => ErrorCode::Other,
    }
}
