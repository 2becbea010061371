//! What the target does when the link is cut around the start of the guest, command by command: the
//! times at which both meet are too short to be hit by faults between steps.

use std::time::Duration;

use godwit_proto::id::Epoch;
use godwit_proto::migrate::{
    Accept, FromSource, FromTarget, Mode, PageRun, ResumeTimes, SwitchKind,
};

use super::orders::offer;
use crate::target::{Command, Event, Limits, Outcome, Target};

const PAGES: u64 = 200;

/// A target in post-copy that was told to start the guest and has not reported back; pages 64 to 69
/// are missing.
fn starting() -> Target {
    let mut target = Target::start(Limits::new(PAGES), Duration::ZERO);
    let runs = vec![PageRun {
        first: 64,
        count: 6,
    }];
    let kind = SwitchKind::PostCopy;
    let epoch = Epoch::new(4);
    let mut last = Vec::new();
    for event in [
        Event::Control(FromSource::Offer(Box::new(offer(Mode::PostCopy, false)))),
        Event::Prepared(Accept::default()),
        Event::Control(FromSource::Switch { kind }),
        Event::Control(FromSource::Missing { runs, last: true }),
        Event::Control(FromSource::State { bytes: vec![1] }),
        Event::MissingRegistered,
        Event::Restored,
        Event::Control(FromSource::Relinquish { epoch }),
    ] {
        last = target.handle(event, Duration::ZERO);
    }
    assert_eq!(last, [Command::ResumeGuest(Epoch::new(5))]);
    target
}

fn recover() -> Event {
    let offer = offer(Mode::PostCopy, false);
    Event::Control(FromSource::Recover {
        migration: offer.migration,
        epoch: offer.epoch,
    })
}

fn answer_to_recover() -> [Command; 3] {
    [
        Command::SendControl(FromTarget::Resumed(ResumeTimes::default())),
        Command::SendControl(FromTarget::Received {
            first: 0,
            words: vec![u64::MAX, !0b11_1111, u64::MAX, 0xff],
            last: true,
        }),
        Command::RequestPages(PageRun {
            first: 65,
            count: 2,
        }),
    ]
}

#[test]
fn a_source_that_recovers_while_the_guest_starts_is_answered_once_it_runs() {
    let mut target = starting();
    let now = Duration::ZERO;
    assert_eq!(target.handle(Event::LinkLost, now), []);
    assert_eq!(
        target.handle(
            Event::Fault(PageRun {
                first: 65,
                count: 2
            }),
            now
        ),
        []
    );
    let request = answer_to_recover()[2].clone();
    assert_eq!(target.handle(recover(), now), [request]);
    let commands = target.handle(Event::Resumed, now);
    assert_eq!(commands[0], Command::AnnounceNetwork);
    assert_eq!(commands[1..4], answer_to_recover());
    assert_eq!(commands[4..], [Command::Commit(Epoch::new(5))]);
}

#[test]
fn a_fault_during_a_cut_is_requested_when_the_source_is_back() {
    let mut target = starting();
    let now = Duration::ZERO;
    target.handle(Event::Resumed, now);
    assert_eq!(target.handle(Event::LinkLost, now), []);
    assert_eq!(
        target.handle(
            Event::Fault(PageRun {
                first: 65,
                count: 2
            }),
            now
        ),
        []
    );
    assert_eq!(target.handle(Event::LinkRestored, now), []);
    assert_eq!(target.handle(recover(), now), answer_to_recover());
}

#[test]
fn memory_of_a_guest_that_has_ended_is_not_awaited() {
    let mut target = starting();
    let now = Duration::ZERO;
    // It may end before its start is reported.
    assert_eq!(target.handle(Event::GuestEnded, now), []);
    target.handle(Event::Resumed, now);
    assert_eq!(
        target.handle(Event::Committed, now),
        [
            Command::MemoryWhole,
            Command::SendControl(FromTarget::Complete),
            Command::Finish(Outcome::Completed),
        ]
    );
}
