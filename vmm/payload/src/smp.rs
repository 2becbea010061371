//! The other processors: started one by one with INIT and start-up
//! interrupts, each with its own page, stack and task state.

use core::sync::atomic::{
    AtomicPtr, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::cpu::{CpuBlock, MAX_CPUS};
use crate::logic::span::{PAGE, Span};
use crate::{apic, clock};

/// Where the real-mode trampoline goes; its page number is the start-up vector.
const TRAMPOLINE: u64 = 0x8000;
const INIT: u32 = 0x0000_4500;
const STARTUP: u32 = 0x0000_4600;
const FIXED: u32 = 0x0000_4000;

const STACK_PAGES: u64 = 8;
const PATIENCE_NS: u64 = 2_000_000_000;
const REPEAT_NS: u64 = 20_000_000;

unsafe extern "C" {
    static boot_cpu: CpuBlock;
    static ap_slot: AtomicU64;
    static gdt_tss: [AtomicU64; 2 * MAX_CPUS];
    static trampoline: u8;
    static trampoline_end: u8;
}

static CPUS: [AtomicPtr<CpuBlock>; MAX_CPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(1);

/// The processor of that number, once it is online.
pub fn cpu(index: usize) -> Option<&'static CpuBlock> {
    // SAFETY: either null or a page that lives for good.
    unsafe { CPUS.get(index)?.load(Acquire).as_ref() }
}

/// Processors online.
pub fn online() -> usize {
    ONLINE.load(Relaxed)
}

/// The first processor's page.
pub fn first() -> &'static CpuBlock {
    // SAFETY: static, made of atomics; the stub set it up.
    let cpu = unsafe { &boot_cpu };
    CPUS[0].store(&raw const *cpu as *mut CpuBlock, Release);
    cpu
}

/// Starts the processors with these APIC ids but the caller. Those that do not
/// answer in time are left out.
pub fn start(me: &CpuBlock, apic_ids: &[u32], free: &mut Span) {
    // SAFETY: the two symbols bound position-independent code in the image; the
    // target page is below 1 MiB, where nothing else of ours is.
    unsafe {
        let from = &raw const trampoline;
        let len = (&raw const trampoline_end).offset_from(from) as usize;
        core::ptr::copy_nonoverlapping(from, TRAMPOLINE as *mut u8, len);
    }
    let mine = me.apic_id.load(Relaxed);
    for apic_id in apic_ids.iter().copied().filter(|id| *id != mine) {
        let index = online();
        let Some(memory) = (index < MAX_CPUS)
            .then(|| free.take(1 + STACK_PAGES))
            .flatten()
        else {
            return;
        };
        // SAFETY: fresh memory below 4 GiB that is ours from here on.
        let cpu = unsafe {
            (memory as *mut u8).write_bytes(0, PAGE as usize);
            &*(memory as *const CpuBlock)
        };
        cpu.prepare(index, apic_id, memory + (1 + STACK_PAGES) * PAGE);
        set_tss_descriptor(index, cpu.tss_address());
        if wake(me, cpu) {
            CPUS[index].store(&raw const *cpu as *mut CpuBlock, Release);
            ONLINE.store(index + 1, Release);
        }
    }
}

/// Wakes a halted processor so that it looks at its work.
pub fn nudge(cpu: &CpuBlock) {
    apic::send(
        cpu.apic_id.load(Relaxed),
        FIXED | u32::from(apic::WAKE_VECTOR),
    );
}

/// Bits of a 64-bit TSS descriptor (Intel SDM 3A 8.2.3).
fn set_tss_descriptor(index: usize, base: u64) {
    let low = 0x67 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    // SAFETY: the table has room for `MAX_CPUS`; nobody has loaded this entry.
    let table = unsafe { &gdt_tss };
    table[2 * index].store(low, Relaxed);
    table[2 * index + 1].store(base >> 32, Relaxed);
}

fn wake(me: &CpuBlock, cpu: &CpuBlock) -> bool {
    // SAFETY: an aligned word in the image, only accessed atomically.
    let slot = unsafe { &ap_slot };
    slot.store(&raw const *cpu as u64, Release);
    let apic_id = cpu.apic_id.load(Relaxed);
    apic::send(apic_id, INIT);
    let begin = clock::now(me);
    let mut again = begin;
    loop {
        let now = clock::now(me);
        if cpu.online.load(Acquire) {
            return true;
        }
        if now.wrapping_sub(begin) > PATIENCE_NS {
            // Withdrawn; a processor that has already taken it is late, but
            // will come.
            return slot.swap(0, Relaxed) == 0;
        }
        if now >= again {
            apic::send(apic_id, STARTUP | (TRAMPOLINE / PAGE) as u32);
            again = now + REPEAT_NS;
        }
        core::hint::spin_loop();
    }
}
