//! Holds values in all registers while time passes: they must survive
//! whatever the host does with the processor meanwhile.

use core::arch::global_asm;

use crate::cpu::CpuBlock;
use crate::line;
use crate::logic::registers::Registers;
use crate::schedule::Next;

global_asm!(include_str!("regs.s"), options(att_syntax));

unsafe extern "C" {
    fn regs_hold(values: *const Registers, found: *mut Registers, loops: u64);
}

/// A few hundred microseconds at most, so that other tasks have their turn.
const LOOPS: u64 = 100_000;
/// Wrong registers that get a line of their own.
const MAX_LINES: u64 = 32;

pub struct RegsTask {
    /// Place on the command line.
    id: usize,
    round: u64,
    rounds: u64,
    wrong: u64,
    every: u64,
    report: u64,
    values: Registers,
    found: Registers,
}

impl RegsTask {
    /// `seed` keeps two processors from holding the same values.
    pub fn new(id: usize, seed: usize, every: u64) -> Self {
        Self {
            id,
            round: (seed as u64) << 48,
            rounds: 0,
            wrong: 0,
            every,
            report: 0,
            values: Registers::ZERO,
            found: Registers::ZERO,
        }
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        self.round += 1;
        self.values.fill(self.round);
        // SAFETY: both are aligned and of the layout that `regs.s` expects; it
        // keeps the calling convention.
        unsafe { regs_hold(&raw const self.values, &raw mut self.found, LOOPS) };
        self.rounds += 1;
        let (mut wrong, said) = (0, self.wrong);
        self.values.compare(&self.found, |place, expected, found| {
            wrong += 1;
            if said + wrong <= MAX_LINES {
                line!(
                    cpu,
                    "regs wrong register={place} expected={expected:#x} found={found:#x}"
                );
            }
        });
        self.wrong += wrong;
        if self.report == 0 {
            self.report = now + self.every;
        } else if now >= self.report {
            self.report = now + self.every;
            let (id, rounds, wrong) = (self.id, self.rounds, self.wrong);
            line!(
                cpu,
                "regs id={id} cpu={} rounds={rounds} wrong={wrong} time_ns={now}",
                cpu.number()
            );
        }
        Next::Busy
    }
}
