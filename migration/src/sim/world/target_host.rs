//! What the target's driver does.

use std::time::Duration;

use godwit_proto::id::Epoch;
use godwit_proto::migrate::{Accept, FromTarget, Mode, PageRun};

use super::{CLOCK_PAGE, Happening, World, digest, injected};
use crate::sim::guest::{Memory, PAGES};
use crate::target::{self, Target};

impl World {
    pub(super) fn target_commands(&mut self, commands: Vec<target::Command>) {
        use target::Command as C;
        for command in commands {
            let (name, step) = target_name(&command);
            let fails = self.step(name, false);
            let Some(fails) = fails else { return };
            if let (true, Some(step)) = (fails, step) {
                let done = self.local(1, 50);
                let error = injected();
                self.at(
                    done,
                    Happening::Target(target::Event::Failed { step, error }),
                );
                continue;
            }
            match command {
                C::SendControl(message) => {
                    if self.link_up {
                        let bytes = message.to_frame(1).expect("messages fit").len() as u64;
                        let at = self.control_arrival(1, bytes);
                        self.at(at, Happening::ToSource(self.connection, message));
                    }
                }
                C::RequestPages(run) => {
                    if self.link_up {
                        let at = self.now + self.setup.delay;
                        let message = FromTarget::PageRequest(run);
                        self.at(at, Happening::ToSource(self.connection, message));
                    }
                }
                C::AnnounceNetwork | C::MemoryWhole => {}
                C::CancelTooLate => self.cancel_was_late = true,
                C::Discard => {
                    assert!(!self.target_runs, "a running guest is destroyed");
                    self.target_memory = Memory::new(vec![0; PAGES as usize]);
                }
                C::Commit(epoch) => {
                    assert_eq!(epoch, Epoch::new(5));
                    let at = self.now + Duration::from_millis(20);
                    self.at(at, Happening::Target(target::Event::Committed));
                }
                C::Finish(outcome) => self.target_outcome = Some(outcome),
                local => {
                    let micros = if matches!(local, C::Prepare(_)) {
                        5000
                    } else {
                        200
                    };
                    let done = self.local(1, micros);
                    self.at(done, Happening::TargetDid(local));
                }
            }
        }
    }

    pub(super) fn target_did(&mut self, command: target::Command) {
        use target::Command as C;
        if self.target.is_none() {
            return;
        }
        let event = match command {
            C::Prepare(offer) => {
                assert_eq!(offer.pages, PAGES);
                match self.setup.reasons {
                    0 => target::Event::Prepared(Accept {
                        post_copy: self.setup.post_copy,
                        ..Accept::default()
                    }),
                    reasons => target::Event::Refused(vec![injected(); reasons]),
                }
            }
            C::GiveUp(pages) => {
                for (first, count) in pages.runs() {
                    self.target_memory.pages[first as usize..(first + count) as usize].fill(7);
                }
                target::Event::GivenUp
            }
            C::CheckDigests(runs) => {
                if self.setup.corrupt {
                    self.target_memory.pages[77] ^= 1 << 63;
                }
                let wrong = runs
                    .iter()
                    .filter(|run| digest(&self.target_memory, run.run) != run.digest);
                target::Event::DigestsChecked {
                    wrong: wrong.count() as u64,
                }
            }
            C::RegisterMissing(pages) => {
                self.target_memory.missing = pages;
                target::Event::MissingRegistered
            }
            C::RestoreState(state) => {
                assert_eq!(state, b"state");
                // As vCPUs do, for their clocks.
                if self.target_memory.missing.contains(CLOCK_PAGE) {
                    self.restoring = true;
                    let run = PageRun {
                        first: CLOCK_PAGE,
                        count: 4,
                    };
                    return self.target_event(target::Event::Fault(run));
                }
                if self.setup.mode == Mode::Local {
                    self.target_memory
                        .pages
                        .clone_from(&self.source_memory.pages);
                }
                target::Event::Restored
            }
            C::ResumeGuest(epoch) => {
                assert_eq!(epoch, Epoch::new(5));
                assert!(self.relinquished, "the target starts what nobody gave up");
                self.guest.check(&self.target_memory);
                self.target_runs = true;
                target::Event::Resumed
            }
            other => unreachable!("{other:?}"),
        };
        self.target_event(event);
    }

    pub(super) fn apply_batch(&mut self, round: u32, stream: u16, pages: &[(u64, u64)]) {
        if self.target.as_ref().is_none_or(Target::is_finished) {
            return;
        }
        let fails = self.step("apply batch", false);
        let event = match fails {
            None => return,
            Some(true) => target::Event::Failed {
                step: target::Step::ApplyBatch,
                error: injected(),
            },
            Some(false) => {
                for &(page, value) in pages {
                    self.target_memory.pages[page as usize] = value;
                }
                target::Event::BatchApplied {
                    round,
                    stream,
                    pages: pages.len() as u64,
                }
            }
        };
        self.target_event(event);
    }

    pub(super) fn install(&mut self, pages: &[(u64, u64)], run: PageRun) {
        for &(page, value) in pages {
            if self.target_memory.missing.contains(page) {
                self.target_memory.missing.remove_run(page, 1);
                self.target_memory.pages[page as usize] = value;
            }
        }
        if let Some((_, since)) = self
            .blocked
            .take_if(|(p, _)| !self.target_memory.missing.contains(*p))
        {
            self.longest_fault = self.longest_fault.max(self.now - since);
        }
        self.target_event(target::Event::PagesInstalled(run));
        if self.restoring && !self.target_memory.missing.contains(CLOCK_PAGE) {
            self.restoring = false;
            self.target_event(target::Event::Restored);
        }
    }
}

fn target_name(command: &target::Command) -> (&'static str, Option<target::Step>) {
    use target::{Command as C, Step as S};
    match command {
        C::Prepare(_) => ("prepare", Some(S::Prepare)),
        C::SendControl(_) => ("answer", None),
        C::RequestPages(_) => ("request pages", None),
        C::GiveUp(_) => ("give up", Some(S::GiveUp)),
        C::CheckDigests(_) => ("check digests", Some(S::CheckDigests)),
        C::RegisterMissing(_) => ("register missing", Some(S::RegisterMissing)),
        C::RestoreState(_) => ("restore state", Some(S::RestoreState)),
        C::ResumeGuest(_) => ("resume guest at target", Some(S::ResumeGuest)),
        C::AnnounceNetwork => ("announce network", None),
        C::Commit(_) => ("commit", None),
        C::MemoryWhole => ("memory whole", None),
        C::Discard => ("discard", None),
        C::CancelTooLate => ("cancel too late", None),
        C::Finish(_) => ("finish", None),
    }
}
