//! Dirties memory: so many pages per second, in a given order, with a given
//! content.

use crate::cpu::CpuBlock;
use crate::line;
use crate::logic::fill::{self, Content};
use crate::logic::pattern::Pattern;
use crate::logic::rate::Rate;
use crate::logic::span::Span;
use crate::schedule::Next;

/// Pages between two looks at the clock.
const BATCH: u64 = 16;

pub struct DirtyTask {
    /// Place on the command line.
    id: usize,
    span: Span,
    pages: u64,
    pattern: Pattern,
    content: Content,
    rate: Rate,
    /// Next page of the first pass, which the rate does not slow.
    filled: u64,
    touches: u64,
    every: u64,
    /// When to report next (0: not begun), and what was reported last.
    report: u64,
    reported: u64,
    reported_at: u64,
}

impl DirtyTask {
    /// Touches `span` in the order of `pattern`, each page once before the rate
    /// applies where `fill`; `every` is ns.
    pub fn new(
        id: usize,
        span: Span,
        pattern: Pattern,
        content: Content,
        rate: Rate,
        fill: bool,
        every: u64,
    ) -> Self {
        let pages = span.pages();
        Self {
            id,
            span,
            pages,
            pattern,
            content,
            rate,
            filled: if fill { 0 } else { pages },
            touches: 0,
            every,
            report: 0,
            reported: 0,
            reported_at: 0,
        }
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        if self.pages == 0 {
            return Next::Done;
        }
        if self.filled < self.pages {
            for _ in 0..BATCH.min(self.pages - self.filled) {
                self.touch(self.filled);
                self.filled += 1;
            }
            if self.filled == self.pages {
                self.begin(cpu, now);
            }
            return Next::Busy;
        }
        if self.report == 0 {
            self.begin(cpu, now);
        }
        let due = self.rate.due(now).min(BATCH);
        for _ in 0..due {
            let page = self.pattern.next();
            self.touch(page);
        }
        self.rate.done(due);
        if now >= self.report {
            self.say(cpu, now);
        }
        match self.rate.next(now) {
            None => Next::Busy,
            Some(time) => Next::At(time.min(self.report)),
        }
    }

    fn begin(&mut self, cpu: &CpuBlock, now: u64) {
        line!(
            cpu,
            "dirty id={} cpu={} filled={} at={:#x} time_ns={now}",
            self.id,
            cpu.number(),
            self.filled,
            self.span.address(0).unwrap_or(0)
        );
        self.rate.start(now);
        self.report = now + self.every;
        self.reported = self.touches;
        self.reported_at = now;
    }

    fn touch(&mut self, page: u64) {
        let Some(address) = self.span.address(page) else {
            return;
        };
        self.touches += 1;
        // SAFETY: the span is mapped RAM that this task alone uses.
        let words = unsafe { &mut *(address as *mut [u64; fill::WORDS]) };
        fill::write(words, self.content, self.touches ^ page << 40);
    }

    fn say(&mut self, cpu: &CpuBlock, now: u64) {
        let (pages, time) = (self.touches - self.reported, now - self.reported_at);
        let rate = u128::from(pages) * 1_000_000_000 / u128::from(time.max(1));
        line!(
            cpu,
            "dirty id={} cpu={} pages={} rate={rate} time_ns={now}",
            self.id,
            cpu.number(),
            self.touches
        );
        self.reported = self.touches;
        self.reported_at = now;
        self.report = now + self.every;
    }
}
