//! The guest runs here. What is left: its missing pages (MIG-52 to MIG-54), and the commit (MIG-37).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{
    FromSource, FromTarget, MAX_BITMAP_WORDS, Offer, PageRun, ResumeTimes,
};

use super::api::{Command, Event, Outcome, Step};
use super::machine::{Core, Finished, Phase};
use crate::PageSet;

#[derive(Debug)]
pub(super) struct Running {
    offer: Box<Offer>,
    missing: PageSet,
    /// Pages that something waits for.
    wanted: PageSet,
    times: ResumeTimes,
    committed: bool,
    /// Whether the source has been heard on the connection there is: requests can be sent.
    synced: bool,
    deadline: Option<Duration>,
}

impl Running {
    pub(super) fn begin(
        offer: Box<Offer>,
        missing: PageSet,
        wanted: PageSet,
        times: ResumeTimes,
        recovered: bool,
        core: &mut Core,
    ) -> Phase {
        core.out.push(Command::AnnounceNetwork);
        let next = offer.epoch.next();
        let mut running = Self {
            missing,
            offer,
            wanted,
            times,
            committed: false,
            synced: core.link_up,
            deadline: None,
        };
        running.expect_source(core);
        if recovered {
            running.recover(core);
        } else {
            core.send(FromTarget::Resumed(times));
            running.request_wanted(core);
        }
        core.out.push(Command::Commit(next));
        Phase::Running(running)
    }

    /// When the pages that are missing are given up; `None` when none is missing.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    pub(super) fn missing_pages(&self) -> u64 {
        self.missing.count()
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Committed => self.committed = true,
            Event::Fault(run) => self.fault(run, core),
            Event::PagesInstalled(run) => {
                self.missing.remove_run(run.first, run.count);
                self.wanted.remove_run(run.first, run.count);
                self.expect_source(core);
            }
            Event::LinkLost => {
                self.synced = false;
                self.expect_source(core);
            }
            Event::Control(FromSource::Recover { migration, epoch })
                if migration == self.offer.migration && epoch == self.offer.epoch =>
            {
                self.recover(core);
            }
            Event::Failed {
                step: Step::InstallPages,
                error,
            } => return self.lost(error, core),
            Event::Tick if self.deadline.is_some_and(|deadline| core.now >= deadline) => {
                let error = "the source cannot be reached any more";
                let error = CodedError::new(ErrorCode::PagesLost, error);
                return self.lost(error, core);
            }
            Event::Cancel => core.out.push(Command::CancelTooLate),
            _ => {}
        }
        if self.committed && self.missing.is_empty() {
            core.send(FromTarget::Complete);
            core.out.push(Command::Finish(Outcome::Completed));
            return Phase::Finished(Finished::Ran {
                offer: self.offer,
                times: self.times,
                complete: true,
            });
        }
        Phase::Running(self)
    }

    /// Each sign of life gives the source another window, as long as it is needed.
    fn expect_source(&mut self, core: &Core) {
        let needed = !self.missing.is_empty();
        self.deadline = needed.then(|| core.now + core.limits.recovery_window);
    }

    fn fault(&mut self, run: PageRun, core: &mut Core) {
        let end = run
            .first
            .saturating_add(run.count)
            .min(self.missing.capacity());
        let mut from = run.first;
        while let Some((first, count)) = self.missing.next_run(from).filter(|&(f, _)| f < end) {
            let run = PageRun {
                first,
                count: count.min(end - first),
            };
            self.wanted.insert_run(run.first, run.count);
            if self.synced {
                core.out.push(Command::RequestPages(run));
            }
            from = run.first + run.count;
        }
    }

    /// The source is back: it learns that the guest runs and what has arrived.
    fn recover(&mut self, core: &mut Core) {
        self.synced = true;
        self.expect_source(core);
        core.send(FromTarget::Resumed(self.times));
        if self.missing.is_empty() {
            return;
        }
        let words: Vec<u64> = (0..self.missing.capacity().div_ceil(64))
            .map(|word| {
                let pages = word * 64..(word * 64 + 64).min(self.missing.capacity());
                pages.fold(0, |bits, page| {
                    bits | u64::from(!self.missing.contains(page)) << (page % 64)
                })
            })
            .collect();
        let pieces = words.len().div_ceil(MAX_BITMAP_WORDS);
        for (index, words) in words.chunks(MAX_BITMAP_WORDS).enumerate() {
            core.send(FromTarget::Received {
                first: (index * MAX_BITMAP_WORDS * 64) as u64,
                words: words.to_vec(),
                last: index + 1 == pieces,
            });
        }
        self.request_wanted(core);
    }

    fn request_wanted(&mut self, core: &mut Core) {
        let wanted = std::mem::replace(&mut self.wanted, PageSet::empty(self.offer.pages));
        for (first, count) in wanted.runs() {
            self.fault(PageRun { first, count }, core);
        }
    }

    fn lost(self, error: CodedError, core: &mut Core) -> Phase {
        let pages = self.missing.count();
        core.out
            .push(Command::Finish(Outcome::PagesLost { pages, error }));
        Phase::Finished(Finished::Ran {
            offer: self.offer,
            times: self.times,
            complete: false,
        })
    }
}
