//! A vCPU.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// Everything of one vCPU that KVM lets us read and set. Byte images are the named structures of
/// `linux/kvm.h` and `asm/kvm.h` for x86-64.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// Number of the vCPU, from 0; also its initial APIC id order.
    pub index: u32,
    /// `kvm_mp_state.mp_state`.
    pub mp_state: u32,
    /// `kvm_regs`.
    pub regs: [u8; 144],
    /// `kvm_sregs`.
    pub sregs: [u8; 312],
    /// `kvm_xcrs`, the entries in use.
    pub xcrs: Vec<Xcr>,
    /// The image of `KVM_GET_XSAVE2`: as long as `KVM_CAP_XSAVE2` says, at least 4096 bytes. Holds the
    /// x87 and SSE state too.
    pub xsave: Vec<u8>,
    /// `kvm_debugregs`.
    pub debug_regs: [u8; 128],
    /// `kvm_lapic_state`.
    pub lapic: [u8; 1024],
    /// Model-specific registers, in the order to be set.
    pub msrs: Vec<Msr>,
    /// `kvm_vcpu_events`.
    pub events: [u8; 64],
    /// `KVM_GET_TSC_KHZ`.
    pub tsc_khz: u32,
    /// What `KVM_SET_CPUID2` was given.
    pub cpuid: Vec<CpuidEntry>,
}
record!(VcpuState, Kind::Vcpu, version = 1);

/// An extended control register.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xcr {
    /// Its number; 0 is XCR0.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// A model-specific register.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// A CPUID leaf: `kvm_cpuid_entry2`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidEntry {
    /// The leaf: EAX of the question.
    pub function: u32,
    /// The subleaf: ECX of the question.
    pub index: u32,
    /// `KVM_CPUID_FLAG_*`.
    pub flags: u32,
    /// The answer in EAX.
    pub eax: u32,
    /// The answer in EBX.
    pub ebx: u32,
    /// The answer in ECX.
    pub ecx: u32,
    /// The answer in EDX.
    pub edx: u32,
}
