//! One virtual machine: memory slots, interrupt controller, clock, dirty log.

use std::sync::Arc;

use godwit_proto::state::clock::ClockState;
use godwit_proto::state::irqchip::IrqchipState;
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CLOCK_HOST_TSC,
    KVM_CLOCK_REALTIME, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_enable_cap, kvm_irqchip, kvm_pit_config,
    kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::dirty;
use super::{DirtyLogSupport, IrqRouter, Kicker, KvmError, Vcpu};
use crate::interrupt::InterruptError;
use crate::memory::layout::{KVM_IDENTITY_MAP, KVM_TSS, PAGE_SIZE};

/// Guest memory as KVM maps it: one contiguous range of guest and of host addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySlot {
    /// The slot's number.
    pub slot: u32,
    /// First guest physical address; page-aligned.
    pub guest_address: u64,
    /// Length in bytes; whole pages.
    pub len: u64,
    /// Address in this process.
    pub host_address: u64,
}

/// A virtual machine.
pub struct Vm {
    fd: Arc<VmFd>,
    support: DirtyLogSupport,
    ring_entries: u32,
    initially_set: bool,
    xsave_bytes: usize,
}

impl Vm {
    pub(super) fn new(fd: VmFd, support: DirtyLogSupport, xsave_bytes: usize) -> Self {
        Self {
            fd: Arc::new(fd),
            support,
            ring_entries: 0,
            initially_set: false,
            xsave_bytes,
        }
    }

    /// Creates the in-kernel interrupt controllers and timer. Before any vCPU.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        self.fd
            .set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(KvmError::ioctl("place the identity map"))?;
        self.fd
            .set_tss_address(KVM_TSS as usize)
            .map_err(KvmError::ioctl("place the TSS"))?;
        self.fd
            .create_irq_chip()
            .map_err(KvmError::ioctl("create the interrupt controllers"))?;
        let config = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd
            .create_pit2(config)
            .map_err(KvmError::ioctl("create the timer"))
    }

    /// The machine's interrupt routes and doorbells; needs the interrupt controllers.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`].
    pub fn irq_router(&self) -> Result<Arc<IrqRouter>, InterruptError> {
        IrqRouter::new(self.fd.clone())
    }

    /// Reports written pages through per-vCPU rings of `entries` instead of a bitmap. Before any
    /// vCPU; for the life of the machine.
    ///
    /// # Errors
    /// [`KvmError::Capability`] when the kernel has no rings, else [`KvmError::Ioctl`].
    pub fn enable_dirty_ring(&mut self, entries: u32) -> Result<(), KvmError> {
        if self.support.ring_max_entries == 0 {
            return Err(KvmError::Capability {
                name: "KVM_CAP_DIRTY_LOG_RING_ACQ_REL".into(),
                purpose: "dirty pages by ring",
            });
        }
        let entries = entries.min(self.support.ring_max_entries);
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            ..Default::default()
        };
        cap.args[0] = dirty::ring_bytes(entries);
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::ioctl("enable the dirty ring"))?;
        self.ring_entries = entries;
        Ok(())
    }

    /// Makes reading the bitmap cheap: pages are write-protected when cleared, in chunks, and
    /// logging starts with all pages reported and none protected, as far as the kernel can.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn enable_manual_dirty_log(&mut self) -> Result<(), KvmError> {
        if !self.support.manual_protect {
            return Ok(());
        }
        let mut flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
        if self.support.initially_set {
            flags |= KVM_DIRTY_LOG_INITIALLY_SET;
        }
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            ..Default::default()
        };
        cap.args[0] = u64::from(flags);
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::ioctl("enable the manual dirty log"))?;
        self.initially_set = self.support.initially_set;
        Ok(())
    }

    /// Whether pages are protected on clear rather than on read.
    pub fn clears_manually(&self) -> bool {
        self.support.manual_protect && self.ring_entries == 0
    }

    /// Whether the bitmap starts with every page set.
    pub fn starts_all_set(&self) -> bool {
        self.initially_set
    }

    /// Entries of each vCPU's ring; 0 when the bitmap is in use.
    pub fn ring_entries(&self) -> u32 {
        self.ring_entries
    }

    /// Maps `slot` into the guest, or changes whether writes to it are logged.
    ///
    /// # Safety
    /// `[host_address, host_address + len)` must be memory that is mapped until the machine is
    /// gone, and that no Rust reference covers: the guest writes it at any time.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub unsafe fn set_memory(&self, slot: &MemorySlot, log_writes: bool) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: if log_writes {
                KVM_MEM_LOG_DIRTY_PAGES
            } else {
                0
            },
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len,
            userspace_addr: slot.host_address,
        };
        // SAFETY: the caller promises that the range stays mapped and unreferenced.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(KvmError::ioctl("map guest memory"))
    }

    /// The slot's bitmap, one bit a page. Without manual clearing this also protects the pages.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn dirty_bitmap(&self, slot: &MemorySlot) -> Result<Vec<u64>, KvmError> {
        self.fd
            .get_dirty_log(slot.slot, slot.len as usize)
            .map_err(KvmError::ioctl("read the dirty bitmap"))
    }

    /// Protects the pages from `first_page` on whose bit in `bitmap` is set.
    ///
    /// `first_page` is a multiple of 64; so is `pages`, unless it ends the slot.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn clear_dirty(
        &self,
        slot: &MemorySlot,
        first_page: u64,
        pages: u32,
        bitmap: &[u64],
    ) -> Result<(), KvmError> {
        assert!(
            first_page + u64::from(pages) <= slot.len / PAGE_SIZE,
            "the pages are in the slot"
        );
        dirty::clear_dirty_log(&*self.fd, slot.slot, first_page, pages, bitmap).map_err(|source| {
            KvmError::Ioctl {
                operation: "clear the dirty bitmap",
                source,
            }
        })
    }

    /// Protects again every page that was harvested from a ring. Returns how many.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn reset_dirty_rings(&self) -> Result<u32, KvmError> {
        dirty::reset_rings(&*self.fd).map_err(|source| KvmError::Ioctl {
            operation: "reset the dirty rings",
            source,
        })
    }

    /// Creates vCPU `index`.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn create_vcpu(&self, index: u32) -> Result<(Vcpu, Kicker), KvmError> {
        let fd = self
            .fd
            .create_vcpu(u64::from(index))
            .map_err(KvmError::ioctl("create a vCPU"))?;
        let kicker = Kicker::map(&fd, self.fd.run_size()).map_err(|source| KvmError::Ioctl {
            operation: "map a vCPU",
            source,
        })?;
        let ring = match self.ring_entries {
            0 => None,
            entries => {
                Some(
                    dirty::DirtyRing::map(&fd, entries).map_err(|source| KvmError::Ioctl {
                        operation: "map a vCPU's dirty ring",
                        source,
                    })?,
                )
            }
        };
        Ok((Vcpu::new(index, fd, ring, self.xsave_bytes), kicker))
    }

    /// The state of the interrupt controllers and the timer. vCPUs must not run.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn save_irqchip(&self) -> Result<IrqchipState, KvmError> {
        let chip = |chip_id: u32| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.fd
                .get_irqchip(&mut chip)
                .map_err(KvmError::ioctl("save an interrupt controller"))?;
            Ok(image(&chip.chip))
        };
        let pit = self
            .fd
            .get_pit2()
            .map_err(KvmError::ioctl("save the timer"))?;
        Ok(IrqchipState {
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
            pit2: Some(image(&pit)),
        })
    }

    /// Takes over what [`Vm::save_irqchip`] gave.
    ///
    /// # Errors
    /// [`KvmError::StateSize`] or [`KvmError::Ioctl`].
    pub fn restore_irqchip(&self, state: &IrqchipState) -> Result<(), KvmError> {
        for (chip_id, bytes) in [
            (KVM_IRQCHIP_PIC_MASTER, &state.pic_master),
            (KVM_IRQCHIP_PIC_SLAVE, &state.pic_slave),
            (KVM_IRQCHIP_IOAPIC, &state.ioapic),
        ] {
            let chip = from_image("interrupt controller", bytes)?;
            let chip = kvm_irqchip {
                chip_id,
                chip,
                ..Default::default()
            };
            self.fd
                .set_irqchip(&chip)
                .map_err(KvmError::ioctl("restore an interrupt controller"))?;
        }
        if let Some(pit2) = &state.pit2 {
            let pit: kvm_pit_state2 = from_image("timer", pit2)?;
            self.fd
                .set_pit2(&pit)
                .map_err(KvmError::ioctl("restore the timer"))?;
        }
        Ok(())
    }

    /// kvmclock as the guest reads it now.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn save_clock(&self) -> Result<ClockState, KvmError> {
        let clock = self
            .fd
            .get_clock()
            .map_err(KvmError::ioctl("read kvmclock"))?;
        let valid = |flag: u32, value: u64| if clock.flags & flag != 0 { value } else { 0 };
        Ok(ClockState {
            clock_ns: clock.clock,
            flags: clock.flags,
            realtime_ns: valid(KVM_CLOCK_REALTIME, clock.realtime),
            host_tsc: valid(KVM_CLOCK_HOST_TSC, clock.host_tsc),
        })
    }

    /// What kvmclock shows now, in nanoseconds.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn clock_ns(&self) -> Result<u64, KvmError> {
        Ok(self.save_clock()?.clock_ns)
    }

    /// Lets kvmclock go on from `state`: the guest does not see the time it was not running.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn restore_clock(&self, state: &ClockState) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock: state.clock_ns,
            ..Default::default()
        };
        self.fd
            .set_clock(&clock)
            .map_err(KvmError::ioctl("set kvmclock"))
    }
}

/// The bytes of a kernel structure, in an array of exactly its size.
pub(super) fn image<const N: usize>(value: &(impl IntoBytes + Immutable)) -> [u8; N] {
    value
        .as_bytes()
        .try_into()
        .expect("saved-state records have the sizes of the kernel's ABI")
}

/// Reads a kernel structure out of saved bytes of exactly its size.
pub(super) fn from_image<T: FromBytes>(part: &'static str, bytes: &[u8]) -> Result<T, KvmError> {
    T::read_from_bytes(bytes).map_err(|_| KvmError::StateSize {
        part,
        found: bytes.len(),
        expected: size_of::<T>(),
    })
}
