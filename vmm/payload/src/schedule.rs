//! Each processor runs its tasks in turn and halts when none has work.
//! A task never waits: it does a little and says when it wants to go on.

use core::sync::atomic::{
    AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::cpu::{CpuBlock, MAX_CPUS};
use crate::logic::span::{PAGE, Span};
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

/// The tasks of each processor. Whoever stores a pointer gives the task away;
/// only the processor that it belongs to uses it from then on.
static SLOTS_OF: [[AtomicPtr<Task>; SLOTS]; MAX_CPUS] =
    [const { [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS] }; MAX_CPUS];
/// Tasks that will be done by themselves and are not.
static UNFINISHED: AtomicUsize = AtomicUsize::new(0);

const _: () = assert!(size_of::<Task>() <= PAGE as usize && align_of::<Task>() <= PAGE as usize);

/// Hands a task to a processor; false when that has too many, or there is no
/// memory. First processor only.
pub fn assign(free: &mut Span, cpu: usize, task: Task) -> bool {
    let Some(slot) = SLOTS_OF[cpu]
        .iter()
        .find(|slot| slot.load(Relaxed).is_null())
    else {
        return false;
    };
    let Some(memory) = free.take(1) else {
        return false;
    };
    if task.ends_by_itself() {
        UNFINISHED.fetch_add(1, Relaxed);
    }
    let place = memory as *mut Task;
    // SAFETY: a fresh page, large enough (above), that is ours for good.
    unsafe { place.write(task) };
    slot.store(place, Release);
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
        // SAFETY: null, or a task that was given to this processor.
        let Some(task) = (unsafe { slot.load(Acquire).as_mut() }) else {
            continue;
        };
        let now = clock::now(cpu);
        match task.poll(cpu, now) {
            Next::Done => {
                if task.ends_by_itself() {
                    UNFINISHED.fetch_sub(1, Release);
                    if let Some(first) = smp::cpu(0).filter(|_| cpu.index.load(Relaxed) != 0) {
                        smp::nudge(first);
                    }
                }
                slot.store(core::ptr::null_mut(), Relaxed);
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
