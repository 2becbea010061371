//! Migrations that nothing disturbs.

use std::time::Duration;

use godwit_proto::codes::ErrorCode;
use godwit_proto::migrate::Mode;

use super::world::World;
use super::{FaultKind, Setup};
use crate::options::TimeoutAction;
use crate::report::Outcome;
use crate::target;

fn assert_moved(world: &World) {
    assert_eq!(world.outcome, Some(Outcome::Completed), "{:?}", world.setup);
    assert_eq!(world.target_outcome, Some(target::Outcome::Completed));
    assert!(world.target_runs && !world.source_runs && world.relinquished);
    assert!(world.target_memory.missing.is_empty());
    world.guest.check(&world.target_memory);
}

#[test]
fn a_guest_is_moved_in_every_mode_with_every_page_right() {
    for mode in [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid, Mode::Local] {
        for seed in 0..40 {
            let mut setup = Setup::new(mode, seed);
            setup.compare_memory = seed % 2 == 0;
            let world = setup.run();
            assert_moved(&world);
            assert!(
                world.guest.writes > 20,
                "the guest did something: {setup:?}"
            );
        }
    }
}

#[test]
fn the_receipt_accounts_for_the_blackout_and_the_rounds() {
    let world = Setup::new(Mode::PreCopy, 1).run();
    let receipt = world.source.as_ref().unwrap().receipt();
    let blackout = receipt.blackout.unwrap();
    let parts =
        blackout.pause + blackout.last_pages + blackout.state + blackout.wire + blackout.resume;
    assert_eq!(parts, blackout.total);
    assert!(blackout.total < Duration::from_millis(20), "{blackout:?}");
    assert_eq!(receipt.rounds.len() as u32, receipt.rounds_total);
    assert!(receipt.rounds_total >= 2);
    let by_round: u64 = receipt.rounds.iter().map(|round| round.bytes.total()).sum();
    assert_eq!(by_round, receipt.bytes.total());
    let json = serde_json::to_value(&receipt).unwrap();
    assert_eq!(json["outcome"]["result"], "completed");
    assert!(json["blackout"]["total_ms"].as_f64().unwrap() > 0.0);
    let table = receipt.to_string();
    assert!(table.contains("outcome    completed"), "{table}");
    assert!(table.contains("blackout"), "{table}");
}

#[test]
fn hybrid_falls_to_post_copy_when_the_guest_writes_faster_than_the_link() {
    for seed in 0..20 {
        let mut setup = Setup::new(Mode::Hybrid, seed);
        setup.write_rate = 100_000;
        let world = setup.run();
        assert_moved(&world);
        let receipt = world.source.as_ref().unwrap().receipt();
        assert!(receipt.requested_pages > 0, "{receipt}");
        let blackout = receipt.blackout.unwrap().total;
        assert!(blackout < Duration::from_millis(20), "{receipt}");
        let round_trip = world.setup.delay * 2;
        assert!(
            world.longest_fault < round_trip * 3,
            "bulk delays faults: {:?}",
            world.longest_fault
        );
    }
}

#[test]
fn hybrid_throttles_when_the_target_cannot_do_post_copy() {
    let mut setup = Setup::new(Mode::Hybrid, 3);
    setup.write_rate = 100_000;
    setup.post_copy = false;
    let world = setup.run();
    assert_moved(&world);
    let receipt = world.source.as_ref().unwrap().receipt();
    assert!(receipt.throttle_max_percent >= 20, "{receipt}");
    assert_eq!(receipt.requested_pages, 0);
}

#[test]
fn who_insists_on_post_copy_is_refused_by_a_target_that_cannot() {
    let mut by_mode = Setup::new(Mode::PostCopy, 3);
    let mut by_action = Setup::new(Mode::PreCopy, 3);
    by_action.timeout_action = TimeoutAction::PostCopy;
    for setup in [&mut by_mode, &mut by_action] {
        setup.post_copy = false;
        let world = setup.run();
        let Some(Outcome::StayedAtSource(error)) = &world.outcome else {
            panic!("{:?}", world.outcome);
        };
        assert_eq!(error.code(), ErrorCode::Refused);
        assert!(world.source_runs && !world.relinquished);
        assert!(!world.trace.contains(&"pause guest"));
    }
}

#[test]
fn pre_copy_throttles_a_guest_that_writes_faster_than_the_link() {
    let mut setup = Setup::new(Mode::PreCopy, 3);
    setup.write_rate = 100_000;
    let world = setup.run();
    assert_moved(&world);
    let receipt = world.source.as_ref().unwrap().receipt();
    assert!(receipt.throttle_max_percent >= 20, "{receipt}");
}

#[test]
fn what_cannot_be_copied_in_time_stays_and_runs_unthrottled() {
    let mut setup = Setup::new(Mode::PreCopy, 4);
    setup.write_rate = 100_000;
    setup.bandwidth = 10 << 20;
    setup.timeout = Duration::from_secs(4);
    let world = setup.run();
    assert!(matches!(world.outcome, Some(Outcome::StayedAtSource(_))));
    assert!(world.trace.contains(&"set throttle"));
    assert!(world.source_runs && !world.relinquished);
    world.guest.check(&world.source_memory);
    assert!(world.finished_at.unwrap() <= Duration::from_secs(5));
    assert_eq!(world.throttle, 0);
}

#[test]
fn when_the_time_is_up_memory_follows_the_guest_if_the_user_wants_it() {
    let mut setup = Setup::new(Mode::PreCopy, 5);
    setup.write_rate = 100_000;
    setup.bandwidth = 10 << 20;
    setup.timeout = Duration::from_secs(2);
    setup.timeout_action = TimeoutAction::PostCopy;
    let world = setup.run();
    assert_moved(&world);
    assert!(world.source.as_ref().unwrap().receipt().requested_pages > 0);
}

#[test]
fn when_the_time_is_up_the_guest_is_paused_for_as_long_as_it_takes_if_the_user_wants_it() {
    let mut setup = Setup::new(Mode::PreCopy, 6);
    setup.write_rate = 100_000;
    setup.bandwidth = 10 << 20;
    setup.timeout = Duration::from_secs(2);
    setup.timeout_action = TimeoutAction::Pause;
    let world = setup.run();
    assert_moved(&world);
    let blackout = world.source.as_ref().unwrap().receipt().blackout.unwrap();
    assert!(blackout.total > Duration::from_millis(20), "{blackout:?}");
    assert!(blackout.last_pages > blackout.total / 2, "{blackout:?}");
}

#[test]
fn a_refusal_tells_every_reason_and_the_guest_never_notices() {
    let mut setup = Setup::new(Mode::Hybrid, 7);
    setup.reasons = 3;
    let world = setup.run();
    assert!(matches!(&world.outcome, Some(Outcome::Refused(reasons)) if reasons.len() == 3));
    assert!(world.source_runs && !world.trace.contains(&"pause guest"));
    assert!(world.trace.contains(&"discard"));
}

#[test]
fn a_wrong_page_is_found_before_the_relinquish_and_the_guest_stays() {
    for mode in [Mode::PreCopy, Mode::Hybrid] {
        let mut setup = Setup::new(mode, 8);
        setup.compare_memory = true;
        setup.corrupt = true;
        let world = setup.run();
        let Some(Outcome::StayedAtSource(error)) = &world.outcome else {
            panic!("{:?}", world.outcome);
        };
        assert_eq!(error.code(), godwit_proto::codes::ErrorCode::MemoryDiffers);
        assert!(world.source_runs && !world.relinquished);
    }
}

#[test]
fn a_relinquish_that_is_cut_off_arrives_over_the_next_connection() {
    let setup = Setup::new(Mode::PreCopy, 9);
    let trace = setup.run().trace;
    let relinquish = trace.iter().position(|&step| step == "relinquish").unwrap();
    let world = setup.with_fault(relinquish, FaultKind::Cut).run();
    assert_moved(&world);
    let receipt = world.source.as_ref().unwrap().receipt();
    assert_eq!(receipt.recoveries, 1);
    let world = setup.with_fault(relinquish, FaultKind::CutForGood).run();
    assert!(matches!(world.outcome, Some(Outcome::Unconfirmed(_))));
    assert!(matches!(
        world.target_outcome,
        Some(target::Outcome::NeverRan(_))
    ));
    assert!(!world.source_runs && !world.target_runs, "lost and said so");
}

#[test]
fn a_target_that_cannot_start_the_guest_says_that_it_never_ran() {
    let setup = Setup::new(Mode::PreCopy, 10);
    let trace = setup.run().trace;
    let start = trace
        .iter()
        .position(|&step| step == "resume guest at target")
        .unwrap();
    let world = setup.with_fault(start, FaultKind::Error).run();
    assert!(matches!(world.outcome, Some(Outcome::NeverStarted(_))));
    assert!(matches!(
        world.target_outcome,
        Some(target::Outcome::NeverRan(_))
    ));
    world.guest.check(&world.source_memory);
}

#[test]
fn an_undisturbed_move_takes_these_steps() {
    let world = Setup::new(Mode::PreCopy, 1).run();
    let mut steps: Vec<_> = world.trace.clone();
    steps.retain(|step| !step.ends_with("batch"));
    steps.dedup();
    let switch = steps
        .iter()
        .position(|&step| step == "open window")
        .unwrap();
    assert_eq!(
        steps[..5],
        ["send", "prepare", "answer", "start dirty log", "send"]
    );
    let after: Vec<_> = steps[switch..].to_vec();
    let paused = after
        .iter()
        .position(|&step| step == "pause guest")
        .unwrap();
    assert_eq!(
        after[paused..],
        [
            "pause guest",
            "collect dirty",
            "save state",
            "send",
            "send round",
            "send",
            "restore state",
            "answer",
            "relinquish",
            "send",
            "stop dirty log",
            "resume guest at target",
            "announce network",
            "answer",
            "commit",
            "memory whole",
            "answer",
            "finish",
            "free memory",
            "finish",
        ]
    );
}
