use super::*;
use proptest::prelude::*;

const GIB_PAGES: u64 = 1 << 18;

/// Rounds of a guest that writes `dirty_rate` pages a second on a link of `link_rate` pages a second
/// until the policy stops them; time is computed, not waited for.
fn run(options: &Options, link_rate: f64, dirty_rate: f64, working_set: u64) -> (Vec<Choice>, u64) {
    let mut policy = Policy::new(options);
    let (mut pages, mut elapsed) = (GIB_PAGES, Duration::ZERO);
    let mut choices: Vec<Choice> = Vec::new();
    for round in 1..=MAX_ROUNDS {
        let throttle = match choices.last().map(|c| c.decision) {
            Some(Decision::Continue(percent)) => percent,
            _ => 0,
        };
        let duration = seconds_bounded(pages as f64 / link_rate);
        elapsed += duration;
        let speed = f64::from(100 - throttle) / 100.0;
        let dirty = (duration.as_secs_f64() * dirty_rate * speed) as u64;
        let dirty = dirty.min(working_set);
        choices.push(policy.choose(&RoundFacts {
            round,
            pages,
            content_pages: pages,
            wire_bytes: pages * PAGE_BYTES as u64,
            duration,
            dirty_pages: dirty,
            switch_cost: Duration::from_millis(4),
            elapsed,
        }));
        let last = choices[choices.len() - 1];
        if !matches!(last.decision, Decision::Continue(_)) {
            return (choices, dirty);
        }
        pages = dirty.max(1);
    }
    panic!("the policy never stops");
}

fn pre_copy() -> Options {
    Options {
        mode: Mode::PreCopy,
        ..Options::default()
    }
}

#[test]
fn an_idle_guest_switches_after_the_first_round() {
    let (choices, _) = run(&Options::default(), 100_000.0, 10.0, GIB_PAGES);
    assert_eq!(choices.len(), 1);
    assert_eq!(choices[0].reason, Reason::AtMinimum);
}

#[test]
fn a_guest_that_writes_at_half_the_link_rate_switches_well_below_the_limit() {
    let (choices, dirty) = run(&Options::default(), 100_000.0, 45_000.0, GIB_PAGES);
    let last = choices[choices.len() - 1];
    assert_eq!(last.decision, Decision::Switch);
    assert!(
        choices
            .iter()
            .any(|c| c.reason == Reason::WorthAnotherRound)
    );
    let limit = Options::default().downtime_limit;
    assert!(
        last.predicted_downtime < limit / 4,
        "{dirty} pages left: {last:?}"
    );
}

#[test]
fn hybrid_falls_to_post_copy_within_a_few_rounds_and_never_throttles() {
    let (choices, _) = run(&Options::default(), 100_000.0, 400_000.0, GIB_PAGES);
    let last = choices[choices.len() - 1];
    assert_eq!(
        (last.decision, last.reason),
        (Decision::PostCopy, Reason::CannotConverge)
    );
    assert!(choices.len() <= 3);
    assert!(
        choices
            .iter()
            .all(|c| !matches!(c.decision, Decision::Continue(1..)))
    );
}

#[test]
fn hybrid_does_not_repeat_a_round_of_which_all_was_written_again() {
    // Nothing but a working set, written through several times while it is sent.
    // What it costs to send it again is known when that was done once.
    let (choices, _) = run(&Options::default(), 100_000.0, 4e6, GIB_PAGES);
    assert_eq!(choices.len(), 2);
    // It is a quarter of memory: that shows when the rest has been sent.
    let (choices, _) = run(&Options::default(), 100_000.0, 4e6, GIB_PAGES / 4);
    let reasons: Vec<_> = choices.iter().map(|c| c.reason).collect();
    assert_eq!(reasons, [Reason::Converging, Reason::CannotConverge]);
}

#[test]
fn pre_copy_throttles_step_by_step_until_it_converges() {
    let (choices, _) = run(&pre_copy(), 100_000.0, 200_000.0, GIB_PAGES);
    let last = choices[choices.len() - 1];
    assert_eq!(last.decision, Decision::Switch);
    assert!(last.predicted_downtime <= pre_copy().downtime_limit);
    let steps: Vec<u8> = choices
        .iter()
        .filter(|c| c.reason == Reason::Throttled)
        .map(|c| match c.decision {
            Decision::Continue(percent) => percent,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(steps[..3], [20, 30, 40]);
    assert!(steps.windows(2).all(|w| w[1] - w[0] == 10), "{steps:?}");
}

#[test]
fn what_never_converges_ends_by_the_action_that_was_asked_for() {
    for (action, decision) in [
        (TimeoutAction::Cancel, Decision::GiveUp),
        (TimeoutAction::PostCopy, Decision::PostCopy),
        (TimeoutAction::Pause, Decision::Switch),
    ] {
        let options = Options {
            timeout: Duration::from_secs(600),
            timeout_action: action,
            ..pre_copy()
        };
        let (choices, _) = run(&options, 100_000.0, 100_000_000.0, GIB_PAGES);
        let last = choices[choices.len() - 1];
        assert_eq!((last.decision, last.reason), (decision, Reason::TimeUp));
        assert!(
            choices
                .iter()
                .any(|c| c.reason == Reason::ThrottledToTheLimit)
        );
    }
}

#[test]
fn a_round_of_few_bytes_does_not_change_the_measured_link() {
    let mut policy = Policy::new(&Options::default());
    let mut facts = RoundFacts {
        round: 1,
        pages: 1000,
        content_pages: 1000,
        wire_bytes: 4 << 20,
        duration: Duration::from_millis(40),
        dirty_pages: 10,
        switch_cost: Duration::from_millis(4),
        elapsed: Duration::from_millis(40),
    };
    let before = policy.choose(&facts).link_rate;
    facts.pages = 1;
    facts.content_pages = 1;
    facts.wire_bytes = 100;
    assert_eq!(policy.choose(&facts).link_rate.to_bits(), before.to_bits());
}

#[test]
fn the_time_left_stands_still_rather_than_grow_and_says_so() {
    let mut eta = Eta::default();
    let seconds = |s| Some(Duration::from_secs(s));
    assert_eq!(eta.update(None), None);
    assert_eq!(eta.update(seconds(10)), seconds(10));
    assert_eq!(eta.update(seconds(30)), seconds(10));
    assert!(eta.is_late());
    assert_eq!(eta.update(None), seconds(10));
    assert_eq!(eta.update(seconds(5)), seconds(5));
    assert!(!eta.is_late());
}

proptest! {
    #[test]
    fn any_guest_on_any_link_comes_to_an_end_and_no_chosen_switch_breaks_the_limit(
        link in 1.0f64..1e7,
        dirty in 0.0f64..1e8,
        working_set in 0..GIB_PAGES,
        hybrid in any::<bool>(),
    ) {
        let options = if hybrid { Options::default() } else { pre_copy() };
        let (choices, _) = run(&options, link, dirty, working_set);
        let last = choices[choices.len() - 1];
        if last.decision == Decision::Switch {
            prop_assert!(last.predicted_downtime <= options.downtime_limit);
        }
        let throttles = choices.iter().filter_map(|c| match c.decision {
            Decision::Continue(percent) => Some(percent),
            _ => None,
        });
        prop_assert!(throttles.is_sorted());
    }
}
