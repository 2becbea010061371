//! Every fault before every step that either driver takes, in every mode: MIG-30 to MIG-38, MIG-50 to
//! MIG-54.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use godwit_proto::migrate::Mode;

use super::world::World;
use super::{FaultKind, Setup};
use crate::report::Outcome;
use crate::target;

/// Batches are many and alike: one in so many is disturbed.
const BATCHES_BETWEEN_FAULTS: usize = 17;

/// What has to hold at the end, whatever happened.
fn check(world: &World) {
    let kind = world.setup.fault.expect("there is a fault").kind;
    let (source_alive, target_alive) = (world.source.is_some(), world.target.is_some());
    assert!(!(world.source_runs && world.target_runs));
    if source_alive {
        let outcome = world.outcome.as_ref().expect("the source comes to an end");
        if world.relinquished {
            assert!(!world.source_runs);
            check_handed_over(world, outcome);
        } else {
            assert!(
                matches!(outcome, Outcome::StayedAtSource(_)),
                "before the relinquish the source keeps the guest: {outcome:?}"
            );
            assert!(world.source_runs, "the guest runs on at the source");
            assert!(!world.source_memory.is_logging(), "its log is off");
            assert!(!world.target_runs);
            world.guest.check(&world.source_memory);
            check_retry(world);
        }
    } else if !world.relinquished {
        assert!(!world.target_runs, "nobody gave the guest up");
    }
    if target_alive {
        let outcome = world
            .target_outcome
            .as_ref()
            .expect("the target comes to an end");
        match outcome {
            target::Outcome::Completed => {
                assert!(world.target_runs && world.target_memory.missing.is_empty());
                world.guest.check(&world.target_memory);
            }
            target::Outcome::PagesLost { pages, .. } => {
                assert!(*pages > 0 && world.target_runs);
                let expected = [
                    FaultKind::KillSource,
                    FaultKind::CutForGood,
                    FaultKind::Error,
                ];
                assert!(expected.contains(&kind), "pages lost by {kind:?}");
            }
            target::Outcome::NeverRan(_) | target::Outcome::Refused(_) => {
                assert!(!world.target_runs);
            }
        }
    }
}

fn check_handed_over(world: &World, outcome: &Outcome) {
    let kind = world.setup.fault.expect("there is a fault").kind;
    match outcome {
        Outcome::Completed => assert!(matches!(
            world.target_outcome,
            Some(target::Outcome::Completed)
        )),
        Outcome::NeverStarted(_) => assert!(!world.target_runs),
        Outcome::Unconfirmed(_) => assert!(
            matches!(kind, FaultKind::KillTarget | FaultKind::CutForGood),
            "{kind:?} does not make a target unreachable"
        ),
        other => panic!("after the relinquish: {other:?}"),
    }
    if matches!(
        kind,
        FaultKind::Cut | FaultKind::CancelAtSource | FaultKind::CancelAtTarget
    ) {
        assert_eq!(outcome, &Outcome::Completed, "the target finishes");
    }
}

/// The same guest is moved once more, without a fault.
fn check_retry(world: &World) {
    let mut setup = world.setup.clone();
    setup.fault = None;
    let mut retry = World::new(setup, world.guest.clone());
    retry.run();
    assert_eq!(
        retry.outcome,
        Some(Outcome::Completed),
        "the retry succeeds"
    );
    retry.guest.check(&retry.target_memory);
}

fn inject_everywhere(setup: &Setup) {
    let undisturbed = setup.run();
    assert_eq!(undisturbed.outcome, Some(Outcome::Completed));
    let steps = undisturbed.trace.len();
    for step in 0..steps {
        let name = undisturbed.trace[step];
        if name.ends_with("batch") && step % BATCHES_BETWEEN_FAULTS != 0 {
            continue;
        }
        for kind in FaultKind::ALL {
            let faulty = setup.with_fault(step, kind);
            let run = catch_unwind(AssertUnwindSafe(|| {
                let world = faulty.run();
                check(&world);
            }));
            if let Err(panic) = run {
                eprintln!("{kind:?} before step {step} ({name}); replay: {faulty:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn pre_copy_survives_every_fault_before_every_step() {
    let mut setup = Setup::new(Mode::PreCopy, 11);
    setup.compare_memory = true;
    inject_everywhere(&setup);
}

#[test]
fn post_copy_survives_every_fault_before_every_step() {
    let mut setup = Setup::new(Mode::PostCopy, 12);
    setup.write_rate = 60_000;
    inject_everywhere(&setup);
}

#[test]
fn hybrid_that_falls_to_post_copy_survives_every_fault_before_every_step() {
    let mut setup = Setup::new(Mode::Hybrid, 13);
    setup.write_rate = 60_000;
    setup.compare_memory = true;
    inject_everywhere(&setup);
}

#[test]
fn a_local_move_survives_every_fault_before_every_step() {
    inject_everywhere(&Setup::new(Mode::Local, 14));
}

#[test]
fn cancelling_before_the_relinquish_takes_at_most_50_ms() {
    let setup = Setup::new(Mode::PreCopy, 15);
    let steps = setup.run().trace.len();
    let mut effective = 0;
    for step in 0..steps {
        let world = setup.with_fault(step, FaultKind::CancelAtSource).run();
        if world.relinquished {
            assert!(world.cancel_was_late || world.outcome == Some(Outcome::Completed));
            continue;
        }
        effective += 1;
        let took = world.finished_at.unwrap() - world.cancelled_at.unwrap();
        assert!(took <= Duration::from_millis(50), "step {step}: {took:?}");
        assert!(world.source_runs);
    }
    assert!(effective > steps / 2);
}
