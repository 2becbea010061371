use super::*;

/// 1 GiB of content at 125 MB/s, 4 KiB a page; the guest writes `rate` pages a second of `hot`.
fn measured(rate: u64, hot: u64) -> Measured {
    let mut dirty = DirtyCurve::default();
    for tenth in 1..=30 {
        dirty.note(
            Duration::from_millis(tenth * 100),
            (rate * tenth / 10).min(hot),
        );
    }
    let cost = PageCost {
        rate: 125e6 / 4096.0,
        wire_bytes: 4096.0,
    };
    Measured {
        pages: 262_144,
        content_pages: 262_144,
        zero_time: Duration::ZERO,
        first: cost,
        again: cost,
        dirty,
        round_trip: Duration::ZERO,
        switch_cost: Duration::from_millis(4),
    }
}

fn with(mode: Mode) -> Options {
    Options {
        mode,
        ..Options::default()
    }
}

#[test]
fn a_calm_guest_is_sent_once_and_switches_in_the_fixed_cost() {
    let forecast = Forecast::of(&measured(0, 0), &with(Mode::Hybrid));
    assert_eq!(forecast.ending, Ending::Switch);
    assert!(forecast.converges);
    assert_eq!(forecast.rounds, 1);
    assert_eq!(forecast.blackout, Duration::from_millis(4));
    let total = forecast.total.as_secs_f64();
    assert!((8.5..8.7).contains(&total), "{total}");
}

#[test]
fn a_guest_that_writes_faster_than_the_link_takes_never_converges_by_itself() {
    let busy = measured(100_000, 262_144);
    let hybrid = Forecast::of(&busy, &with(Mode::Hybrid));
    assert_eq!(hybrid.ending, Ending::PostCopy);
    assert!(!hybrid.converges);
    assert_eq!(hybrid.blackout, Duration::from_millis(4));
    let pre_copy = Forecast::of(&busy, &with(Mode::PreCopy));
    assert!(!pre_copy.converges);
    assert!(pre_copy.throttle_percent >= 20);
}

#[test]
fn a_small_working_set_switches_within_the_limit_however_often_it_is_written() {
    let forecast = Forecast::of(&measured(1_000_000, 2_000), &with(Mode::PreCopy));
    assert_eq!(forecast.ending, Ending::Switch);
    assert!(forecast.converges);
    assert!(
        forecast.blackout <= Duration::from_millis(300),
        "{forecast:?}"
    );
}

#[test]
fn post_copy_pays_the_fixed_cost_and_one_pass() {
    let forecast = Forecast::of(&measured(100_000, 262_144), &with(Mode::PostCopy));
    assert_eq!((forecast.rounds, forecast.ending), (0, Ending::PostCopy));
    assert_eq!(forecast.wire_bytes, 1 << 30);
}

#[test]
fn absurd_measurements_give_a_forecast_all_the_same() {
    let mut absurd = measured(0, 0);
    absurd.first = PageCost {
        rate: 0.0,
        wire_bytes: f64::INFINITY,
    };
    absurd.again = absurd.first;
    for mode in [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid, Mode::Local] {
        let forecast = Forecast::of(&absurd, &with(mode));
        assert!(forecast.rounds <= MAX_ROUNDS);
    }
}

#[test]
fn a_guest_whose_rewrites_are_small_on_the_wire_converges_though_it_writes_faster_than_the_link() {
    let mut busy = measured(60_000, 200_000);
    assert_eq!(
        Forecast::of(&busy, &with(Mode::Hybrid)).ending,
        Ending::PostCopy
    );
    busy.again = PageCost {
        rate: 500_000.0,
        wire_bytes: 200.0,
    };
    let forecast = Forecast::of(&busy, &with(Mode::Hybrid));
    assert_eq!(forecast.ending, Ending::Switch);
    assert!(forecast.converges, "{forecast:?}");
}

/// `pages`, of which `content` have content, at 10 us each and 1 us for others.
fn sample(pages: u64, content: u64) -> Sample {
    let micros = 10 * content + (pages - content);
    Sample {
        pages,
        content_pages: content,
        wire_bytes: content * 2000,
        duration: Duration::from_micros(micros) + Duration::from_millis(1),
    }
}

fn from(samples: &[Sample], again: Option<Sample>) -> Option<Measured> {
    Measured::from_samples(samples, again, 1_000_000, Duration::from_millis(1))
}

#[test]
fn samples_tell_pages_with_content_from_zeros_and_what_each_costs() {
    let samples = [
        sample(1000, 100),
        sample(1000, 900),
        sample(2000, 1000),
        sample(4000, 2000),
    ];
    let measured = from(&samples, None).unwrap();
    assert_eq!(measured.content_pages, 500_000);
    assert!((99_000.0..101_000.0).contains(&measured.first.rate));
    assert!((measured.first.wire_bytes - 2000.0).abs() < 1.0);
    let zeros = measured.zero_time.as_secs_f64();
    assert!((0.49..0.51).contains(&zeros), "{zeros}");
    assert_eq!(measured.again, measured.first);
}

#[test]
fn samples_that_are_all_alike_put_all_time_down_to_pages_with_content() {
    let samples = [sample(1000, 500), sample(2000, 1000), sample(4000, 2000)];
    let measured = from(&samples, None).unwrap();
    assert_eq!(measured.zero_time, Duration::ZERO);
    // 11 us for a page and the zero one beside it.
    assert!((90_000.0..92_000.0).contains(&measured.first.rate));
}

#[test]
fn a_guest_of_zeros_or_of_one_sample_is_measured_and_one_without_is_not() {
    assert_eq!(from(&[], None), None);
    let zeros = from(&[sample(1000, 0)], None).unwrap();
    assert_eq!(zeros.content_pages, 0);
    let zero_time = zeros.zero_time.as_secs_f64();
    assert!((0.99..1.01).contains(&zero_time), "{zero_time}");
    let one = from(&[sample(1000, 1000)], None).unwrap();
    assert_eq!(one.content_pages, 1_000_000);
    assert!((99_000.0..101_000.0).contains(&one.first.rate));
}

#[test]
fn pages_that_were_sent_again_have_a_cost_of_their_own_if_there_were_enough() {
    let again = |pages| Sample {
        pages,
        content_pages: pages,
        wire_bytes: pages * 100,
        duration: Duration::from_micros(pages) + Duration::from_millis(1),
    };
    let many = from(&[sample(1000, 1000)], Some(again(10_000))).unwrap();
    assert!((990_000.0..1_010_000.0).contains(&many.again.rate));
    let few = from(&[sample(1000, 1000)], Some(again(10))).unwrap();
    assert_eq!(few.again.rate, few.first.rate);
    assert!((few.again.wire_bytes - 100.0).abs() < 1.0);
}

#[test]
fn the_curve_goes_on_as_it_ended_and_never_past_all_pages() {
    let mut curve = DirtyCurve::default();
    curve.note(Duration::from_secs(1), 100);
    curve.note(Duration::from_secs(1), 200);
    curve.note(Duration::from_secs(2), 120);
    assert_eq!(curve.within(Duration::from_millis(500), 1000), 50);
    assert_eq!(curve.within(Duration::from_millis(1500), 1000), 110);
    assert_eq!(curve.within(Duration::from_secs(4), 1000), 160);
    assert_eq!(curve.within(Duration::from_secs(400), 1000), 1000);
    assert_eq!(DirtyCurve::default().within(Duration::MAX, 7), 0);
}
