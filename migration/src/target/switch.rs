//! The guest stands still at the source: the last pages and the state come in, are checked, and the
//! state is restored (MIG-19).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{
    DigestMode, FromSource, FromTarget, MAX_DIGESTS, MAX_RUNS, Offer, PageRun, RunDigest,
    SwitchKind,
};

use super::absent::Absent;
use super::api::{Command, Event};
use super::machine::{Core, Phase, Ready, nanoseconds};
use super::round::OpenRound;
use crate::PageSet;

#[derive(Debug)]
pub(super) struct Switching {
    pub(super) offer: Box<Offer>,
    pub(super) deadline: Duration,
    kind: SwitchKind,
    open: OpenRound,
    /// `None` until the last piece.
    missing: Listed<PageSet>,
    digests: Listed<Vec<RunDigest>>,
    state: Option<Vec<u8>>,
    step: Step,
    /// When the last of it came in.
    gathered: Duration,
    /// From the moment on that pages are made to wait.
    absent: Option<Absent>,
    /// Pages that were given up before: they are among the missing ones.
    stale: PageSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Gathering,
    Checking,
    Registering,
    Restoring,
}

/// Something that comes in pieces, rising by page.
#[derive(Debug)]
struct Listed<T> {
    found: T,
    next: u64,
    complete: bool,
}

impl<T> Listed<T> {
    fn new(found: T, complete: bool) -> Self {
        Self {
            found,
            next: 0,
            complete,
        }
    }

    /// Takes a run, if it follows those before and is one of the guest's.
    fn step(&mut self, run: PageRun, pages: u64) -> Result<(), &'static str> {
        let end = run.first.checked_add(run.count).filter(|&end| end <= pages);
        match end {
            Some(end) if run.count > 0 && run.first >= self.next => {
                self.next = end;
                Ok(())
            }
            _ => Err("runs of pages that are out of order or outside the guest"),
        }
    }
}

impl Switching {
    pub(super) fn new(
        offer: Box<Offer>,
        kind: SwitchKind,
        open: OpenRound,
        stale: PageSet,
        core: &Core,
    ) -> Self {
        let none = PageSet::empty(offer.pages);
        let compares = offer.digests == DigestMode::Switch && kind != SwitchKind::Local;
        Self {
            deadline: core.now + core.limits.silence,
            kind,
            open,
            missing: Listed::new(none, kind != SwitchKind::PostCopy),
            digests: Listed::new(Vec::new(), !compares),
            state: None,
            step: Step::Gathering,
            gathered: core.now,
            absent: None,
            stale,
            offer,
        }
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        self.deadline = core.now + core.limits.silence;
        let gathering = self.step == Step::Gathering;
        let done = match event {
            Event::Control(message) if gathering => self.control(message),
            Event::Control(_) => Err("more after its last word before the switch"),
            Event::BatchApplied {
                round,
                stream,
                pages,
            } if gathering => self.open.apply(round, stream, pages),
            Event::BatchApplied { .. } => Err("a batch after the last round"),
            Event::DigestsChecked { wrong } if self.step == Step::Checking => {
                if wrong > 0 {
                    let error = format!("{wrong} runs of pages differ from the source");
                    let error = CodedError::new(ErrorCode::MemoryDiffers, error);
                    return core.never_ran(Some(self.offer), error, true);
                }
                self.register(core);
                return Phase::Switching(self);
            }
            Event::MissingRegistered if self.step == Step::Registering => {
                self.restore(core);
                return Phase::Switching(self);
            }
            Event::Restored if self.step == Step::Restoring => return self.ready(core),
            Event::Fault(run) => {
                if let Some(absent) = &mut self.absent {
                    absent.fault(run, core.link_up, &mut core.out);
                }
                Ok(())
            }
            Event::PagesInstalled(run) => {
                if let Some(absent) = &mut self.absent {
                    absent.installed(run);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(found) = done {
            return core.protocol(Some(self.offer), found);
        }
        if self.step == Step::Gathering {
            match self.is_gathered() {
                Err(found) => return core.protocol(Some(self.offer), found),
                Ok(false) => {}
                Ok(true) => self.check(core),
            }
        }
        Phase::Switching(self)
    }

    fn control(&mut self, message: FromSource) -> Result<(), &'static str> {
        let pages = self.offer.pages;
        let last_round = matches!(self.kind, SwitchKind::LastRound(_));
        match message {
            FromSource::RoundBegin { round, .. } if last_round => self.open.begin(round),
            FromSource::RoundEnd { round, totals } if last_round => self.open.end(round, totals),
            FromSource::Missing { runs, last } if !self.missing.complete => {
                if runs.len() > MAX_RUNS {
                    return Err("too many runs at once");
                }
                for run in runs {
                    self.missing.step(run, pages)?;
                    self.missing.found.insert_run(run.first, run.count);
                }
                self.missing.complete = last;
                Ok(())
            }
            FromSource::Digests { runs, last } if !self.digests.complete => {
                if runs.len() > MAX_DIGESTS {
                    return Err("too many digests at once");
                }
                for digest in &runs {
                    self.digests.step(digest.run, pages)?;
                }
                self.digests.found.extend(runs);
                self.digests.complete = last;
                Ok(())
            }
            FromSource::State { bytes } if self.state.is_none() => {
                self.state = Some(bytes);
                Ok(())
            }
            _ => Err("a message that does not belong into a switch"),
        }
    }

    fn is_gathered(&self) -> Result<bool, &'static str> {
        let pages_here = match self.kind {
            SwitchKind::LastRound(_) => self.open.is_complete()?,
            SwitchKind::PostCopy | SwitchKind::Local => self.missing.complete,
        };
        if self.state.is_some() && !(self.missing.complete && self.digests.complete) {
            return Err("the state before what it goes with");
        }
        if self.missing.complete && !self.missing.found.contains_all(&self.stale) {
            return Err("stale pages that do not follow");
        }
        Ok(pages_here && self.state.is_some())
    }

    fn check(&mut self, core: &mut Core) {
        self.gathered = core.now;
        if self.offer.digests == DigestMode::Switch && self.kind != SwitchKind::Local {
            self.step = Step::Checking;
            let digests = std::mem::take(&mut self.digests.found);
            core.out.push(Command::CheckDigests(digests));
        } else {
            self.register(core);
        }
    }

    fn register(&mut self, core: &mut Core) {
        if self.kind == SwitchKind::PostCopy {
            self.step = Step::Registering;
            let none = PageSet::empty(self.offer.pages);
            let missing = std::mem::replace(&mut self.missing.found, none);
            core.out.push(Command::RegisterMissing(missing.clone()));
            self.absent = Some(Absent::new(missing));
        } else {
            self.restore(core);
        }
    }

    fn restore(&mut self, core: &mut Core) {
        self.step = Step::Restoring;
        let state = self.state.take().expect("gathered with the state");
        core.out.push(Command::RestoreState(state));
    }

    fn ready(self, core: &mut Core) -> Phase {
        core.restore_ns = nanoseconds(core.now - self.gathered);
        core.send(FromTarget::Ready);
        Phase::Ready(Ready {
            offer: self.offer,
            absent: self.absent,
            deadline: core.now + core.limits.recovery_window,
        })
    }
}
