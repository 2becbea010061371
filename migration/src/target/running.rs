//! The guest runs here. What is left: its missing pages (MIG-52 to MIG-54), and the commit (MIG-37).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{FromSource, FromTarget, MAX_BITMAP_WORDS, Offer, ResumeTimes};

use super::absent::Absent;
use super::api::{Command, Event, Outcome, Step};
use super::machine::{Core, Finished, Phase};

#[derive(Debug)]
pub(super) struct Running {
    offer: Box<Offer>,
    absent: Absent,
    times: ResumeTimes,
    committed: bool,
    /// Whether the source has been heard on the connection there is: requests can be sent.
    synced: bool,
    deadline: Option<Duration>,
}

impl Running {
    pub(super) fn begin(
        offer: Box<Offer>,
        absent: Absent,
        times: ResumeTimes,
        recovered: bool,
        core: &mut Core,
    ) -> Phase {
        core.out.push(Command::AnnounceNetwork);
        let next = offer.epoch.next();
        let mut running = Self {
            absent,
            offer,
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
        }
        core.out.push(Command::Commit(next));
        Phase::Running(running)
    }

    /// When the pages that are missing are given up; `None` when none is missing.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    pub(super) fn missing_pages(&self) -> u64 {
        self.absent.left()
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Committed => self.committed = true,
            Event::Fault(run) => self.absent.fault(run, self.synced, &mut core.out),
            Event::PagesInstalled(run) => {
                self.absent.installed(run);
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
        let has_all = self.absent.left() == 0 || core.guest_ended;
        if self.committed && has_all {
            core.out.push(Command::MemoryWhole);
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
        let needed = self.absent.left() > 0;
        self.deadline = needed.then(|| core.now + core.limits.recovery_window);
    }

    /// The source is back: it learns that the guest runs and what has arrived.
    fn recover(&mut self, core: &mut Core) {
        self.synced = true;
        self.expect_source(core);
        core.send(FromTarget::Resumed(self.times));
        if self.absent.left() == 0 {
            return;
        }
        let missing = self.absent.missing();
        let words: Vec<u64> = (0..missing.capacity().div_ceil(64))
            .map(|word| {
                let pages = word * 64..(word * 64 + 64).min(missing.capacity());
                pages.fold(0, |bits, page| {
                    bits | u64::from(!missing.contains(page)) << (page % 64)
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
        self.absent.ask_again(&mut core.out);
    }

    fn lost(self, error: CodedError, core: &mut Core) -> Phase {
        let pages = self.absent.left();
        core.out
            .push(Command::Finish(Outcome::PagesLost { pages, error }));
        Phase::Finished(Finished::Ran {
            offer: self.offer,
            times: self.times,
            complete: false,
        })
    }
}
