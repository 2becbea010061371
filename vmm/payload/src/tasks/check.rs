//! Rewrites and verifies memory without end: see `logic::page`.

use crate::cpu::CpuBlock;
use crate::line;
use crate::logic::page::{self, Sweep, WORDS, Wrong};
use crate::logic::rate::Rate;
use crate::logic::span::{PAGE, Span};
use crate::schedule::Next;

/// Pages between two looks at the clock.
const BATCH: u64 = 8;
/// Wrong pages that get a line of their own.
const MAX_LINES: u64 = 32;

pub struct CheckTask {
    /// Place on the command line.
    id: usize,
    span: Span,
    pages: u64,
    entropy: u8,
    filled: u64,
    sweep: Sweep,
    writes: Rate,
    checks: Rate,
    written: u64,
    checked: u64,
    wrong: u64,
    every: u64,
    report: u64,
}

impl CheckTask {
    /// Rates are pages per second, 0 for no limit; `every` is ns.
    pub fn new(id: usize, span: Span, writes: Rate, checks: Rate, entropy: u8, every: u64) -> Self {
        let pages = span.pages();
        Self {
            id,
            span,
            pages,
            entropy,
            filled: 0,
            sweep: Sweep::new(pages),
            writes,
            checks,
            written: 0,
            checked: 0,
            wrong: 0,
            every,
            report: 0,
        }
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        if self.pages == 0 {
            return Next::Done;
        }
        if self.filled < self.pages {
            for page in self.filled..self.pages.min(self.filled + BATCH) {
                self.write(page, 1);
                self.filled += 1;
            }
            if self.filled == self.pages {
                line!(
                    cpu,
                    "check id={} cpu={} filled={} time_ns={now}",
                    self.id,
                    cpu.number(),
                    self.filled
                );
                self.writes.start(now);
                self.checks.start(now);
                self.report = now + self.every;
            }
            return Next::Busy;
        }
        let writes = self.writes.due(now).min(BATCH);
        for _ in 0..writes {
            let (page, version) = self.sweep.next_write();
            self.write(page, version);
        }
        self.writes.done(writes);
        self.written += writes;
        let checks = self.checks.due(now).min(BATCH);
        for _ in 0..checks {
            let (page, version) = self.sweep.next_check();
            self.check(cpu, page, version);
        }
        self.checks.done(checks);
        self.checked += checks;
        if now >= self.report {
            self.report = now + self.every;
            line!(
                cpu,
                "check id={} cpu={} pages={} passes={} wrong={} checked={} written={} time_ns={now}",
                self.id,
                cpu.number(),
                self.pages,
                self.sweep.passes,
                self.wrong,
                self.checked,
                self.written
            );
        }
        match (self.writes.next(now), self.checks.next(now)) {
            (Some(write), Some(check)) => Next::At(write.min(check).min(self.report)),
            _ => Next::Busy,
        }
    }

    fn page(&self, page: u64) -> Option<(u64, &'static mut [u64; WORDS])> {
        let address = self.span.address(page)?;
        // SAFETY: the span is mapped RAM that this task alone uses, one page at
        // a time.
        Some((address, unsafe { &mut *(address as *mut [u64; WORDS]) }))
    }

    fn write(&self, page: u64, version: u64) {
        if let Some((address, words)) = self.page(page) {
            page::write(words, address / PAGE, version, self.entropy);
        }
    }

    /// A wrong page is reported and then put right, so that it counts once.
    fn check(&mut self, cpu: &CpuBlock, page: u64, version: u64) {
        let Some((address, words)) = self.page(page) else {
            return;
        };
        if let Err(Wrong {
            what,
            expected,
            found,
        }) = page::verify(words, address / PAGE, version)
        {
            self.wrong += 1;
            if self.wrong <= MAX_LINES {
                line!(
                    cpu,
                    "check wrong gpa={address:#x} what={what} expected={expected:#x} found={found:#x}"
                );
            }
            page::write(words, address / PAGE, version, self.entropy);
        }
    }
}
