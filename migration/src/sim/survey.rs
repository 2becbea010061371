//! Forecasts: what they leave behind, which is nothing, and how near they are to the move that follows.

use std::time::Duration;

use godwit_proto::codes::ErrorCode;
use godwit_proto::migrate::Mode;

use super::world::World;
use super::{FaultKind, Setup};
use crate::forecast::{Ending, Forecast};
use crate::report::{Outcome, Phase};
use crate::source::Source;
use crate::target;

fn survey(setup: &Setup) -> World {
    let setup = Setup {
        survey: Some(Duration::from_secs(1)),
        ..setup.clone()
    };
    setup.run()
}

fn forecast_of(world: &World) -> &Forecast {
    let forecast = world.source.as_ref().and_then(Source::forecast);
    forecast.unwrap_or_else(|| panic!("no forecast: {:?}", world.outcome))
}

/// The guest is where it was and as it was, and was never held up.
fn assert_undisturbed(world: &World) {
    assert!(world.source_runs && !world.target_runs && !world.relinquished);
    assert_eq!(world.throttle, 0);
    assert!(!world.source_memory.is_logging(), "the log is off");
    world.guest.check(&world.source_memory);
    for step in ["pause guest", "set throttle", "open window", "relinquish"] {
        assert!(!world.trace.contains(&step), "{step}: {:?}", world.setup);
    }
}

#[test]
fn a_forecast_leaves_the_guest_alone_and_tells_the_target_why() {
    for mode in [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid] {
        for seed in 0..20 {
            let world = survey(&Setup::new(mode, seed));
            assert_undisturbed(&world);
            forecast_of(&world);
            let Some(Outcome::StayedAtSource(error)) = &world.outcome else {
                panic!("{:?}", world.outcome);
            };
            assert_eq!(error.code(), ErrorCode::OnlyForecast);
            let Some(target::Outcome::NeverRan(error)) = &world.target_outcome else {
                panic!("{:?}", world.target_outcome);
            };
            assert_eq!(error.code(), ErrorCode::OnlyForecast);
            let took = world.finished_at.unwrap();
            assert!(took >= Duration::from_secs(1), "{took:?}");
            assert!(took < Duration::from_millis(1300), "{took:?}");
        }
    }
}

#[test]
fn a_forecast_is_near_the_move_that_follows() {
    for (mode, write_rate, bandwidth) in [
        (Mode::PreCopy, 0, 100 << 20),
        (Mode::PreCopy, 5_000, 100 << 20),
        (Mode::Hybrid, 2_000, 20 << 20),
        (Mode::Hybrid, 100_000, 100 << 20),
        (Mode::PostCopy, 20_000, 100 << 20),
    ] {
        for seed in 0..10 {
            let setup = Setup {
                write_rate,
                bandwidth,
                ..Setup::new(mode, seed)
            };
            let surveyed = survey(&setup);
            let forecast = forecast_of(&surveyed);
            let moved = setup.run();
            let receipt = moved.source.as_ref().unwrap().receipt();
            let mut phases = receipt.phases.iter();
            let ending = match phases.any(|time| time.phase == Phase::PostCopy) {
                true => Ending::PostCopy,
                false => Ending::Switch,
            };
            assert_eq!(
                forecast.ending, ending,
                "{setup:?}\n{forecast:?}\n{receipt}"
            );
            let near = |said: Duration, was: Duration| {
                let (said, was) = (said.as_secs_f64(), was.as_secs_f64());
                said < was * 2.0 + 0.005 && was < said * 2.0 + 0.005
            };
            assert!(
                near(forecast.total, receipt.total),
                "{setup:?}\n{forecast:?}\n{receipt}"
            );
            let blackout = receipt.blackout.unwrap().total;
            assert!(
                near(forecast.blackout, blackout),
                "{setup:?}\n{forecast:?}\n{receipt}"
            );
        }
    }
}

#[test]
fn a_target_without_post_copy_is_forecast_without_it() {
    let mut setup = Setup::new(Mode::Hybrid, 1);
    setup.post_copy = false;
    setup.write_rate = 100_000;
    let world = survey(&setup);
    let forecast = forecast_of(&world);
    assert_eq!(forecast.mode, "pre-copy");
    assert_ne!(forecast.ending, Ending::PostCopy);
    assert!(!forecast.converges);
}

#[test]
fn a_target_that_refuses_gives_its_reasons_to_who_asks_for_a_forecast() {
    let mut setup = Setup::new(Mode::Hybrid, 2);
    setup.reasons = 3;
    let world = survey(&setup);
    let Some(Outcome::Refused(reasons)) = &world.outcome else {
        panic!("{:?}", world.outcome);
    };
    assert_eq!(reasons.len(), 3);
    assert!(world.source.as_ref().unwrap().forecast().is_none());
    assert_undisturbed(&world);
}

#[test]
fn a_link_that_carries_next_to_nothing_ends_the_forecast_all_the_same() {
    let mut setup = Setup::new(Mode::Hybrid, 3);
    setup.bandwidth = 10_000;
    let world = survey(&setup);
    let Some(Outcome::StayedAtSource(error)) = &world.outcome else {
        panic!("{:?}", world.outcome);
    };
    assert_eq!(error.code(), ErrorCode::TimedOut);
    assert!(world.finished_at.unwrap() < Duration::from_secs(15));
    assert_undisturbed(&world);
}

#[test]
fn a_forecast_survives_every_fault_before_every_step_and_the_guest_moves_afterwards() {
    let mut setup = Setup::new(Mode::Hybrid, 16);
    setup.survey = Some(Duration::from_millis(200));
    let steps = setup.run().trace.len();
    assert!(steps > 20);
    for step in 0..steps {
        for kind in FaultKind::ALL {
            let world = setup.with_fault(step, kind).run();
            if world.target.is_some() {
                assert!(world.target_outcome.is_some(), "{:?}", world.setup);
            }
            if world.source.is_none() {
                continue;
            }
            assert!(world.outcome.is_some(), "{:?}", world.setup);
            assert_undisturbed(&world);
            let mut retry = setup.clone();
            retry.survey = None;
            let mut retry = World::new(retry, world.guest.clone());
            retry.run();
            assert_eq!(retry.outcome, Some(Outcome::Completed), "{:?}", world.setup);
        }
    }
}
