//! One vCPU: entering the guest, and its state as bytes.

use std::fmt;

use godwit_proto::state::vcpu::{CpuidEntry, Msr, VcpuState, Xcr};
use kvm_bindings::{
    CpuId, Msrs, Xsave, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use zerocopy::IntoBytes;

use super::vm::{from_image, image};
use super::{DirtyRing, KvmError, Vm};
use crate::boot::BootRegisters;

/// Size of `struct kvm_xsave` before `KVM_CAP_XSAVE2` (KVM API 4.42).
pub(super) const XSAVE_LEGACY_BYTES: usize = 4096;
/// MSRs that are read or written in one ioctl (`MAX_IO_MSRS` of the kernel).
const MSRS_PER_CALL: usize = 256;
/// `IA32_TSC`: set first, so that deadlines below are against the restored counter.
const MSR_TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: set last; setting it arms the timer against all the others.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Two readings of kvmclock so close together had nothing between them, ns.
const UNDISTURBED_NS: u64 = 50_000;
/// How often such readings are tried: a busy host takes the processor away at any moment.
const CLOCK_TRIES: u32 = 16;

/// A vCPU. It belongs to the thread that runs it.
pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
    ring: Option<DirtyRing>,
    xsave_bytes: usize,
    /// What `KVM_SET_CPUID2` was given. `KVM_GET_CPUID2` answers with bits that follow the guest's
    /// registers, and the kernel refuses those, or any other change, once the vCPU has run.
    cpuid: Vec<CpuidEntry>,
}

impl Vcpu {
    pub(super) fn new(index: u32, fd: VcpuFd, ring: Option<DirtyRing>, xsave_bytes: usize) -> Self {
        Self {
            index,
            fd,
            ring,
            xsave_bytes,
            cpuid: Vec::new(),
        }
    }

    /// Which vCPU this is; also its APIC id.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Takes the dirty ring, to be harvested by whoever reads the dirty log.
    pub fn take_dirty_ring(&mut self) -> Option<DirtyRing> {
        self.ring.take()
    }

    /// Enters the guest until something needs userspace.
    ///
    /// # Errors
    /// The kernel's errno; `EINTR` and `EAGAIN` are how a kick shows.
    pub fn run(&mut self) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
        self.fd.run()
    }

    /// Details of a `KVM_EXIT_INTERNAL_ERROR` that `run` just returned: the suberror (KVM API 5).
    pub fn internal_error(&mut self) -> u32 {
        // SAFETY: the caller saw exit reason KVM_EXIT_INTERNAL_ERROR, for which the kernel fills
        // this union member; any bit pattern is a valid u32.
        unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror }
    }

    /// Sets what `CPUID` answers. Before the first run, unless nothing changes.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn set_cpuid(&mut self, entries: Vec<CpuidEntry>) -> Result<(), KvmError> {
        if entries == self.cpuid {
            return Ok(());
        }
        let table: Vec<_> = entries.iter().map(cpuid_entry).collect();
        let cpuid = CpuId::from_entries(&table).map_err(|_| KvmError::StateSize {
            part: "CPUID table",
            found: entries.len(),
            expected: kvm_bindings::KVM_MAX_CPUID_ENTRIES,
        })?;
        self.fd
            .set_cpuid2(&cpuid)
            .map_err(KvmError::ioctl("set a vCPU's CPUID"))?;
        self.cpuid = entries;
        Ok(())
    }

    /// The special registers.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd
            .get_sregs()
            .map_err(KvmError::ioctl("read a vCPU's special registers"))
    }

    /// Sets general and special registers.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn set_registers(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd
            .set_sregs(sregs)
            .map_err(KvmError::ioctl("set a vCPU's special registers"))?;
        self.fd
            .set_regs(regs)
            .map_err(KvmError::ioctl("set a vCPU's registers"))
    }

    /// Sets the registers that a boot protocol asks for; the others keep their values.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn boot(&self, registers: &BootRegisters) -> Result<(), KvmError> {
        let (regs, sregs) = registers.to_kvm(self.sregs()?);
        self.set_registers(&regs, &sregs)
    }

    /// Registers for a report about a guest that crashed.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn registers(&self) -> Result<Registers, KvmError> {
        let regs = self
            .fd
            .get_regs()
            .map_err(KvmError::ioctl("read a vCPU's registers"))?;
        Ok(Registers {
            index: self.index,
            regs,
            sregs: self.sregs()?,
        })
    }

    /// Tells the guest's watchdogs that it was paused (`KVM_KVMCLOCK_CTRL`). A guest that does not
    /// use kvmclock needs no telling, so a refusal is not an error.
    pub fn mark_paused(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Everything the vCPU is, for the MSRs in `msr_indices`. It must not be running, and its last
    /// exit must have been completed by one more `run` with the kick raised.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn save(&self, msr_indices: &[u32]) -> Result<VcpuState, KvmError> {
        // First: it flushes pending INIT and SIPI into the state that follows.
        let mp_state = self
            .fd
            .get_mp_state()
            .map_err(KvmError::ioctl("save run state"))?;
        let regs = self
            .fd
            .get_regs()
            .map_err(KvmError::ioctl("save registers"))?;
        let sregs = self
            .fd
            .get_sregs()
            .map_err(KvmError::ioctl("save special registers"))?;
        let xcrs = self
            .fd
            .get_xcrs()
            .map_err(KvmError::ioctl("save extended control registers"))?;
        let debug = self
            .fd
            .get_debug_regs()
            .map_err(KvmError::ioctl("save debug registers"))?;
        let lapic = self
            .fd
            .get_lapic()
            .map_err(KvmError::ioctl("save the local APIC"))?;
        let msrs = self.save_msrs(msr_indices)?;
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(KvmError::ioctl("save pending events"))?;
        Ok(VcpuState {
            index: self.index,
            mp_state: mp_state.mp_state,
            regs: image(&regs),
            sregs: image(&sregs),
            xcrs: xcrs
                .xcrs
                .iter()
                .take(xcrs.nr_xcrs as usize)
                .map(|x| Xcr {
                    index: x.xcr,
                    value: x.value,
                })
                .collect(),
            xsave: self.save_xsave()?,
            debug_regs: image(&debug),
            lapic: image(&lapic),
            msrs,
            events: image(&events),
            tsc_khz: self.fd.get_tsc_khz().unwrap_or(0),
            cpuid: self.cpuid.clone(),
        })
    }

    /// As [`Vcpu::save`], with the TSC as it was when kvmclock showed `clock_ns`.
    ///
    /// The two are read one after the other, and so are they set; each of the gaps would be a jump
    /// of one clock against the other to a guest that compares them, as Linux does.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn save_as_of(
        &self,
        clock_ns: u64,
        vm: &Vm,
        msr_indices: &[u32],
    ) -> Result<VcpuState, KvmError> {
        let mut state = self.save(msr_indices)?;
        if let Some(tsc) = state.msrs.iter_mut().find(|msr| msr.index == MSR_TSC) {
            let mut closest = u64::MAX;
            for _ in 0..CLOCK_TRIES {
                let before = vm.clock_ns()?;
                let now = self.save_msrs(&[MSR_TSC])?;
                let after = vm.clock_ns()?;
                let apart = after.saturating_sub(before);
                if let Some(now) = now.first().filter(|_| apart < closest) {
                    let read_at = before.midpoint(after);
                    let since = cycles(read_at.saturating_sub(clock_ns), state.tsc_khz);
                    tsc.value = now.value.wrapping_sub(since);
                    closest = apart;
                }
                if apart <= UNDISTURBED_NS {
                    break;
                }
            }
        }
        Ok(state)
    }

    /// As [`Vcpu::restore`] with what [`Vcpu::save_as_of`] gave: the TSC goes on by as much as
    /// kvmclock has since it was restored to `clock_ns`.
    ///
    /// # Errors
    /// [`KvmError`]; the vCPU is then in no usable state.
    pub fn restore_as_of(
        &mut self,
        clock_ns: u64,
        vm: &Vm,
        state: &VcpuState,
    ) -> Result<(), KvmError> {
        self.restore_and(state, |msrs| {
            let tsc = msrs.iter_mut().find(|msr| msr.index == MSR_TSC);
            if let Some(tsc) = tsc {
                // Not twice: KVM takes a second value near the first for the same.
                let since = undisturbed_clock_ns(vm)?.saturating_sub(clock_ns);
                tsc.value = tsc.value.wrapping_add(cycles(since, state.tsc_khz));
            }
            Ok(())
        })
    }

    fn save_xsave(&self) -> Result<Vec<u8>, KvmError> {
        let mut xsave = self.empty_xsave();
        // SAFETY: the buffer has the size that KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) reports, which
        // is what the kernel writes.
        unsafe { self.fd.get_xsave2(&mut xsave) }
            .map_err(KvmError::ioctl("save extended register state"))?;
        let fam = xsave.as_fam_struct_ref();
        let mut bytes = fam.xsave.region.as_bytes().to_vec();
        bytes.extend_from_slice(xsave.as_slice().as_bytes());
        bytes.truncate(self.xsave_bytes);
        Ok(bytes)
    }

    fn restore_xsave(&self, bytes: &[u8]) -> Result<(), KvmError> {
        if bytes.len() != self.xsave_bytes {
            return Err(KvmError::StateSize {
                part: "extended register state",
                found: bytes.len(),
                expected: self.xsave_bytes,
            });
        }
        let mut xsave = self.empty_xsave();
        let (head, tail) = bytes.split_at(XSAVE_LEGACY_BYTES);
        xsave.as_mut_slice().as_mut_bytes().copy_from_slice(tail);
        // SAFETY: the region is plain data; the length field is not touched.
        unsafe { xsave.as_mut_fam_struct() }
            .xsave
            .region
            .as_mut_bytes()
            .copy_from_slice(head);
        // SAFETY: the buffer has the size that the kernel reads, as checked above.
        unsafe { self.fd.set_xsave2(&xsave) }
            .map_err(KvmError::ioctl("restore extended register state"))
    }

    fn empty_xsave(&self) -> Xsave {
        let words = (self.xsave_bytes - XSAVE_LEGACY_BYTES).div_ceil(size_of::<u32>());
        Xsave::new(words).expect("the kernel's xsave size is a few KiB")
    }

    /// Reads the MSRs of `indices` that this vCPU has; those it refuses are not part of its state.
    fn save_msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, KvmError> {
        let mut saved = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(MSRS_PER_CALL)];
            let entries: Vec<_> = chunk
                .iter()
                .map(|&index| kvm_msr_entry {
                    index,
                    ..Default::default()
                })
                .collect();
            let mut msrs = Msrs::from_entries(&entries).expect("a chunk fits one call");
            let read = self
                .fd
                .get_msrs(&mut msrs)
                .map_err(KvmError::ioctl("save MSRs"))?;
            saved.extend(msrs.as_slice()[..read].iter().map(|m| Msr {
                index: m.index,
                value: m.data,
            }));
            // KVM stops at the first MSR it refuses: leave that one out and go on behind it.
            rest = &rest[(read + usize::from(read < chunk.len())).min(rest.len())..];
        }
        saved.sort_by_key(|m| (m.index == MSR_TSC_DEADLINE, m.index != MSR_TSC, m.index));
        Ok(saved)
    }

    fn restore_msrs(&self, msrs: &[Msr]) -> Result<(), KvmError> {
        let mut rest = msrs;
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(MSRS_PER_CALL)];
            let entries: Vec<_> = chunk
                .iter()
                .map(|m| kvm_msr_entry {
                    index: m.index,
                    data: m.value,
                    ..Default::default()
                })
                .collect();
            let table = Msrs::from_entries(&entries).expect("a chunk fits one call");
            let written = self
                .fd
                .set_msrs(&table)
                .map_err(KvmError::ioctl("restore MSRs"))?;
            if written < chunk.len() {
                let refused = chunk[written];
                self.accept_refused_msr(refused)?;
                rest = &rest[written + 1..];
            } else {
                rest = &rest[written..];
            }
        }
        Ok(())
    }

    /// KVM lists some MSRs that it lets nobody write. Such a one is fine as long as this vCPU
    /// already holds the saved value.
    fn accept_refused_msr(&self, refused: Msr) -> Result<(), KvmError> {
        let current = self.save_msrs(&[refused.index])?;
        if refused.value == 0 && current.is_empty()
            || current.iter().any(|m| m.value == refused.value)
        {
            return Ok(());
        }
        Err(KvmError::Msr {
            index: refused.index,
            value: refused.value,
        })
    }

    /// Takes over what [`Vcpu::save`] gave. Before the first run; the interrupt controllers and
    /// the clock are restored already.
    ///
    /// # Errors
    /// [`KvmError`]; the vCPU is then in no usable state.
    pub fn restore(&mut self, state: &VcpuState) -> Result<(), KvmError> {
        self.restore_and(state, |_| Ok(()))
    }

    /// Restores `state`; its MSRs as `last_moment` changes them just before they are set.
    fn restore_and(
        &mut self,
        state: &VcpuState,
        last_moment: impl FnOnce(&mut [Msr]) -> Result<(), KvmError>,
    ) -> Result<(), KvmError> {
        self.set_cpuid(state.cpuid.clone())?;
        if state.tsc_khz != 0
            && self
                .fd
                .get_tsc_khz()
                .is_ok_and(|here| here != state.tsc_khz)
        {
            self.fd
                .set_tsc_khz(state.tsc_khz)
                .map_err(KvmError::ioctl("scale the TSC to the saved frequency"))?;
        }
        self.fd
            .set_mp_state(kvm_mp_state {
                mp_state: state.mp_state,
            })
            .map_err(KvmError::ioctl("restore run state"))?;
        let regs: kvm_regs = from_image("registers", &state.regs)?;
        let sregs: kvm_sregs = from_image("special registers", &state.sregs)?;
        self.fd
            .set_regs(&regs)
            .map_err(KvmError::ioctl("restore registers"))?;
        self.fd
            .set_sregs(&sregs)
            .map_err(KvmError::ioctl("restore special registers"))?;
        self.fd
            .set_xcrs(&xcrs(&state.xcrs)?)
            .map_err(KvmError::ioctl("restore extended control registers"))?;
        self.restore_xsave(&state.xsave)?;
        let debug: kvm_debugregs = from_image("debug registers", &state.debug_regs)?;
        self.fd
            .set_debug_regs(&debug)
            .map_err(KvmError::ioctl("restore debug registers"))?;
        let lapic: kvm_lapic_state = from_image("local APIC", &state.lapic)?;
        self.fd
            .set_lapic(&lapic)
            .map_err(KvmError::ioctl("restore the local APIC"))?;
        let mut msrs = state.msrs.clone();
        last_moment(&mut msrs)?;
        self.restore_msrs(&msrs)?;
        let events: kvm_vcpu_events = from_image("pending events", &state.events)?;
        self.fd
            .set_vcpu_events(&events)
            .map_err(KvmError::ioctl("restore pending events"))
    }
}

/// kvmclock, when this thread is likely to go on running for a moment.
fn undisturbed_clock_ns(vm: &Vm) -> Result<u64, KvmError> {
    let mut now = vm.clock_ns()?;
    for _ in 0..CLOCK_TRIES {
        let before = std::mem::replace(&mut now, vm.clock_ns()?);
        if now.saturating_sub(before) <= UNDISTURBED_NS {
            break;
        }
    }
    Ok(now)
}

/// What a TSC of `khz` counts in so many nanoseconds; modulo 2^64, as the counter itself.
fn cycles(ns: u64, khz: u32) -> u64 {
    (u128::from(ns) * u128::from(khz) / 1_000_000) as u64
}

fn xcrs(saved: &[Xcr]) -> Result<kvm_xcrs, KvmError> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: saved.len() as u32,
        ..Default::default()
    };
    if saved.len() > xcrs.xcrs.len() {
        return Err(KvmError::StateSize {
            part: "extended control registers",
            found: saved.len(),
            expected: xcrs.xcrs.len(),
        });
    }
    for (slot, saved) in xcrs.xcrs.iter_mut().zip(saved) {
        *slot = kvm_xcr {
            xcr: saved.index,
            value: saved.value,
            ..Default::default()
        };
    }
    Ok(xcrs)
}

pub(crate) fn cpuid_record(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

pub(crate) fn cpuid_entry(record: &CpuidEntry) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: record.function,
        index: record.index,
        flags: record.flags,
        eax: record.eax,
        ebx: record.ebx,
        ecx: record.ecx,
        edx: record.edx,
        ..Default::default()
    }
}

const _: () = {
    assert!(size_of::<kvm_regs>() == 144);
    assert!(size_of::<kvm_sregs>() == 312);
    assert!(size_of::<kvm_debugregs>() == 128);
    assert!(size_of::<kvm_lapic_state>() == 1024);
    assert!(size_of::<kvm_vcpu_events>() == 64);
    assert!(size_of::<kvm_xsave>() == XSAVE_LEGACY_BYTES);
};

/// A vCPU's registers, for people.
pub struct Registers {
    index: u32,
    regs: kvm_regs,
    sregs: kvm_sregs,
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (r, s) = (&self.regs, &self.sregs);
        writeln!(
            f,
            "vcpu {} rip={:016x} rflags={:08x} cs={:04x} cpl={}",
            self.index, r.rip, r.rflags, s.cs.selector, s.ss.dpl
        )?;
        writeln!(
            f,
            "  rax={:016x} rbx={:016x} rcx={:016x} rdx={:016x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        writeln!(
            f,
            "  rsi={:016x} rdi={:016x} rbp={:016x} rsp={:016x}",
            r.rsi, r.rdi, r.rbp, r.rsp
        )?;
        writeln!(
            f,
            "  r8 ={:016x} r9 ={:016x} r10={:016x} r11={:016x}",
            r.r8, r.r9, r.r10, r.r11
        )?;
        writeln!(
            f,
            "  r12={:016x} r13={:016x} r14={:016x} r15={:016x}",
            r.r12, r.r13, r.r14, r.r15
        )?;
        write!(
            f,
            "  cr0={:08x} cr2={:016x} cr3={:016x} cr4={:08x} efer={:x} gdt={:x}+{:x} idt={:x}+{:x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_follow_from_the_frequency_whatever_the_time() {
        assert_eq!(cycles(1_000_000_000, 2_500_000), 2_500_000_000);
        assert_eq!(cycles(3, 2_500_000), 7);
        assert_eq!(cycles(1_000_000_000, 0), 0);
        // A clock of years, and one that nobody has: neither overflows.
        assert_eq!(cycles(u64::MAX, 1_000_000), u64::MAX);
        cycles(u64::MAX, u32::MAX);
    }
}
