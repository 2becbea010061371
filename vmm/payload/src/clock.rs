//! Monotonic time: KVM's clock page where there is one, because it stays
//! right when the guest moves; else the time stamp counter, with a frequency
//! from CPUID or measured against the local APIC timer.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::logic::pvclock::{multiplier, scale};
use crate::{apic, cpu::CpuBlock, gate};

const KVM_FEATURES: u32 = 0x4000_0001;
const FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

const KVMCLOCK: u8 = 1;
static SOURCE: AtomicU8 = AtomicU8::new(0);
static MUL: AtomicU32 = AtomicU32::new(1 << 31);
static SHIFT: AtomicU8 = AtomicU8::new(0);
static START: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear, so CPL3 may; the fence keeps it in its place.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Nanoseconds since an unspecified start, on this processor.
pub fn now(cpu: &CpuBlock) -> u64 {
    let time = if SOURCE.load(Relaxed) == KVMCLOCK {
        cpu.pvclock
            .nanoseconds(tsc)
            .unwrap_or_else(|| cpu.last_ns.load(Relaxed))
    } else {
        let ticks = tsc().saturating_sub(START.load(Relaxed));
        scale(ticks, MUL.load(Relaxed), SHIFT.load(Relaxed) as i8)
    };
    cpu.saw(time);
    time
}

/// Chooses the source and says which.
pub fn start(cpu: &CpuBlock) -> &'static str {
    if has_kvmclock() {
        SOURCE.store(KVMCLOCK, Relaxed);
        register(cpu);
        if cpu.pvclock.nanoseconds(tsc).is_some() {
            return "kvmclock";
        }
        SOURCE.store(0, Relaxed);
    }
    START.store(tsc(), Relaxed);
    let (hertz, name) = match cpuid_hertz() {
        Some(hertz) => (hertz, "tsc"),
        None => (measure(), "tsc-apic"),
    };
    let (mul, shift) = multiplier(hertz);
    MUL.store(mul, Relaxed);
    SHIFT.store(shift as u8, Relaxed);
    name
}

/// Gives the host this processor's clock page.
pub fn register(cpu: &CpuBlock) {
    if SOURCE.load(Relaxed) == KVMCLOCK {
        let page = &raw const cpu.pvclock as u64;
        // SAFETY: the page belongs to this processor for good, and is made of atomics.
        unsafe { gate::wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page | 1) };
    }
}

fn has_kvmclock() -> bool {
    let [top, a, b, c] = gate::cpuid(0x4000_0000, 0);
    let signature = [a, b, c] == [0x4b4d_564b, 0x564b_4d56, 0x4d];
    signature
        && (top == 0 || top >= KVM_FEATURES)
        && gate::cpuid(KVM_FEATURES, 0)[0] & FEATURE_CLOCKSOURCE2 != 0
}

/// CPUID 0x15: crystal frequency times a ratio.
fn cpuid_hertz() -> Option<u64> {
    if gate::cpuid(0, 0)[0] < 0x15 {
        return None;
    }
    let [denominator, numerator, crystal, _] = gate::cpuid(0x15, 0);
    if denominator == 0 || numerator == 0 || crystal == 0 {
        return None;
    }
    Some(u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
}

/// Counts for ten milliseconds of the APIC timer, taken to run at 1 GHz as
/// every hypervisor's does.
fn measure() -> u64 {
    const SAMPLE_NS: u32 = 10_000_000;
    apic::countdown(u32::MAX);
    let (first, begin) = (apic::remaining(), tsc());
    loop {
        let (elapsed, end) = (first - apic::remaining(), tsc());
        if elapsed >= SAMPLE_NS || end - begin > 1 << 36 {
            apic::countdown(0);
            return ((u128::from(end - begin) * 1_000_000_000) / u128::from(elapsed.max(1))) as u64;
        }
    }
}
