//! Migrations that nothing disturbs.

use std::time::Duration;

use godwit_proto::migrate::Mode;

use super::Setup;
use super::world::World;
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
    setup.bandwidth = 1 << 20;
    let world = setup.run();
    assert!(matches!(world.outcome, Some(Outcome::StayedAtSource(_))));
    assert!(world.source_runs && !world.relinquished);
    world.guest.check(&world.source_memory);
    assert!(world.finished_at.unwrap() <= Duration::from_secs(31));
}
