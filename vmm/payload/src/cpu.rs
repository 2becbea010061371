//! One page per processor: what the CPL0 stub keeps for it, its clock page,
//! and what it has seen of time. The offsets are those in `boot.s`.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::logic::pvclock::PvClock;

/// Most processors that the tables in `boot.s` have room for.
pub const MAX_CPUS: usize = 64;
/// First interrupt vector, and how many follow it.
pub const VECTOR_BASE: u8 = 0x20;
/// The last of them takes spurious interrupts.
pub const VECTOR_COUNT: u8 = 0x20;

/// Vector, error code, RIP, CR2, RSP, CS of a fault.
pub type Fault = [AtomicU64; 6];

/// The page. Its upper end is the processor's CPL0 stack.
#[repr(C, align(4096))]
pub struct CpuBlock {
    /// Interrupts taken so far; the stub counts, `gate::wait` compares.
    pub irqs: AtomicU64,
    stack: AtomicU64,
    tss_selector: AtomicU64,
    _reserved: u64,
    /// What the stub noted when it sent this processor to `fault_main`.
    pub fault: Fault,
    /// Place in `smp::CPUS`.
    pub index: AtomicU32,
    /// Local APIC id.
    pub apic_id: AtomicU32,
    _reserved2: [u32; 2],
    /// Kept by the host through MSR_KVM_SYSTEM_TIME_NEW.
    pub pvclock: PvClock,
    tss: [AtomicU32; 26],
    _reserved3: [u64; 3],
    /// Interrupts per vector from [`VECTOR_BASE`].
    pub vectors: [AtomicU64; VECTOR_COUNT as usize],
    /// Last time this processor looked at the clock, ns.
    pub last_ns: AtomicU64,
    /// Largest step of the clock since the last report, ns.
    pub gap_ns: AtomicU64,
    /// Largest step since the start, ns.
    pub gap_ever_ns: AtomicU64,
    /// The periodic tick runs.
    pub ticking: AtomicBool,
    /// Reached CPL3.
    pub online: AtomicBool,
}

const _: () = assert!(offset_of!(CpuBlock, stack) == 0x08);
const _: () = assert!(offset_of!(CpuBlock, tss_selector) == 0x10);
const _: () = assert!(offset_of!(CpuBlock, fault) == 0x20);
const _: () = assert!(offset_of!(CpuBlock, tss) == 0x80);
const _: () = assert!(offset_of!(CpuBlock, vectors) == 0x100);
const _: () = assert!(size_of::<CpuBlock>() == 0x1000);

impl CpuBlock {
    /// Prepares a zeroed page for an application processor.
    pub fn prepare(&self, index: usize, apic_id: u32, stack_top: u64) {
        self.index.store(index as u32, Relaxed);
        self.apic_id.store(apic_id, Relaxed);
        self.stack.store(stack_top - 8, Relaxed);
        self.tss_selector.store(0x28 + 16 * index as u64, Relaxed);
        let rsp0 = self as *const Self as u64 + 0x1000;
        self.tss[1].store(rsp0 as u32, Relaxed);
        self.tss[2].store((rsp0 >> 32) as u32, Relaxed);
        self.tss[25].store(0x68 << 16, Relaxed);
    }

    /// Place in `smp::CPUS`.
    pub fn number(&self) -> usize {
        self.index.load(Relaxed) as usize
    }

    /// Address of the task state segment.
    pub fn tss_address(&self) -> u64 {
        self.tss.as_ptr() as u64
    }

    /// Interrupts taken on a vector.
    pub fn taken(&self, vector: u8) -> u64 {
        self.vectors[usize::from(vector - VECTOR_BASE)].load(Relaxed)
    }

    /// Notes that the clock was seen at `now` and remembers the largest step.
    pub fn saw(&self, now: u64) {
        let last = self.last_ns.load(Relaxed);
        if now > last {
            self.last_ns.store(now, Relaxed);
            let gap = now - last;
            if last != 0 && gap > self.gap_ns.load(Relaxed) {
                self.gap_ns.store(gap, Relaxed);
                if gap > self.gap_ever_ns.load(Relaxed) {
                    self.gap_ever_ns.store(gap, Relaxed);
                }
            }
        }
    }
}
