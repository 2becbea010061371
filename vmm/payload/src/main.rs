//! The built-in guest: a bare-metal program that exercises a virtual machine
//! and reports on its serial port. See `README.md` for what it can be told.
//!
//! A small stub (`boot.s`) runs at CPL0, all else at CPL3, because some hosts
//! emulate guest CPL0 and run CPL3 natively. Memory is mapped one to one and
//! writable to both; there is nobody to protect it from.
#![no_std]
#![no_main]

mod apic;
mod clock;
mod cpu;
mod disk;
mod gate;
mod logic;
mod machine;
mod paging;
mod pci;
mod power;
mod runtime;
mod schedule;
mod serial;
mod setup;
mod smp;
mod tasks;
mod virtio;

use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use cpu::CpuBlock;

static TICK_US: AtomicU64 = AtomicU64::new(1_000);

/// The first processor comes here from the stub.
#[unsafe(no_mangle)]
extern "C" fn rust_main(_cpu: &'static CpuBlock, _flags: u64, start_info: u64) -> ! {
    let cpu = smp::first();
    apic::start();
    cpu.apic_id.store(apic::id(), Relaxed);
    let source = clock::start(cpu);
    let tick = setup::run(cpu, start_info, source);
    TICK_US.store(tick, Relaxed);
    schedule::run(cpu, tick)
}

/// The others.
#[unsafe(no_mangle)]
extern "C" fn ap_main(cpu: &'static CpuBlock) -> ! {
    apic::start();
    clock::register(cpu);
    cpu.online.store(true, Release);
    schedule::run(cpu, TICK_US.load(Acquire))
}

/// A processor that faulted comes here, interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn fault_main(cpu: &'static CpuBlock) -> ! {
    let [vector, error, rip, address, rsp, cs] =
        cpu.fault.each_ref().map(|word| word.load(Relaxed));
    line!(
        cpu,
        "fault vector={vector} rip={rip:#x} addr={address:#x} error={error:#x} rsp={rsp:#x} cs={cs:#x} cpu={}",
        cpu.index.load(Relaxed)
    );
    gate::park()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |place| place.line());
    let file = info.location().map_or("", |place| place.file());
    line!(smp::first(), "panic file={file} line={line}");
    gate::park()
}
