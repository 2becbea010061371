//! Ends the machine after a time, or once all work is done.

use crate::cpu::CpuBlock;
use crate::logic::acpi::Fadt;
use crate::logic::options::End;
use crate::power;
use crate::schedule::{Next, all_finished};

pub struct Finish {
    /// Time to end at (ns); none waits for the other tasks.
    pub at: Option<u64>,
    pub end: End,
    pub fadt: Fadt,
}

impl Finish {
    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        match self.at {
            Some(at) if now < at => Next::At(at),
            None if !all_finished() => Next::Interrupt,
            _ => power::end(cpu, &self.fadt, self.end),
        }
    }
}
