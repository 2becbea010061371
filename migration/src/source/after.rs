//! The guest has been given up. What is left: pages that the target lacks, and to learn how it went.
//! There is no way back (MIG-30); the link is redialled (MIG-50), and what cannot be learnt is reported as
//! unconfirmed (MIG-38).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::{FromSource, FromTarget, MAX_BITMAP_WORDS, PageRun};

use super::api::{Command, Event, Step};
use super::core::{Core, Runs};
use super::machine::Phase;
use super::push::PushPlan;
use crate::PageSet;
use crate::report::{Outcome, Phase as Shown};

/// Pushes under way at once.
const PUSH_WINDOW: usize = 4;
/// What a guest needs first it needs at once, page after page: for so long after it runs nothing else is
/// sent. It costs a move this much time, and the guest waits less than it would behind the pushes.
const FIRST_PAGES: Duration = Duration::from_millis(10);
/// How often the link is redialled in one migration.
const MAX_RECOVERIES: u32 = 100;

#[derive(Debug)]
pub(super) struct After {
    /// `None` when the target has all memory.
    plan: Option<PushPlan>,
    /// Pushes given to the driver and not reported back.
    pushes: Vec<PageRun>,
    push_done: bool,
    pushing: Pushing,
    link: Link,
    /// Moves on with every sign of life.
    deadline: Duration,
}

/// When pages are pushed that nobody asked for.
#[derive(Clone, Copy, Debug)]
enum Pushing {
    OnceItRuns,
    From(Duration),
    Now,
}

#[derive(Debug)]
enum Link {
    Up,
    Redialling,
    /// Connected again; in post-copy the target tells what it has.
    Syncing {
        received: PageSet,
        next: u64,
    },
}

impl After {
    /// The point of no return.
    pub(super) fn relinquish(plan: Option<PushPlan>, core: &mut Core) -> Phase {
        assert_eq!(core.runs, Runs::No, "only a paused guest is given up");
        assert!(!core.relinquished, "a guest is given up once");
        core.relinquished = true;
        core.out.push(Command::Relinquish(core.offer.epoch));
        let epoch = core.offer.epoch;
        core.send(FromSource::Relinquish { epoch });
        if core.dirty_log {
            core.out.push(Command::StopDirtyLog);
            core.dirty_log = false;
        }
        core.shown(
            if plan.is_some() {
                Shown::PostCopy
            } else {
                Shown::HandedOver
            },
            core.now,
        );
        Phase::After(Self {
            plan,
            pushes: Vec::new(),
            push_done: false,
            pushing: Pushing::OnceItRuns,
            link: Link::Up,
            deadline: core.now + core.options.recovery_window,
        })
    }

    /// When silence has lasted too long, or pushing begins.
    pub(super) fn deadline(&self) -> Duration {
        match self.pushing {
            Pushing::From(begin) => begin.min(self.deadline),
            _ => self.deadline,
        }
    }

    /// Pages not sent yet.
    pub(super) fn remaining(&self) -> u64 {
        self.plan.as_ref().map_or(0, PushPlan::unsent)
    }

    pub(super) fn handle(mut self, event: Event, core: &mut Core) -> Phase {
        match event {
            Event::Control(message) => {
                if matches!(self.link, Link::Redialling) {
                    // Left over from the connection that is gone.
                    return Phase::After(self);
                }
                self.deadline = core.now + core.options.recovery_window;
                return self.control(message, core);
            }
            Event::CommitSeen => return Self::completed(core),
            Event::PagesSent { run, bytes } => {
                core.add_bytes(&bytes);
                if let Some(at) = self.pushes.iter().position(|&push| push == run) {
                    self.pushes.swap_remove(at);
                }
                self.push(core);
            }
            Event::LinkLost
            | Event::Failed {
                step: Step::SendPages,
                ..
            } => return self.redial(core),
            Event::LinkRestored if matches!(self.link, Link::Redialling) => {
                let epoch = core.offer.epoch;
                let migration = core.offer.migration;
                core.send(FromSource::Recover { migration, epoch });
                let received = PageSet::empty(core.offer.pages);
                self.link = Link::Syncing { received, next: 0 };
                self.deadline = core.now + core.options.recovery_window;
            }
            Event::Cancel => core.out.push(Command::CancelTooLate),
            Event::Tick if matches!(self.pushing, Pushing::From(begin) if core.now >= begin) => {
                self.pushing = Pushing::Now;
                self.push(core);
            }
            Event::Tick if core.now >= self.deadline => {
                let error = "the target took the guest over and cannot be reached any more";
                let error = CodedError::new(ErrorCode::Unconfirmed, error).with_fix(
                    "see at the target whether the guest runs before starting it anywhere",
                );
                return core.finish(Outcome::Unconfirmed(error));
            }
            _ => {}
        }
        Phase::After(self)
    }

    fn control(mut self, message: FromTarget, core: &mut Core) -> Phase {
        match message {
            FromTarget::Resumed(times) => {
                if core.times.resumed.is_none() {
                    core.times.resumed = Some((core.now, times));
                }
                if let Pushing::OnceItRuns = self.pushing {
                    self.pushing = Pushing::From(core.now + FIRST_PAGES);
                }
                if self.plan.is_none() && matches!(self.link, Link::Syncing { .. }) {
                    self.link = Link::Up;
                    core.shown(Shown::HandedOver, core.now);
                }
            }
            FromTarget::Complete => return Self::completed(core),
            // One that said before that the guest runs is not believed.
            FromTarget::NotStarted { epoch, error }
                if epoch == core.offer.epoch && core.times.resumed.is_none() =>
            {
                // It goes on here, with all its time.
                core.set_throttle(0);
                let never = CodedError::from_error(ErrorCode::NeverStarted, &error);
                return core.finish(Outcome::NeverStarted(never));
            }
            FromTarget::PageRequest(run) => {
                let plan = self.plan.as_mut();
                if let Some(run) = plan.and_then(|plan| plan.request(run)) {
                    core.send_requested(run);
                }
            }
            FromTarget::Received { first, words, last } => {
                return self.received(first, &words, last, core);
            }
            // A peer that is confused now still has the guest: it is left to its own devices.
            _ => {}
        }
        Phase::After(self)
    }

    /// A piece of what the target has, in order.
    fn received(mut self, first: u64, words: &[u64], last: bool, core: &mut Core) -> Phase {
        let Link::Syncing { received, next } = &mut self.link else {
            return Phase::After(self);
        };
        if first != *next || words.len() > MAX_BITMAP_WORDS || (words.is_empty() && !last) {
            return self.redial(core);
        }
        for (index, word) in words.iter().enumerate() {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                received.insert(first.saturating_add(index as u64 * 64 + bit));
            }
        }
        *next = first.saturating_add(words.len() as u64 * 64);
        if last && let Some(plan) = &mut self.plan {
            plan.resume(received);
            self.pushing = Pushing::Now;
            self.link = Link::Up;
            core.shown(Shown::PostCopy, core.now);
            self.push(core);
        }
        Phase::After(self)
    }

    /// Keeps pushes under way.
    fn push(&mut self, core: &mut Core) {
        let (Some(plan), Link::Up, Pushing::Now) = (&mut self.plan, &self.link, self.pushing)
        else {
            return;
        };
        while self.pushes.len() < PUSH_WINDOW
            && let Some(run) = plan.next_push()
        {
            self.pushes.push(run);
            core.out.push(Command::SendPages {
                run,
                requested: false,
            });
        }
        if self.pushes.is_empty() && !self.push_done {
            self.push_done = true;
            core.send(FromSource::PushDone);
        }
    }

    fn redial(mut self, core: &mut Core) -> Phase {
        if matches!(self.link, Link::Redialling) {
            return Phase::After(self);
        }
        core.recoveries += 1;
        if core.recoveries > MAX_RECOVERIES {
            let error = "the link to the target was lost too often";
            let error = CodedError::new(ErrorCode::Unconfirmed, error);
            return core.finish(Outcome::Unconfirmed(error));
        }
        self.link = Link::Redialling;
        self.pushes.clear();
        self.push_done = false;
        self.deadline = core.now + core.options.recovery_window;
        core.shown(Shown::Recovering, core.now);
        core.out.push(Command::Redial);
        Phase::After(self)
    }

    fn completed(core: &mut Core) -> Phase {
        core.out.push(Command::FreeMemory);
        core.finish(Outcome::Completed)
    }
}

#[cfg(test)]
mod tests {
    use godwit_proto::migrate::{Mode, ResumeTimes};

    use super::*;
    use crate::options::Options;
    use crate::report::BytesByKind;
    use crate::sim::orders::offer;
    use crate::source::Request;

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A source that has just given the guest up; all memory follows.
    fn relinquished() -> (Core, Phase) {
        let offer = offer(Mode::PostCopy, false);
        let missing = PageSet::full(offer.pages);
        let mut core = Core::new(offer, Options::default(), Request::default(), ms(0));
        core.runs = Runs::No;
        let phase = After::relinquish(Some(PushPlan::new(missing)), &mut core);
        (core, phase)
    }

    fn handle(phase: Phase, core: &mut Core, now: Duration, event: Event) -> (Phase, Vec<bool>) {
        let Phase::After(after) = phase else {
            panic!("{phase:?}");
        };
        core.now = now;
        core.out.clear();
        let phase = after.handle(event, core);
        let requested = core.out.iter().filter_map(|command| match command {
            Command::SendPages { requested, .. } => Some(*requested),
            _ => None,
        });
        let requested = requested.collect();
        (phase, requested)
    }

    #[test]
    fn what_the_guest_needs_first_is_alone_on_the_link() {
        let (mut core, phase) = relinquished();
        let runs = Event::Control(FromTarget::Resumed(ResumeTimes::default()));
        let (phase, sent) = handle(phase, &mut core, ms(1), runs);
        assert!(sent.is_empty());
        let run = PageRun { first: 7, count: 1 };
        let needs = Event::Control(FromTarget::PageRequest(run));
        let (phase, sent) = handle(phase, &mut core, ms(2), needs);
        assert_eq!(sent, [true]);
        let bytes = BytesByKind::default();
        let (phase, sent) = handle(phase, &mut core, ms(3), Event::PagesSent { run, bytes });
        assert!(sent.is_empty());
        let Phase::After(after) = &phase else {
            panic!("{phase:?}");
        };
        assert_eq!(after.deadline(), ms(1) + FIRST_PAGES);
        let (_, sent) = handle(phase, &mut core, ms(1) + FIRST_PAGES, Event::Tick);
        assert_eq!(
            sent,
            [false, false],
            "all that is left, on both sides of page 7"
        );
    }

    #[test]
    fn a_link_that_is_cut_before_the_guest_is_known_to_run_does_not_end_the_pushes() {
        let (mut core, phase) = relinquished();
        let (phase, _) = handle(phase, &mut core, ms(1), Event::LinkLost);
        let (phase, _) = handle(phase, &mut core, ms(2), Event::LinkRestored);
        let runs = Event::Control(FromTarget::Resumed(ResumeTimes::default()));
        let (phase, _) = handle(phase, &mut core, ms(3), runs);
        let nothing = FromTarget::Received {
            first: 0,
            words: vec![0; 4],
            last: true,
        };
        let (_, sent) = handle(phase, &mut core, ms(4), Event::Control(nothing));
        assert_eq!(sent, [false]);
    }
}
