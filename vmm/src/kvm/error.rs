//! What KVM refuses, with the cause and the fix.

use std::io;
use std::path::{Path, PathBuf};

/// Why KVM cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no KVM device.
    #[error(
        "{path} cannot be opened: this kernel offers no KVM; load the kvm-intel or kvm-amd \
         module and enable virtualization in the firmware",
        path = path.display()
    )]
    Missing {
        /// The device node.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The device exists but this user may not use it.
    #[error(
        "no permission for {path}; add this user to the group that owns it (usually kvm) or run \
         as root",
        path = path.display()
    )]
    Permission {
        /// The device node.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel speaks another KVM API than the one that has been stable since Linux 2.6.22.
    #[error("KVM API version {found} is not the supported version 12")]
    ApiVersion {
        /// What the kernel reports.
        found: i32,
    },
    /// The kernel lacks a capability.
    #[error("this kernel's KVM lacks {name} ({purpose}); use Linux 5.10 or newer")]
    Capability {
        /// The capability's name in the KVM API.
        name: String,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// An ioctl failed.
    #[error("KVM cannot {operation}")]
    Ioctl {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An MSR of saved state was refused.
    #[error(
        "KVM refuses the value {value:#x} for MSR {index:#x}; the host's CPU or kernel differs from the one that saved it"
    )]
    Msr {
        /// The MSR.
        index: u32,
        /// The value in the saved state.
        value: u64,
    },
    /// Saved state has a size that this host's KVM does not take.
    #[error("saved {part} is {found} bytes, this host takes {expected}")]
    StateSize {
        /// Which part.
        part: &'static str,
        /// Its size in the saved state.
        found: usize,
        /// What KVM takes here.
        expected: usize,
    },
}

impl KvmError {
    pub(super) fn ioctl(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |errno| Self::Ioctl {
            operation,
            source: errno.into(),
        }
    }

    pub(super) fn opening(path: &Path, errno: kvm_ioctls::Error) -> Self {
        let source = io::Error::from(errno);
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission {
                path: path.into(),
                source,
            },
            _ => Self::Missing {
                path: path.into(),
                source,
            },
        }
    }
}
