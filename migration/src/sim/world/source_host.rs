//! What the source's driver does.

use std::time::Duration;

use godwit_proto::id::Epoch;
use godwit_proto::migrate::{PageRun, RunDigest};

use super::{BATCH_PAGES, Happening, STREAMS, World, digest, injected};
use crate::PageSet;
use crate::report::BytesByKind;
use crate::sim::guest::{Memory, PAGES};
use crate::source::{self, RoundKind, RoundSent};

pub(super) struct Sending {
    token: u32,
    round: u32,
    runs: Vec<PageRun>,
    sent: RoundSent,
}

impl World {
    pub(super) fn source_commands(&mut self, commands: Vec<source::Command>) {
        use source::Command as C;
        for command in commands {
            let (name, step) = source_name(&command);
            let fails = self.step(name, true);
            let Some(fails) = fails else { return };
            if let (true, Some(step)) = (fails, step) {
                let done = self.local(0, 50);
                let error = injected();
                self.at(
                    done,
                    Happening::Source(source::Event::Failed { step, error }),
                );
                continue;
            }
            match command {
                C::SendControl(message) => {
                    if self.link_up {
                        let bytes = message.to_frame(1).expect("messages fit").len() as u64;
                        let at = self.control_arrival(0, bytes);
                        self.at(at, Happening::ToTarget(self.connection, message));
                    }
                }
                C::SendRound { round, pages, kind } => self.send_round(round, &pages, kind),
                C::StopSending => self.sending = None,
                C::SetThrottle(percent) => self.throttle = percent.into(),
                C::Relinquish(epoch) => {
                    assert_eq!(epoch, Epoch::new(4));
                    assert!(!self.source_runs, "given up while running");
                    self.relinquished = true;
                }
                C::SendPages { run, requested } => self.send_pages(run, requested),
                C::Redial => self.redial(),
                C::FreeMemory => {
                    self.source_memory.pages.fill(u64::MAX);
                }
                C::CancelTooLate => self.cancel_was_late = true,
                C::CloseWindow => {}
                C::StopDirtyLog => {
                    self.log_over = true;
                    self.source_memory.stop_log();
                }
                C::Finish(outcome) => {
                    self.outcome = Some(outcome);
                    self.finished_at = Some(self.now);
                }
                C::OpenWindow => {
                    let at = self.now + Duration::from_millis(2 + self.random.below(20));
                    self.at(at, Happening::Source(source::Event::WindowOpened));
                }
                local => {
                    let done = self.local(0, 100);
                    self.at(done, Happening::SourceDid(local));
                }
            }
        }
    }

    pub(super) fn source_did(&mut self, command: source::Command) {
        use source::Command as C;
        if self.source.is_none() {
            return;
        }
        let event = match command {
            C::StartDirtyLog => {
                // As the driver has it: what is stopped before it started does not start.
                if !self.log_over {
                    self.source_memory.start_log();
                }
                source::Event::DirtyLogStarted
            }
            C::CollectDirty => source::Event::Dirty(self.source_memory.collect()),
            C::PauseGuest => {
                self.source_runs = false;
                source::Event::Paused
            }
            C::SaveState => source::Event::Saved(b"state".to_vec()),
            C::ResumeGuest => {
                assert!(
                    !self.relinquished,
                    "the source resumes what it gave up: {:?}",
                    self.setup
                );
                self.source_runs = true;
                source::Event::Resumed
            }
            C::DigestMemory(pages) => source::Event::Digests(digests(&self.source_memory, &pages)),
            other => unreachable!("{other:?}"),
        };
        self.source_event(event);
    }

    pub(super) fn send_round(&mut self, round: u32, pages: &PageSet, kind: RoundKind) {
        assert_eq!(
            kind == RoundKind::Last,
            !self.source_runs,
            "the last round is that of a paused guest"
        );
        match kind {
            RoundKind::Copy => self.source_memory.arm(pages),
            RoundKind::FirstSample => self.source_memory.arm(&PageSet::full(PAGES)),
            RoundKind::Last | RoundKind::Sample => {}
        }
        let mut runs = Vec::new();
        for (first, count) in pages.runs() {
            for piece in (0..count).step_by(BATCH_PAGES as usize) {
                runs.push(PageRun {
                    first: first + piece,
                    count: BATCH_PAGES.min(count - piece),
                });
            }
        }
        runs.reverse();
        self.tokens += 1;
        let token = self.tokens;
        self.sending = Some(Sending {
            token,
            round,
            runs,
            sent: RoundSent {
                round,
                batches: vec![0; STREAMS.into()],
                ..RoundSent::default()
            },
        });
        self.at(self.now, Happening::NextBatch(token));
    }

    /// Reads when the link can take it, so that the guest writes between batches.
    pub(super) fn next_batch(&mut self, token: u32) {
        let Some(mut sending) = self.sending.take_if(|s| s.token == token) else {
            return;
        };
        if self.source.is_none() {
            return;
        }
        if !self.link_up {
            // Back-pressure: nothing moves until the cut is noticed.
            return;
        }
        let Some(run) = sending.runs.pop() else {
            self.source_event(source::Event::RoundSent(sending.sent));
            return;
        };
        let fails = self.step("send batch", true);
        match fails {
            None => return,
            Some(true) => {
                let step = source::Step::SendRound;
                let error = injected();
                self.source_event(source::Event::Failed { step, error });
                return;
            }
            Some(false) => {}
        }
        let stream = self.random.below(STREAMS.into()) as u16;
        let pages = self.read(run);
        let arrival = self.bulk_arrival(Some(stream), run.count);
        sending.sent.batches[usize::from(stream)] += 1;
        sending.sent.pages += run.count;
        sending.sent.content_pages += run.count;
        sending.sent.bytes.raw += run.count * 4096;
        if self.link_up {
            self.at(
                arrival,
                Happening::Batch {
                    connection: self.connection,
                    round: sending.round,
                    stream,
                    pages,
                },
            );
        }
        self.sending = Some(sending);
        self.at(self.bulk_free, Happening::NextBatch(token));
    }

    pub(super) fn read(&self, run: PageRun) -> Vec<(u64, u64)> {
        (run.first..run.first + run.count)
            .map(|page| (page, self.source_memory.pages[page as usize]))
            .collect()
    }

    pub(super) fn send_pages(&mut self, run: PageRun, requested: bool) {
        let pages = self.read(run);
        let (sent, arrival) = if requested {
            let wire = run.count * 4096 * 1_000_000_000 / self.setup.bandwidth;
            let sent = self.now + Duration::from_nanos(wire);
            (sent, sent + self.setup.delay)
        } else {
            let arrival = self.bulk_arrival(None, run.count);
            (self.bulk_free, arrival)
        };
        if self.link_up {
            let connection = self.connection;
            self.at(
                arrival,
                Happening::Pages {
                    connection,
                    pages,
                    run,
                },
            );
            let bytes = BytesByKind {
                raw: run.count * 4096,
                ..BytesByKind::default()
            };
            self.at(
                sent,
                Happening::Source(source::Event::PagesSent { run, bytes }),
            );
        }
    }
}

fn digests(memory: &Memory, pages: &PageSet) -> Vec<RunDigest> {
    let runs = pages.runs().map(|(first, count)| PageRun { first, count });
    runs.map(|run| RunDigest {
        run,
        digest: digest(memory, run),
    })
    .collect()
}

fn source_name(command: &source::Command) -> (&'static str, Option<source::Step>) {
    use source::{Command as C, Step as S};
    match command {
        C::SendControl(_) => ("send", None),
        C::StartDirtyLog => ("start dirty log", Some(S::StartDirtyLog)),
        C::CollectDirty => ("collect dirty", Some(S::CollectDirty)),
        C::SendRound { .. } => ("send round", Some(S::SendRound)),
        C::StopSending => ("stop sending", None),
        C::SetThrottle(_) => ("set throttle", Some(S::SetThrottle)),
        C::OpenWindow => ("open window", Some(S::OpenWindow)),
        C::CloseWindow => ("close window", None),
        C::PauseGuest => ("pause guest", Some(S::PauseGuest)),
        C::SaveState => ("save state", Some(S::SaveState)),
        C::DigestMemory(_) => ("digest memory", Some(S::DigestMemory)),
        C::ResumeGuest => ("resume guest at source", Some(S::ResumeGuest)),
        C::StopDirtyLog => ("stop dirty log", None),
        C::Relinquish(_) => ("relinquish", None),
        C::SendPages { .. } => ("send pages", Some(S::SendPages)),
        C::Redial => ("redial", None),
        C::FreeMemory => ("free memory", None),
        C::CancelTooLate => ("cancel too late", None),
        C::Finish(_) => ("finish", None),
    }
}
