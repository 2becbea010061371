//! From the command line to running tasks.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use crate::clock;
use crate::cpu::{CpuBlock, MAX_CPUS};
use crate::line;
use crate::logic::options::{Check, Dirty, End, Options, Place, Workload};
use crate::logic::pattern::Pattern;
use crate::logic::rate::Rate;
use crate::logic::span::{PAGE, Span};
use crate::machine::Machine;
use crate::pci::Pci;
use crate::tasks::{
    BlkBenchTask, BlkTask, CheckTask, ConsoleTask, DirtyTask, Finish, Heartbeat, NetTask, RegsTask,
    RngTask, Site, Task,
};
use crate::{paging, schedule, smp};

const MS: u64 = 1_000_000;
/// Free pages that `dirty` and `check` leave alone: tasks, queues, buffers.
const RESERVED_PAGES: u64 = 512;

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
        let task = Task::Heartbeat(Heartbeat::new(period * MS));
        assign(cpu, machine, 0, "heartbeat", task);
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
        assign(cpu, machine, 0, "end", Task::Finish(finish));
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

/// Devices first, then memory that was named, then "all that is free": the
/// order on the command line does not decide who goes without.
fn stage(workload: &Workload) -> u32 {
    match workload {
        Workload::Dirty(Dirty { at: Some(_), .. }) => 1,
        Workload::Dirty(Dirty { size: 1.., .. }) | Workload::Check(Check { size: 1.., .. }) => 2,
        Workload::Dirty(_) | Workload::Check(_) => 3,
        _ => 0,
    }
}

fn assign_workloads(cpu: &CpuBlock, machine: &mut Machine, options: &Options) {
    let mut pci = None;
    let every = options.every * MS;
    for now in 0..=3 {
        let mut turn = 0;
        for (id, workload) in options.workloads().enumerate() {
            let cpus = match workload.place() {
                Place::All => 0..smp::online(),
                Place::One(index) => index as usize..index as usize + 1,
                Place::Turn => {
                    turn = (turn + 1) % smp::online();
                    turn..turn + 1
                }
            };
            if stage(workload) != now {
                continue;
            }
            if cpus.end > smp::online() {
                line!(cpu, "error option=cpu:{} reason=not-online", cpus.start);
                continue;
            }
            match workload {
                Workload::Regs { .. } => {
                    for index in cpus {
                        assign(
                            cpu,
                            machine,
                            index,
                            "regs",
                            Task::Regs(RegsTask::new(id, index, every)),
                        );
                    }
                }
                Workload::Dirty(dirty) => assign_dirty(cpu, machine, (id, dirty), cpus, every),
                Workload::Check(check) => assign_check(cpu, machine, (id, check), cpus, every),
                _ => {
                    let pci = *pci.get_or_insert_with(|| Pci::new(machine.ecam));
                    assign_device(cpu, machine, pci, workload, cpus.start, every);
                }
            }
        }
    }
}

fn assign_device(
    me: &CpuBlock,
    machine: &mut Machine,
    pci: Pci,
    workload: &Workload,
    index: usize,
    every: u64,
) {
    let Some(cpu) = smp::cpu(index) else { return };
    let mut site = Site {
        me,
        cpu,
        pci,
        free: &mut machine.free,
    };
    let (name, task) = match *workload {
        Workload::Blk(blk) => ("blk", BlkTask::new(&mut site, blk, every).map(Task::Blk)),
        Workload::BlkBench(bench) => (
            "blk-bench",
            BlkBenchTask::new(&mut site, bench).map(Task::BlkBench),
        ),
        Workload::Net(net) => ("net", NetTask::new(&mut site, net, every).map(Task::Net)),
        Workload::Rng { device, bytes, .. } => {
            ("rng", RngTask::new(&mut site, device, bytes).map(Task::Rng))
        }
        Workload::Console { device, .. } => (
            "console",
            ConsoleTask::new(&mut site, device, every).map(Task::Console),
        ),
        Workload::Dirty(_) | Workload::Check(_) | Workload::Regs { .. } => return,
    };
    match task {
        Ok(task) => assign(me, machine, index, name, task),
        Err(reason) => line!(me, "error workload={name} reason={reason}"),
    }
}

fn assign(me: &CpuBlock, machine: &mut Machine, index: usize, name: &str, task: Task) {
    if !schedule::assign(&mut machine.free, index, task) {
        line!(
            me,
            "error workload={name} reason=too-many-on-cpu cpu={index}"
        );
    }
}

/// Up to `bytes` (0: all) of the free memory.
fn claim(cpu: &CpuBlock, machine: &mut Machine, bytes: u64) -> Span {
    // What later tasks need for themselves.
    let all = machine.free.pages().saturating_sub(RESERVED_PAGES);
    let wanted = if bytes == 0 {
        all
    } else {
        bytes.div_ceil(PAGE)
    };
    let span = machine.free.split_end(wanted.min(all));
    if wanted > span.pages() {
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
    (id, dirty): (usize, &Dirty),
    cpus: Range<usize>,
    every: u64,
) {
    let span = match dirty.at {
        None => claim(cpu, machine, dirty.size),
        Some(at) => {
            let mut span = Span::default();
            span.add(at, at.saturating_add(dirty.size));
            if !machine.free.remove(at, at.saturating_add(dirty.size)) {
                line!(cpu, "error option=at:{at:#x} reason=not-free-memory");
                return;
            }
            span
        }
    };
    let workers = cpus.len() as u64;
    let rate = dirty.rate.div_ceil(workers);
    for (worker, index) in (0u64..).zip(cpus) {
        let part = share(&span, worker, workers);
        let pattern = Pattern::new(dirty.order, part.pages(), index as u64 + 1);
        let task = DirtyTask::new(
            id,
            part,
            pattern,
            dirty.content,
            Rate::new(rate),
            dirty.fill,
            every,
        );
        assign(cpu, machine, index, "dirty", Task::Dirty(task));
    }
}

fn assign_check(
    cpu: &CpuBlock,
    machine: &mut Machine,
    (id, check): (usize, &Check),
    cpus: Range<usize>,
    every: u64,
) {
    let span = claim(cpu, machine, check.size);
    let workers = cpus.len() as u64;
    for (worker, index) in (0u64..).zip(cpus) {
        let part = share(&span, worker, workers);
        let (writes, checks) = (check.rate.div_ceil(workers), check.verify.div_ceil(workers));
        let task = CheckTask::new(
            id,
            part,
            Rate::new(writes),
            Rate::new(checks),
            check.entropy,
            every,
        );
        assign(cpu, machine, index, "check", Task::Check(task));
    }
}

/// The part of `span` that one of several workers has.
fn share(span: &Span, worker: u64, workers: u64) -> Span {
    let first = span.pages() * worker / workers;
    span.part(first, span.pages() * (worker + 1) / workers - first)
}
