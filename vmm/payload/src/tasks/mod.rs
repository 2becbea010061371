//! The workloads.

mod dirty;
mod finish;
mod heartbeat;

pub use dirty::DirtyTask;
pub use finish::Finish;
pub use heartbeat::Heartbeat;

use crate::cpu::CpuBlock;
use crate::schedule::Next;

/// One workload on one processor.
pub enum Task {
    Heartbeat(Heartbeat),
    Dirty(DirtyTask),
    Finish(Finish),
}

impl Task {
    /// Does a little, then says when it wants to do more.
    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        match self {
            Self::Heartbeat(task) => task.poll(cpu, now),
            Self::Dirty(task) => task.poll(cpu, now),
            Self::Finish(task) => task.poll(cpu, now),
        }
    }

    /// Will be done without being told.
    pub fn ends_by_itself(&self) -> bool {
        false
    }
}
