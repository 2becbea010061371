//! The service gate into CPL0: the few instructions that CPL3 may not execute.
//!
//! Numbers and registers are those of `gate_table` in `boot.s`. Each call
//! costs a trap, so callers batch where they can.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

#[derive(Clone, Copy)]
enum Service {
    Outs = 0,
    Out8,
    Out16,
    Out32,
    In32,
    Rdmsr,
    Wrmsr,
    Cpuid,
    Wait,
    LoadCr3,
    Park,
    TripleFault,
    Jump,
}

/// # Safety
/// The registers must be what the service of that number takes.
unsafe fn call(service: Service, di: u64, si: u64, cx: u64, dx: u64) -> u64 {
    let result;
    // SAFETY: the gate preserves every register but these, and the flags; it
    // runs on its own stack. What it reads and writes is the caller's duty.
    unsafe {
        asm!("int3",
            inlateout("rax") service as u64 => result,
            in("rdi") di,
            inlateout("rsi") si => _,
            inlateout("rcx") cx => _,
            inlateout("rdx") dx => _,
            options(nostack));
    }
    result
}

/// Writes each byte to an I/O port.
pub fn outs(port: u16, bytes: &[u8]) {
    // SAFETY: pointer and count describe the slice; the gate only reads it.
    unsafe {
        call(
            Service::Outs,
            0,
            bytes.as_ptr() as u64,
            bytes.len() as u64,
            port.into(),
        )
    };
}

/// Writes one byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port I/O touches no memory of ours.
    unsafe { call(Service::Out8, value.into(), 0, 0, port.into()) };
}

/// Writes two bytes to an I/O port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { call(Service::Out16, value.into(), 0, 0, port.into()) };
}

/// Writes four bytes to an I/O port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { call(Service::Out32, value.into(), 0, 0, port.into()) };
}

/// Reads four bytes from an I/O port.
pub fn in32(port: u16) -> u32 {
    // SAFETY: as in `out8`.
    unsafe { call(Service::In32, 0, 0, 0, port.into()) as u32 }
}

/// Reads a model-specific register.
pub fn rdmsr(register: u32) -> u64 {
    // SAFETY: reads no memory; an unknown register ends in a reported fault.
    unsafe { call(Service::Rdmsr, 0, 0, register.into(), 0) }
}

/// Writes a model-specific register.
///
/// # Safety
/// The register may point the processor at memory: that memory must be its.
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { call(Service::Wrmsr, value, 0, register.into(), 0) };
}

/// CPUID as CPL0 sees it: at CPL3 a host without hardware virtualisation
/// shows its own. Returns EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut out = [0; 4];
    // SAFETY: the gate writes exactly 16 bytes to `out`.
    unsafe {
        call(
            Service::Cpuid,
            leaf.into(),
            out.as_mut_ptr() as u64,
            subleaf.into(),
            0,
        )
    };
    out
}

/// Halts until an interrupt, unless `counter` no longer holds `seen`.
pub fn wait(counter: &AtomicU64, seen: u64) {
    // SAFETY: the gate reads the counter, nothing else.
    unsafe { call(Service::Wait, counter.as_ptr() as u64, seen, 0, 0) };
}

/// Reloads CR3, which forgets every cached translation.
pub fn reload_cr3() {
    // SAFETY: the value written is the one read.
    unsafe { call(Service::LoadCr3, 0, 0, 0, 0) };
}

/// Stops this processor for good, interrupts masked.
pub fn park() -> ! {
    loop {
        // SAFETY: never comes back.
        unsafe { call(Service::Park, 0, 0, 0, 0) };
    }
}

/// Faults with an empty interrupt table.
pub fn triple_fault() -> ! {
    loop {
        // SAFETY: never comes back.
        unsafe { call(Service::TripleFault, 0, 0, 0, 0) };
    }
}

/// Jumps, at CPL0, to an address where no memory is.
pub fn jump_to_nowhere(address: u64) -> ! {
    loop {
        // SAFETY: there is nothing to execute; a host reports it and stops us.
        unsafe { call(Service::Jump, address, 0, 0, 0) };
    }
}
