//! Each processor runs its tasks in turn and halts when none has work.
//! A task never waits: it does a little and says when it wants to go on.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::cpu::{CpuBlock, MAX_CPUS};
use crate::tasks::Task;
use crate::{apic, clock, gate, smp};

/// When a task wants to be polled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Busy,
    /// At this time (ns), or after an interrupt.
    At(u64),
    /// After an interrupt.
    Interrupt,
    /// Never.
    Done,
}

/// Most tasks per processor.
const SLOTS: usize = 8;

/// Uninitialised rather than `None`, so that the image need not hold them.
struct Slot {
    task: UnsafeCell<MaybeUninit<Task>>,
    filled: AtomicBool,
    done: AtomicBool,
}

impl Slot {
    const EMPTY: Self = Self {
        task: UnsafeCell::new(MaybeUninit::uninit()),
        filled: AtomicBool::new(false),
        done: AtomicBool::new(false),
    };
}

// SAFETY: the first processor writes a slot before it sets `filled`; after
// that only the processor that the slot belongs to touches it.
unsafe impl Sync for Slot {}

static SLOTS_OF: [[Slot; SLOTS]; MAX_CPUS] = [const { [Slot::EMPTY; SLOTS] }; MAX_CPUS];
/// Tasks that will be done by themselves and are not.
static UNFINISHED: AtomicUsize = AtomicUsize::new(0);

/// Hands a task to a processor; false when it has too many. First processor only.
pub fn assign(cpu: usize, task: Task) -> bool {
    let Some(slot) = SLOTS_OF[cpu].iter().find(|slot| !slot.filled.load(Relaxed)) else {
        return false;
    };
    if task.ends_by_itself() {
        UNFINISHED.fetch_add(1, Relaxed);
    }
    // SAFETY: not filled, so not in use; see `Sync`.
    unsafe { (*slot.task.get()).write(task) };
    slot.filled.store(true, Release);
    true
}

/// All tasks that end by themselves have ended.
pub fn all_finished() -> bool {
    UNFINISHED.load(Acquire) == 0
}

/// Polls each task of this processor once; returns when the first wants more.
pub fn pass(cpu: &CpuBlock) -> Next {
    let mut next = Next::Done;
    for slot in &SLOTS_OF[cpu.index.load(Relaxed) as usize] {
        if !slot.filled.load(Acquire) || slot.done.load(Relaxed) {
            continue;
        }
        // SAFETY: filled, and ours; see `Sync`.
        let task = unsafe { (*slot.task.get()).assume_init_mut() };
        let now = clock::now(cpu);
        match task.poll(cpu, now) {
            Next::Done => {
                if task.ends_by_itself() {
                    UNFINISHED.fetch_sub(1, Release);
                    if let Some(first) = smp::cpu(0).filter(|_| cpu.index.load(Relaxed) != 0) {
                        smp::nudge(first);
                    }
                }
                slot.done.store(true, Relaxed);
            }
            wish => next = sooner(next, wish),
        }
    }
    next
}

/// Runs this processor's tasks for good.
pub fn run(cpu: &CpuBlock, tick_us: u64) -> ! {
    loop {
        let seen = cpu.irqs.load(Acquire);
        match pass(cpu) {
            Next::Busy => {}
            Next::At(time) => {
                if time > clock::now(cpu) {
                    apic::tick(cpu, tick_us);
                    gate::wait(&cpu.irqs, seen);
                }
            }
            Next::Interrupt | Next::Done => {
                apic::tick_off(cpu);
                gate::wait(&cpu.irqs, seen);
            }
        }
        clock::now(cpu);
    }
}

fn sooner(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::Busy, _) | (_, Next::Busy) => Next::Busy,
        (Next::At(a), Next::At(b)) => Next::At(a.min(b)),
        (Next::At(a), _) | (_, Next::At(a)) => Next::At(a),
        (Next::Done, other) | (other, Next::Done) => other,
        (Next::Interrupt, Next::Interrupt) => Next::Interrupt,
    }
}
