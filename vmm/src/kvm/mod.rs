//! Every KVM ioctl of the program is in this module.
//!
//! Above it nothing knows file descriptors or kernel structures; below it is only the kernel. It
//! refuses to run without the capabilities in [`REQUIRED`], by name, before anything is created.

#![allow(unsafe_code)]

mod dirty;
pub mod disk_ioctl;
mod error;
mod irq;
mod kick;
mod vcpu;
mod vm;

use std::path::Path;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_CAP_XSAVE2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Cap, Kvm};

use crate::cpu::HostCpu;

pub use dirty::{DirtyRing, RING_MAX_ENTRIES};
pub use error::KvmError;
pub use irq::{IrqRouter, MAX_GSIS};
pub use kick::{KICK_SIGNAL, Kicker, install_kick_handler};
pub use vcpu::{Registers, Vcpu};
pub use vm::{MemorySlot, Vm};

/// Capabilities without which no guest is started, with what each is for.
pub const REQUIRED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "in-kernel interrupt controller"),
    (Cap::UserMemory, "guest memory from userspace"),
    (Cap::SetTssAddr, "TSS placement"),
    (Cap::Pit2, "in-kernel timer"),
    (Cap::PitState2, "timer state"),
    (Cap::Ioeventfd, "doorbells without exits"),
    (Cap::Irqfd, "interrupts from eventfds"),
    (Cap::ExtCpuid, "CPUID tables"),
    (Cap::MpState, "vCPU run state"),
    (Cap::VcpuEvents, "pending exceptions and interrupts"),
    (Cap::Xsave, "extended register state"),
    (Cap::Xcrs, "extended control registers"),
    (Cap::Debugregs, "debug registers"),
    (Cap::AdjustClock, "kvmclock state"),
    (Cap::ImmediateExit, "race-free stopping of a vCPU"),
];

/// How the kernel can report written pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLogSupport {
    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: pages are protected again when cleared, not when read.
    pub manual_protect: bool,
    /// Logging can start with every page reported dirty and none protected.
    pub initially_set: bool,
    /// Entries of the largest dirty ring per vCPU; 0 when the kernel has none with
    /// acquire/release semantics.
    pub ring_max_entries: u32,
}

/// The opened KVM device.
pub struct Hypervisor {
    kvm: Kvm,
    dirty_log: DirtyLogSupport,
    xsave_bytes: usize,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks what it offers.
    ///
    /// # Errors
    /// [`KvmError::Missing`], [`KvmError::Permission`], [`KvmError::ApiVersion`] or
    /// [`KvmError::Capability`], each with what to do.
    pub fn open() -> Result<Self, KvmError> {
        Self::open_at(Path::new("/dev/kvm"))
    }

    /// [`Hypervisor::open`] for a device node at another path.
    ///
    /// # Errors
    /// As [`Hypervisor::open`].
    pub fn open_at(path: &Path) -> Result<Self, KvmError> {
        let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| {
            KvmError::Missing {
                path: path.into(),
                source: std::io::ErrorKind::InvalidInput.into(),
            }
        })?;
        let kvm = Kvm::new_with_path(c_path).map_err(|errno| KvmError::opening(path, errno))?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmError::ApiVersion { found: version });
        }
        require_all(|capability| kvm.check_extension(capability))?;
        let manual = kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        let ring_bytes = kvm.check_extension_raw(KVM_CAP_DIRTY_LOG_RING_ACQ_REL.into());
        let dirty_log = DirtyLogSupport {
            manual_protect: manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE as i32 != 0,
            initially_set: manual & KVM_DIRTY_LOG_INITIALLY_SET as i32 != 0,
            ring_max_entries: dirty::ring_entries(ring_bytes),
        };
        let xsave2 = kvm.check_extension_raw(KVM_CAP_XSAVE2.into());
        let xsave_bytes = usize::try_from(xsave2)
            .unwrap_or(0)
            .max(vcpu::XSAVE_LEGACY_BYTES);
        Ok(Self {
            kvm,
            dirty_log,
            xsave_bytes,
        })
    }

    /// How written pages can be reported.
    pub fn dirty_log(&self) -> DirtyLogSupport {
        self.dirty_log
    }

    /// The most vCPUs a guest can have here.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// The CPU that this host and its KVM can show to a guest.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn host_cpu(&self) -> Result<HostCpu, KvmError> {
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("read the supported CPUID"))?;
        let entries = supported.as_slice().iter().map(vcpu::cpuid_record);
        Ok(HostCpu::new(
            entries,
            self.kvm.check_extension(Cap::TscDeadlineTimer),
        ))
    }

    /// The MSRs that make up a vCPU's state here (`KVM_GET_MSR_INDEX_LIST`).
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(KvmError::ioctl("read the list of MSRs to save"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Creates a virtual machine without memory, vCPUs or interrupt controller.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        let fd = self
            .kvm
            .create_vm()
            .map_err(KvmError::ioctl("create a virtual machine"))?;
        Ok(Vm::new(fd, self.dirty_log, self.xsave_bytes))
    }
}
pub mod tap_ioctl;

/// The first of the [`REQUIRED`] capabilities that is not offered, as an error.
fn require_all(offers: impl Fn(Cap) -> bool) -> Result<(), KvmError> {
    match REQUIRED.iter().find(|(capability, _)| !offers(*capability)) {
        None => Ok(()),
        Some(&(capability, purpose)) => Err(KvmError::Capability {
            name: format!("{capability:?}"),
            purpose,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> KvmError {
        match Hypervisor::open_at(path) {
            Ok(_) => panic!("{} is no KVM device", path.display()),
            Err(error) => error,
        }
    }

    #[test]
    fn a_missing_device_says_what_to_load() {
        let error = refused(Path::new("/dev/no-such-kvm"));
        assert!(matches!(error, KvmError::Missing { .. }));
        assert!(
            error.to_string().contains("kvm-intel or kvm-amd"),
            "{error}"
        );
    }

    #[test]
    fn a_device_that_is_not_permitted_says_which_group_to_join() {
        let errno = kvm_ioctls::Error::new(libc::EACCES);
        let error = KvmError::opening(Path::new("/dev/kvm"), errno);
        assert!(matches!(error, KvmError::Permission { .. }));
        assert!(error.to_string().contains("group"), "{error}");
    }

    #[test]
    fn something_else_in_the_place_of_the_device_is_noticed() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(matches!(refused(file.path()), KvmError::ApiVersion { .. }));
    }

    #[test]
    fn each_missing_capability_is_named_with_its_purpose() {
        require_all(|_| true).expect("everything is there");
        for &(missing, purpose) in REQUIRED {
            let error = require_all(|c| c as u32 != missing as u32).expect_err("one is missing");
            let text = error.to_string();
            assert!(
                text.contains(&format!("{missing:?}")) && text.contains(purpose),
                "{text}"
            );
        }
    }
}
