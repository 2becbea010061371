//! How long the guest does not run.

use std::time::Duration;

use super::super::guests::BenchGuest;
use super::super::{Aim, Bench, BenchError, Row, Samples, image, rounds};
use super::link::{Link, Speed};
use super::qemu::{Channels, Tuning};
use super::trip::{Asked, Mover, Trip, once};
use super::{best, heartbeat};

const LIMIT: Duration = Duration::from_secs(130);
const IDLE_MIB: u64 = 1024;
/// QEMU's settings that are tried on an idle guest.
const IDLE_TUNINGS: [Tuning; 4] = [
    Tuning::of(Channels::One),
    Tuning::of(Channels::Multi(2)),
    Tuning::of(Channels::MultiZstd(2)),
    Tuning::of(Channels::One).with_ring(),
];
/// And on one that writes what does not compress.
const BUSY_TUNINGS: [Tuning; 3] = [
    Tuning::of(Channels::One),
    Tuning::of(Channels::Multi(2)),
    Tuning::of(Channels::Multi(2)).with_ring(),
];
/// What may pass before a blackout counts as too long: the limit that both are given.
const DOWNTIME_LIMIT_MS: u64 = 300;
const PAGE: f64 = 4096.0;

/// A move under both VMMs, all of QEMU's settings in turn.
struct Compared {
    godwit: Samples,
    godwit_own: Samples,
    qemu: Vec<(Tuning, Samples)>,
    qemu_own: Vec<(Tuning, Samples)>,
}

fn compare(
    bench: &Bench,
    link: &Link,
    guest: &BenchGuest,
    asked: &Asked,
    tunings: &[Tuning],
    repeats: usize,
) -> Result<Compared, BenchError> {
    let none = || {
        tunings
            .iter()
            .map(|&tuning| (tuning, Samples::new()))
            .collect()
    };
    let mut compared = Compared {
        godwit: Samples::new(),
        godwit_own: Samples::new(),
        qemu: none(),
        qemu_own: none(),
    };
    let add = |trip: &Trip, seen: &mut Samples, own: &mut Samples| {
        seen.push_ms(trip.blackout);
        if let Some(ms) = trip.own_blackout_ms() {
            own.push(ms);
        }
    };
    let mut round = 0;
    rounds(repeats, LIMIT, || {
        let trip = once(bench, link, guest, Mover::Godwit, asked)?;
        add(&trip, &mut compared.godwit, &mut compared.godwit_own);
        if let Some(peer) = &bench.peer {
            // One of its settings in each round.
            let index = round % tunings.len();
            let mover = Mover::Qemu(peer, tunings[index]);
            let trip = once(bench, link, guest, mover, asked)?;
            let (seen, own) = (&mut compared.qemu[index].1, &mut compared.qemu_own[index].1);
            add(&trip, seen, own);
        }
        round += 1;
        Ok(())
    })?;
    Ok(compared)
}

impl Compared {
    /// A row with QEMU at its best.
    fn row(&self, what: &str, aim: Aim) -> Row {
        let row = Row::new(what, "ms", &self.godwit, aim);
        let own = |samples: &Samples| samples.median().map_or("-".into(), |ms| format!("{ms:.2}"));
        let mut note = format!("Godwit's receipt says {} ms", own(&self.godwit_own));
        let Some((tuning, samples)) = best(&self.qemu, false) else {
            return row.note(note);
        };
        for ((tuning, samples), (_, said)) in self.qemu.iter().zip(&self.qemu_own) {
            let seen = own(samples);
            note += &format!("; {}: {seen} ms, by itself {} ms", tuning.name(), own(said));
        }
        row.beside(tuning.name(), samples).note(note)
    }
}

pub(super) fn idle(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Unshaped)?;
    let mut guest = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    guest.memory_mib = IDLE_MIB;
    let repeats = bench.repeats(8, 100);
    let compared = compare(
        bench,
        &link,
        &guest,
        &Asked::default(),
        &IDLE_TUNINGS,
        repeats,
    )?;
    let what = "blackout, idle guest of 1 GiB";
    let mut last = Samples::new();
    if let Some(p99) = compared.godwit.quantile(0.99) {
        last.push(p99);
    }
    let mut longest = Row::new(format!("{what}, p99"), "ms", &last, Aim::AtMost(10.0));
    longest.repeats[0] = compared.godwit.count();
    Ok(vec![
        compared.row(what, Aim::AtMostOfPeer(0.1)),
        Row::new(
            format!("{what}, p50"),
            "ms",
            &compared.godwit,
            Aim::AtMost(2.0),
        ),
        longest,
    ])
}

/// The guest writes half as many bytes as the link carries, none of which compress.
pub(super) fn half_the_link(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Gigabit)?;
    let rate = Speed::Gigabit.bytes_per_second().unwrap_or(0.0) / PAGE / 2.0;
    let words = format!(
        "{} dirty=128M,pattern:random,entropy:100,rate:{rate:.0}",
        heartbeat::words()
    );
    let mut guest = BenchGuest::new(&image::payload(bench)?, &words);
    guest.cpus = 2;
    guest.memory_mib = 256;
    let asked = Asked {
        ready: "dirty id=0",
        downtime_limit_ms: Some(DOWNTIME_LIMIT_MS),
        ..Asked::default()
    };
    let repeats = bench.repeats(3, 21);
    let compared = compare(bench, &link, &guest, &asked, &BUSY_TUNINGS, repeats)?;
    let what = "blackout, dirtying at half of 1 Gb/s";
    let mut worst = Samples::new();
    if let Some([_, most]) = compared.godwit.spread() {
        worst.push(most / DOWNTIME_LIMIT_MS as f64);
    }
    let longest = format!("{what}, longest / the limit of {DOWNTIME_LIMIT_MS} ms");
    let mut longest = Row::new(longest, "x", &worst, Aim::AtMost(1.1));
    longest.repeats[0] = compared.godwit.count();
    Ok(vec![compared.row(what, Aim::AtMostOfPeer(0.2)), longest])
}
