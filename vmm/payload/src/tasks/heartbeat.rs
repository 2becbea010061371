//! Says at a steady pace that the guest runs, what time it has, and the
//! largest step of its clock: how a blackout looks from the inside.

use core::sync::atomic::Ordering::Relaxed;

use crate::apic::TICK_VECTOR;
use crate::cpu::CpuBlock;
use crate::line;
use crate::schedule::Next;

pub struct Heartbeat {
    period: u64,
    due: u64,
    seq: u64,
}

impl Heartbeat {
    /// Beats every `period` ns, the first time at once.
    pub fn new(period: u64) -> Self {
        Self {
            period,
            due: 0,
            seq: 0,
        }
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        if now >= self.due {
            self.seq += 1;
            let gap = cpu.gap_ns.swap(0, Relaxed);
            line!(
                cpu,
                "heartbeat seq={} time_ns={now} gap_max_ns={gap} gap_ever_ns={} ticks={}",
                self.seq,
                cpu.gap_ever_ns.load(Relaxed),
                cpu.taken(TICK_VECTOR)
            );
            // Beats that a blackout swallowed are not made up for.
            self.due = if self.due + self.period > now {
                self.due + self.period
            } else {
                now + self.period
            };
        }
        Next::At(self.due)
    }
}
