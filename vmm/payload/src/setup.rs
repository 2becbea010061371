//! From the command line to running tasks.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::Relaxed;

use crate::clock;
use crate::cpu::{CpuBlock, MAX_CPUS};
use crate::line;
use crate::logic::options::{Dirty, End, Options, Place, Workload};
use crate::logic::pattern::Pattern;
use crate::logic::rate::Rate;
use crate::logic::span::{PAGE, Span};
use crate::machine::Machine;
use crate::tasks::{DirtyTask, Finish, Heartbeat, Task};
use crate::{paging, schedule, smp};

const MS: u64 = 1_000_000;

struct Once(UnsafeCell<Machine>);
// SAFETY: only the first processor uses it, once, in `run`.
unsafe impl Sync for Once {}
static MACHINE: Once = Once(UnsafeCell::new(Machine::EMPTY));

/// Reads what there is and what is wanted, starts it, and returns the tick in
/// microseconds.
pub fn run(cpu: &'static CpuBlock, start_info: u64, source: &str) -> u64 {
    // SAFETY: called once, on the first processor.
    let machine = unsafe { &mut *MACHINE.0.get() };
    machine.read(start_info);
    let begin = clock::now(cpu);
    // Refusals come out after the line that says who speaks.
    let options = Options::parse(machine.line(), |_| {});
    if machine.cpus == 0 {
        machine.cpus = options
            .cpus
            .map_or(1, |cpus| (cpus as usize).clamp(1, MAX_CPUS));
        for (id, slot) in machine.apic_ids.iter_mut().enumerate() {
            *slot = id as u32;
        }
    }
    line!(
        cpu,
        "godwit-payload version=1 cpus={} memory_bytes={} time_source={source}",
        machine.cpus,
        machine.memory
    );
    if !machine.valid {
        line!(cpu, "error start_info={start_info:#x} reason=bad-magic");
    }
    Options::parse(machine.line(), |item| line!(cpu, "error option={item}"));
    if let Some(period) = options.heartbeat {
        schedule::assign(0, Task::Heartbeat(Heartbeat::new(period * MS)));
        schedule::pass(cpu);
    }
    supply_tables(machine);
    if options.smp && machine.cpus > 1 {
        smp::start(cpu, &machine.apic_ids[..machine.cpus], &mut machine.free);
        line!(cpu, "smp online={}", smp::online());
    }
    for range in machine.free.ranges() {
        paging::map(range.0, range.1 - range.0);
    }
    assign_workloads(cpu, machine, &options);
    if options.end.is_some() || options.run_for.is_some() {
        let finish = Finish {
            at: options.run_for.map(|ms| begin + ms.saturating_mul(MS)),
            end: options.end.unwrap_or(End::Poweroff),
            fadt: machine.fadt,
        };
        schedule::assign(0, Task::Finish(finish));
    }
    // What happened until here was no blackout.
    cpu.gap_ns.store(0, Relaxed);
    cpu.gap_ever_ns.store(0, Relaxed);
    for other in (1..smp::online()).filter_map(smp::cpu) {
        smp::nudge(other);
    }
    options.tick
}

/// Memory for page tables, from the lowest range so that it is mapped.
fn supply_tables(machine: &mut Machine) {
    let top = machine
        .free
        .ranges()
        .iter()
        .map(|range| range.1)
        .max()
        .unwrap_or(0);
    let pages = paging::tables_for(top);
    if let Some(start) = machine.free.take(pages) {
        paging::supply(start, pages);
    }
}

fn assign_workloads(cpu: &CpuBlock, machine: &mut Machine, options: &Options) {
    let mut turn = 0;
    for workload in options.workloads() {
        let (first, count) = match workload.place() {
            Place::All => (0, smp::online()),
            Place::One(index) if (index as usize) < smp::online() => (index as usize, 1),
            Place::One(index) => {
                line!(cpu, "error option=cpu:{index} reason=not-online");
                continue;
            }
            Place::Turn => {
                turn = (turn + 1) % smp::online();
                (turn, 1)
            }
        };
        match workload {
            Workload::Dirty(dirty) => {
                assign_dirty(cpu, machine, options, dirty, first..first + count)
            }
            _ => line!(cpu, "error option=workload reason=not-yet"),
        }
    }
}

/// Up to `bytes` (0: all) of the free memory.
fn claim(cpu: &CpuBlock, machine: &mut Machine, bytes: u64) -> Span {
    let wanted = if bytes == 0 {
        u64::MAX
    } else {
        bytes.div_ceil(PAGE)
    };
    let span = machine.free.split(wanted);
    if bytes != 0 && span.pages() < wanted {
        line!(
            cpu,
            "error option=size reason=too-large have={}",
            span.pages() * PAGE
        );
    }
    span
}

fn assign_dirty(
    cpu: &CpuBlock,
    machine: &mut Machine,
    options: &Options,
    dirty: &Dirty,
    cpus: core::ops::Range<usize>,
) {
    let span = match dirty.at {
        Some(at) => {
            let mut span = Span::default();
            span.add(at, at.saturating_add(dirty.size));
            if !paging::map(at, dirty.size) {
                line!(cpu, "error option=at:{at:#x} reason=not-mappable");
                return;
            }
            span
        }
        None => claim(cpu, machine, dirty.size),
    };
    let workers = cpus.len() as u64;
    for (worker, index) in (0u64..).zip(cpus) {
        let (first, after) = (
            span.pages() * worker / workers,
            span.pages() * (worker + 1) / workers,
        );
        let part = span.part(first, after - first);
        let rate = if dirty.rate == 0 {
            0
        } else {
            dirty.rate.div_ceil(workers)
        };
        let task = DirtyTask {
            span: part,
            pages: part.pages(),
            pattern: Pattern::new(dirty.order, part.pages(), index as u64 + 1),
            content: dirty.content,
            rate: Rate::new(rate),
            filled: if dirty.fill { 0 } else { part.pages() },
            touches: 0,
            report: 0,
            every: options.every * MS,
            reported: 0,
            reported_at: 0,
        };
        if !schedule::assign(index, Task::Dirty(task)) {
            line!(cpu, "error option=dirty reason=too-many-on-cpu cpu={index}");
        }
    }
}
