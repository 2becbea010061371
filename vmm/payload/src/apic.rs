//! The local APIC: x2APIC where CPUID offers it, else its page
//! (Intel SDM 3A chapter 11).

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::cpu::CpuBlock;
use crate::gate;

/// Vector of the periodic tick.
pub const TICK_VECTOR: u8 = 0x20;
/// Vector that only wakes a processor.
pub const WAKE_VECTOR: u8 = 0x21;
/// First vector for device queues; the ones up to the spurious vector follow.
pub const DEVICE_VECTOR: u8 = 0x24;
/// Taken when an interrupt was withdrawn.
pub const SPURIOUS_VECTOR: u8 = 0x3f;

const BASE_MSR: u32 = 0x1b;
const PAGE: u64 = 0xfee0_0000;

const ID: u32 = 0x2;
const SPURIOUS: u32 = 0xf;
const COMMAND: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const TIMER: u32 = 0x32;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;

const DIVIDE_BY_1: u64 = 0xb;
const MASKED: u64 = 1 << 16;
const PERIODIC: u64 = 1 << 17;

unsafe extern "C" {
    /// Tells the interrupt path in `boot.s` how to acknowledge.
    static x2apic_enabled: AtomicU8;
}

fn x2apic() -> bool {
    // SAFETY: one byte in the image, only accessed atomically by Rust.
    unsafe { x2apic_enabled.load(Relaxed) != 0 }
}

fn read(register: u32) -> u64 {
    if x2apic() {
        return gate::rdmsr(0x800 + register);
    }
    // SAFETY: the APIC page is mapped and holds registers only.
    unsafe {
        ((PAGE + u64::from(register) * 16) as *const u32)
            .read_volatile()
            .into()
    }
}

fn write(register: u32, value: u64) {
    if x2apic() {
        // SAFETY: no APIC register points at memory.
        unsafe { gate::wrmsr(0x800 + register, value) };
    } else {
        // SAFETY: as in `read`.
        unsafe { ((PAGE + u64::from(register) * 16) as *mut u32).write_volatile(value as u32) };
    }
}

/// Enables the calling processor's APIC. The first caller decides the mode.
pub fn start() {
    const ENABLE: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    if gate::cpuid(1, 0)[2] & 1 << 21 != 0 {
        let base = gate::rdmsr(BASE_MSR);
        // SAFETY: changes the mode, not the address.
        unsafe {
            gate::wrmsr(BASE_MSR, base | ENABLE | X2APIC);
            x2apic_enabled.store(1, Relaxed);
        }
    }
    write(SPURIOUS, 0x100 | u64::from(SPURIOUS_VECTOR));
}

/// The calling processor's id.
pub fn id() -> u32 {
    let id = read(ID);
    if x2apic() {
        id as u32
    } else {
        (id >> 24) as u32
    }
}

/// Ticks every `period_us` from now on, unless it already does.
pub fn tick(cpu: &CpuBlock, period_us: u64) {
    if !cpu.ticking.swap(true, Relaxed) {
        write(DIVIDE, DIVIDE_BY_1);
        write(TIMER, PERIODIC | u64::from(TICK_VECTOR));
        write(INITIAL_COUNT, (period_us * 1_000).min(u32::MAX.into()));
    }
}

/// No more ticks.
pub fn tick_off(cpu: &CpuBlock) {
    if cpu.ticking.swap(false, Relaxed) {
        write(INITIAL_COUNT, 0);
    }
}

/// Counts down from `count` without an interrupt.
pub fn countdown(count: u32) {
    write(DIVIDE, DIVIDE_BY_1);
    write(TIMER, MASKED);
    write(INITIAL_COUNT, count.into());
}

/// What [`countdown`] has left.
pub fn remaining() -> u32 {
    read(CURRENT_COUNT) as u32
}

/// Sends an inter-processor interrupt; `command` is the low half of the ICR.
pub fn send(apic_id: u32, command: u32) {
    if x2apic() {
        write(COMMAND, u64::from(apic_id) << 32 | u64::from(command));
    } else {
        write(COMMAND_HIGH, u64::from(apic_id) << 24);
        write(COMMAND, command.into());
    }
}
