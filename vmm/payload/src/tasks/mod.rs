//! The workloads.

mod blk;
mod blk_bench;
mod check;
mod console;
mod dirty;
mod finish;
mod heartbeat;
mod net;
mod regs;
mod rng;

pub use blk::BlkTask;
pub use blk_bench::BlkBenchTask;
pub use check::CheckTask;
pub use console::ConsoleTask;
pub use dirty::DirtyTask;
pub use finish::Finish;
pub use heartbeat::Heartbeat;
pub use net::NetTask;
pub use regs::RegsTask;
pub use rng::RngTask;

use crate::cpu::CpuBlock;
use crate::logic::span::Span;
use crate::pci::Pci;
use crate::schedule::Next;

/// Where a task that drives a device is set up.
pub struct Site<'a> {
    /// The processor that sets it up.
    pub me: &'a CpuBlock,
    /// The one that will run it, and takes its interrupts.
    pub cpu: &'a CpuBlock,
    pub pci: Pci,
    pub free: &'a mut Span,
}

/// One workload on one processor.
#[allow(clippy::large_enum_variant)] // each lives alone in a page
pub enum Task {
    Heartbeat(Heartbeat),
    Dirty(DirtyTask),
    Check(CheckTask),
    Regs(RegsTask),
    Blk(BlkTask),
    BlkBench(BlkBenchTask),
    Net(NetTask),
    Rng(RngTask),
    Console(ConsoleTask),
    Finish(Finish),
}

impl Task {
    /// Does a little, then says when it wants to do more.
    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        match self {
            Self::Heartbeat(task) => task.poll(cpu, now),
            Self::Dirty(task) => task.poll(cpu, now),
            Self::Check(task) => task.poll(cpu, now),
            Self::Regs(task) => task.poll(cpu, now),
            Self::Blk(task) => task.poll(cpu, now),
            Self::BlkBench(task) => task.poll(cpu, now),
            Self::Net(task) => task.poll(cpu, now),
            Self::Rng(task) => task.poll(cpu, now),
            Self::Console(task) => task.poll(cpu, now),
            Self::Finish(task) => task.poll(cpu, now),
        }
    }

    /// Will be done without being told.
    pub fn ends_by_itself(&self) -> bool {
        match self {
            Self::Blk(task) => task.ends_by_itself(),
            Self::Net(task) => task.ends_by_itself(),
            Self::BlkBench(_) | Self::Rng(_) => true,
            Self::Heartbeat(_)
            | Self::Dirty(_)
            | Self::Check(_)
            | Self::Regs(_)
            | Self::Console(_)
            | Self::Finish(_) => false,
        }
    }
}
