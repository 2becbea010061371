//! Events in any order: nothing panics, and what was given up is not taken back.
//!
//! Purely random events never get far, so answers that a driver or peer would give are kept in a
//! pool, and drawn from it, in any order, among events that fit nothing.

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::{
    Accept, DigestMode, FromSource, FromTarget, Mode, Offer, PageRun, ResumeTimes, RoundTotals,
    RunDigest, SwitchKind,
};
use proptest::prelude::*;

use super::Random;
use crate::PageSet;
use crate::options::Options;
use crate::report::BytesByKind;
use crate::source::{self, RoundSent, Source};
use crate::target::{self, Limits, Target};

const PAGES: u64 = 200;
const EVENTS: usize = 120;

pub(crate) fn offer(mode: Mode, compare: bool) -> Offer {
    Offer {
        migration: MigrationId::from_bytes([1; 16]),
        guest: GuestId::from_bytes([2; 16]),
        name: "any".into(),
        epoch: Epoch::new(4),
        spec: Vec::new(),
        layout: Vec::new(),
        pages: PAGES,
        cpuid: Vec::new(),
        devices: Vec::new(),
        mode,
        digests: if compare {
            DigestMode::Switch
        } else {
            DigestMode::Off
        },
        streams: 2,
        retained: None,
        local: None,
    }
}

fn error() -> CodedError {
    CodedError::new(ErrorCode::Other, "any")
}

impl Random {
    fn run(&mut self) -> PageRun {
        let edge = [0, 1, 63, PAGES - 1, PAGES, u64::MAX];
        PageRun {
            first: edge[self.below(6) as usize],
            count: edge[self.below(6) as usize],
        }
    }

    fn pages(&mut self) -> PageSet {
        let mut set = PageSet::empty(PAGES);
        set.insert_run(self.below(PAGES), self.below(40));
        set
    }

    fn mode(&mut self) -> Mode {
        [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid, Mode::Local][self.below(4) as usize]
    }
}

fn any_from_target(random: &mut Random) -> FromTarget {
    match random.below(13) {
        0 => FromTarget::Accept(Accept {
            retained: random.below(2) == 0,
            post_copy: random.below(4) > 0,
        }),
        1 => FromTarget::Refuse(vec![error(); random.below(3) as usize]),
        11 => FromTarget::GaveUp,
        2 => FromTarget::RoundAck {
            round: random.below(4) as u32,
        },
        3 => FromTarget::Ready,
        4 => FromTarget::Resumed(ResumeTimes::default()),
        5 => FromTarget::NotStarted {
            epoch: Epoch::new(random.below(6)),
            error: error(),
        },
        6 => FromTarget::PageRequest(random.run()),
        7 => FromTarget::Received {
            first: random.run().first,
            words: vec![random.next(); random.below(5) as usize],
            last: random.below(2) == 0,
        },
        8 => FromTarget::Complete,
        9 => FromTarget::Abort(error()),
        10 => FromTarget::Cancel,
        _ => FromTarget::Ping { nonce: 1 },
    }
}

fn any_source_event(random: &mut Random) -> source::Event {
    use source::{Event as E, Step as S};
    let steps = [
        S::StartDirtyLog,
        S::CollectDirty,
        S::SendRound,
        S::OpenWindow,
        S::PauseGuest,
        S::SaveState,
        S::ResumeGuest,
        S::SendPages,
    ];
    match random.below(15) {
        0..4 => E::Control(any_from_target(random)),
        13 => E::Malformed(error()),
        4 => E::Dirty(random.pages()),
        5 => E::Paused,
        6 => E::Saved(Vec::new()),
        7 => E::Resumed,
        8 => E::Failed {
            step: steps[random.below(8) as usize],
            error: error(),
        },
        9 => E::LinkLost,
        10 => E::LinkRestored,
        11 => E::Cancel,
        12 => E::WindowOpened,
        _ => E::Tick,
    }
}

/// What would be heard if all went well.
fn source_answer(command: &source::Command, random: &mut Random) -> Vec<source::Event> {
    use source::{Command as C, Event as E};
    match command {
        C::SendControl(FromSource::Offer(_)) => {
            vec![E::Control(FromTarget::Accept(Accept {
                post_copy: true,
                ..Accept::default()
            }))]
        }
        C::SendControl(FromSource::Stale { last: true, .. }) => {
            vec![E::Control(FromTarget::GaveUp)]
        }
        C::SendControl(FromSource::RoundEnd { round, .. }) => {
            vec![E::Control(FromTarget::RoundAck { round: *round })]
        }
        C::SendControl(FromSource::State { .. }) => vec![E::Control(FromTarget::Ready)],
        C::SendControl(FromSource::Relinquish { .. }) => vec![
            E::Control(FromTarget::Resumed(ResumeTimes::default())),
            E::Control(FromTarget::PageRequest(random.run())),
            E::LinkLost,
        ],
        C::SendControl(FromSource::Recover { .. }) => vec![E::Control(FromTarget::Received {
            first: 0,
            words: vec![random.next(); 4],
            last: true,
        })],
        C::SendControl(FromSource::PushDone) => vec![E::Control(FromTarget::Complete)],
        C::StartDirtyLog => vec![E::DirtyLogStarted],
        C::CollectDirty => vec![E::Dirty(random.pages())],
        C::SendRound { round, pages, .. } => vec![E::RoundSent(RoundSent {
            round: *round,
            batches: vec![1, 1],
            pages: pages.count(),
            content_pages: pages.count(),
            bytes: BytesByKind {
                raw: pages.count() * 4096,
                ..BytesByKind::default()
            },
        })],
        C::OpenWindow => vec![E::WindowOpened],
        C::PauseGuest => vec![E::Paused],
        C::SaveState => vec![E::Saved(vec![1])],
        C::ResumeGuest => vec![E::Resumed],
        C::DigestMemory(_) => vec![E::Digests(Vec::new())],
        C::SendPages { run, .. } => vec![E::PagesSent {
            run: *run,
            bytes: BytesByKind::default(),
        }],
        C::Redial => vec![E::LinkRestored],
        _ => Vec::new(),
    }
}

/// How far a run got.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    point_of_no_return: bool,
    end: bool,
}

fn drive_source(seed: u64) -> Reached {
    let mut random = Random(seed);
    let options = Options {
        mode: random.mode(),
        ..Options::default()
    };
    let offer = offer(options.mode, random.below(2) == 0);
    let mut now = Duration::ZERO;
    let (mut source, mut commands) = Source::start(offer, options, source::Request::default(), now);
    let mut pool = Vec::new();
    let mut reached = Reached::default();
    let mut runs = true;
    let unlikely = 2 + random.below(30);
    for _ in 0..EVENTS {
        for command in &commands {
            assert!(!reached.end, "{command:?} after the end");
            match command {
                source::Command::Relinquish(_) => {
                    assert!(!runs && !reached.point_of_no_return);
                    reached.point_of_no_return = true;
                }
                source::Command::PauseGuest => runs = false,
                source::Command::ResumeGuest => {
                    assert!(!reached.point_of_no_return, "resumed after the relinquish");
                    runs = true;
                }
                source::Command::Finish(outcome) => {
                    reached.end = true;
                    let stuck = matches!(outcome, crate::report::Outcome::SourceStuck(_));
                    assert!(
                        runs || reached.point_of_no_return || stuck,
                        "paused leftover"
                    );
                }
                _ => {}
            }
            pool.extend(source_answer(command, &mut random));
        }
        now += Duration::from_micros(random.below(2_000));
        let event = if pool.is_empty() || random.below(unlikely) == 0 {
            any_source_event(&mut random)
        } else {
            pool.swap_remove(random.below(pool.len() as u64) as usize)
        };
        if matches!(
            event,
            source::Event::Failed {
                step: source::Step::PauseGuest,
                ..
            }
        ) {
            // Only a guest that is being paused fails to; it runs then.
            runs = true;
        }
        commands = source.handle(event, now);
        assert_eq!(
            source.has_relinquished(),
            source.has_relinquished() || reached.point_of_no_return
        );
        let _ = (
            source.progress(),
            source.deadline(),
            source.receipt().to_string(),
        );
    }
    reached
}

fn any_from_source(random: &mut Random) -> FromSource {
    match random.below(13) {
        0 => FromSource::Offer(Box::new(offer(Mode::PreCopy, false))),
        1 => FromSource::RoundBegin {
            round: random.below(3) as u32,
            pages: random.next(),
        },
        2 => FromSource::RoundEnd {
            round: random.below(3) as u32,
            totals: RoundTotals {
                batches: vec![random.below(2); random.below(4) as usize],
                pages: random.below(10),
                bytes: 0,
            },
        },
        3 => FromSource::Switch {
            kind: [
                SwitchKind::LastRound(1),
                SwitchKind::PostCopy,
                SwitchKind::Local,
            ][random.below(3) as usize],
        },
        4 => FromSource::Missing {
            runs: vec![random.run(); random.below(3) as usize],
            last: random.below(2) == 0,
        },
        5 => FromSource::State { bytes: Vec::new() },
        6 => FromSource::Digests {
            runs: vec![
                RunDigest {
                    run: random.run(),
                    digest: 0
                };
                random.below(3) as usize
            ],
            last: random.below(2) == 0,
        },
        7 => FromSource::Relinquish {
            epoch: Epoch::new(random.below(6)),
        },
        8 => FromSource::PushDone,
        9 => FromSource::Recover {
            migration: MigrationId::from_bytes([random.below(2) as u8; 16]),
            epoch: Epoch::new(4),
        },
        11 => FromSource::Stale {
            runs: vec![random.run(); random.below(3) as usize],
            last: random.below(2) == 0,
        },
        10 => FromSource::Abort(error()),
        _ => FromSource::Ping { nonce: 1 },
    }
}

fn any_target_event(random: &mut Random) -> target::Event {
    use target::{Event as E, Step as S};
    let steps = [
        S::Prepare,
        S::ApplyBatch,
        S::CheckDigests,
        S::RegisterMissing,
        S::RestoreState,
        S::InstallPages,
    ];
    match random.below(17) {
        0..4 => E::Control(any_from_source(random)),
        15 => E::Malformed(error()),
        4 => E::BatchApplied {
            round: random.below(3) as u32,
            stream: random.below(4) as u16,
            pages: random.next(),
        },
        5 => E::Fault(random.run()),
        6 => E::PagesInstalled(random.run()),
        7 => E::Restored,
        8 => E::Failed {
            step: steps[random.below(6) as usize],
            error: error(),
        },
        9 => E::LinkLost,
        10 => E::LinkRestored,
        11 => E::Cancel,
        12 => E::Committed,
        13 => E::GuestEnded,
        14 => E::GivenUp,
        _ => E::Tick,
    }
}

/// What a source and a driver would do next if all went well.
fn target_answer(command: &target::Command, mode: Mode, compare: bool) -> Vec<target::Event> {
    use target::{Command as C, Event as E};
    let control = |message| E::Control(message);
    match command {
        C::Prepare(_) => vec![E::Prepared(Accept::default())],
        C::SendControl(FromTarget::Accept(_)) => {
            let kind = match mode {
                Mode::PreCopy | Mode::Hybrid => SwitchKind::LastRound(1),
                Mode::PostCopy => SwitchKind::PostCopy,
                Mode::Local => SwitchKind::Local,
            };
            let mut events = vec![control(FromSource::Switch { kind })];
            if kind == SwitchKind::PostCopy {
                let runs = vec![PageRun { first: 3, count: 9 }];
                events.push(control(FromSource::Missing { runs, last: true }));
            }
            if kind == SwitchKind::LastRound(1) {
                events.push(control(FromSource::RoundBegin { round: 1, pages: 0 }));
                let totals = RoundTotals {
                    batches: vec![0, 0],
                    ..RoundTotals::default()
                };
                events.push(control(FromSource::RoundEnd { round: 1, totals }));
            }
            if compare {
                let runs = Vec::new();
                events.push(control(FromSource::Digests { runs, last: true }));
            }
            events.push(control(FromSource::State { bytes: vec![1] }));
            events
        }
        C::CheckDigests(_) => vec![E::DigestsChecked { wrong: 0 }],
        C::RegisterMissing(_) => vec![E::MissingRegistered],
        C::RestoreState(_) => vec![E::Restored],
        C::SendControl(FromTarget::Ready) => vec![control(FromSource::Relinquish {
            epoch: Epoch::new(4),
        })],
        C::ResumeGuest(_) => vec![
            E::Resumed,
            E::Fault(PageRun { first: 2, count: 4 }),
            E::LinkLost,
        ],
        C::Commit(_) => vec![
            E::Committed,
            E::PagesInstalled(PageRun {
                first: 0,
                count: PAGES,
            }),
        ],
        _ => Vec::new(),
    }
}

fn drive_target(seed: u64) -> Reached {
    let mut random = Random(seed);
    let (mode, compare) = (random.mode(), random.below(2) == 0);
    let mut now = Duration::ZERO;
    let mut target = Target::start(Limits::new(PAGES), now);
    // In order mostly: what a source says comes on one stream.
    let mut pool = vec![target::Event::Control(FromSource::Offer(Box::new(offer(
        mode, compare,
    ))))];
    let mut reached = Reached::default();
    let (mut given_up, mut started) = (false, false);
    let unlikely = 2 + random.below(60);
    for _ in 0..EVENTS {
        let event = if pool.is_empty() || random.below(unlikely) == 0 {
            any_target_event(&mut random)
        } else if random.below(8) == 0 {
            pool.swap_remove(random.below(pool.len() as u64) as usize)
        } else {
            pool.remove(0)
        };
        given_up |= matches!(
            event,
            target::Event::Control(FromSource::Relinquish { .. } | FromSource::Recover { .. })
        );
        now += Duration::from_micros(random.below(2_000));
        for command in target.handle(event, now) {
            match &command {
                target::Command::ResumeGuest(epoch) => {
                    assert!(given_up && !reached.point_of_no_return);
                    assert_eq!(*epoch, Epoch::new(5));
                    reached.point_of_no_return = true;
                }
                target::Command::AnnounceNetwork => started = true,
                target::Command::Discard => assert!(!started, "destroyed what runs"),
                target::Command::SendControl(FromTarget::NotStarted { .. }) => assert!(!started),
                target::Command::Finish(_) => {
                    assert!(!reached.end, "ended twice");
                    reached.end = true;
                }
                other => assert!(
                    !reached.end || matches!(other, target::Command::SendControl(_)),
                    "{other:?} after the end"
                ),
            }
            pool.extend(target_answer(&command, mode, compare));
        }
        let _ = (target.deadline(), target.missing_pages());
    }
    reached
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_order_of_events_makes_the_source_panic_or_take_back_what_it_gave_up(seed in any::<u64>()) {
        drive_source(seed);
    }

    #[test]
    fn no_order_of_events_makes_the_target_panic_or_start_what_nobody_gave_up(seed in any::<u64>()) {
        drive_target(seed);
    }
}

#[test]
fn random_orders_reach_both_ends_often_enough_to_mean_something() {
    for (side, drive) in [
        ("source", drive_source as fn(u64) -> Reached),
        ("target", drive_target),
    ] {
        let runs: Vec<Reached> = (0..1000).map(drive).collect();
        let given_up = runs
            .iter()
            .filter(|reached| reached.point_of_no_return)
            .count();
        let kept = runs
            .iter()
            .filter(|r| r.end && !r.point_of_no_return)
            .count();
        assert!(
            given_up > 50,
            "{side}: {given_up} of 1000 pass the point of no return"
        );
        assert!(kept > 50, "{side}: {kept} of 1000 end before it");
    }
}
