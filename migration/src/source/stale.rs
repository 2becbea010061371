//! Before a guest is paused for post-copy: what the target has of old is given up there while the guest
//! still runs (MIG-45). To give pages up takes the kernel time for each, which would be blackout.
//!
//! Meanwhile the guest writes others; they are announced in turn, until so few are left that they cost
//! nothing worth naming, or they do not get fewer.

use std::time::Duration;

use godwit_proto::migrate::{FromSource, FromTarget, MAX_RUNS, PageRun, SwitchKind};

use super::api::{Command, Event};
use super::core::Core;
use super::machine::Phase;
use super::switch::{Switching, chunks};
use crate::PageSet;

/// So few pages are given up during the blackout: some tenths of a millisecond.
const FEW_PAGES: u64 = 256;
/// How often stale pages are announced.
const MAX_TURNS: u32 = 8;

/// The target gives pages up, or the log is read.
#[derive(Debug)]
pub(super) struct GivingUp {
    /// All that will be missing.
    pending: PageSet,
    /// How many were announced last.
    announced: u64,
    turns: u32,
    since: Duration,
    collecting: bool,
}

impl GivingUp {
    /// For a guest that is copied already; one of which nothing is at the target is paused at once.
    pub(super) fn begin(mut pending: PageSet, core: &mut Core) -> Phase {
        if !core.dirty_log {
            return Switching::begin(SwitchKind::PostCopy, pending, Duration::ZERO, core);
        }
        pending.widen(core.options.unit_pages);
        let announced = announce(&pending, core);
        Phase::GivingUp(Self {
            pending,
            announced,
            turns: 1,
            since: core.now,
            collecting: false,
        })
    }

    /// When the target has taken too long.
    pub(super) fn deadline(&self, core: &Core) -> Duration {
        self.since + core.options.switch_timeout
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Control(FromTarget::GaveUp) if !self.collecting => {
                self.collecting = true;
                core.out.push(Command::CollectDirty);
            }
            Event::Dirty(mut dirty) if self.collecting => {
                if dirty.capacity() != core.offer.pages {
                    return core.protocol("a dirty log of another guest");
                }
                dirty.widen(core.options.unit_pages);
                let mut new = dirty;
                for (first, count) in self.pending.runs() {
                    new.remove_run(first, count);
                }
                let left = new.count();
                if left <= FEW_PAGES || left * 4 > self.announced * 3 || self.turns == MAX_TURNS {
                    // What is new is in the log, which is read again.
                    self.pending.union(&new);
                    let pending = self.pending;
                    return Switching::begin(SwitchKind::PostCopy, pending, Duration::ZERO, core);
                }
                self.announced = announce(&new, core);
                self.pending.union(&new);
                self.turns += 1;
                self.collecting = false;
                self.since = core.now;
            }
            Event::Control(_) => return core.protocol("a message that is none to stale pages"),
            Event::Tick if core.now >= self.deadline(core) => {
                return core.timed_out("the target did not give stale pages up in time");
            }
            _ => {}
        }
        Phase::GivingUp(self)
    }
}

/// Tells the target which pages it can give up; returns how many.
fn announce(pages: &PageSet, core: &mut Core) -> u64 {
    let runs: Vec<PageRun> = pages
        .runs()
        .map(|(first, count)| PageRun { first, count })
        .collect();
    for message in chunks(&runs, MAX_RUNS, |runs: &[PageRun], last| {
        FromSource::Stale {
            runs: runs.to_vec(),
            last,
        }
    }) {
        core.send(message);
    }
    pages.count()
}
