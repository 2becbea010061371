//! Memory that follows the guest: when it must, and what the guest notices.

use std::time::Duration;

use super::super::guests::BenchGuest;
use super::super::program::number;
use super::super::{Aim, Bench, BenchError, Row, Samples, image, rounds};
use super::corpus::Kind;
use super::heartbeat;
use super::link::{Link, Speed};
use super::qemu::{Channels, Tuning};
use super::trip::{Asked, Mode, Mover, Trip, once};

const LIMIT: Duration = Duration::from_secs(90);
/// QEMU 10.0 has no post-copy with several channels; requests go over one of their own.
const TUNING: Tuning = Tuning::of(Channels::One);
const PAGE: f64 = 4096.0;

fn peer_name() -> String {
    format!("{}, postcopy-preempt", TUNING.name())
}

/// A guest that writes four times as much as the link carries.
pub(super) fn four_times_the_link(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Gigabit)?;
    let rate = Speed::Gigabit.bytes_per_second().unwrap_or(0.0) / PAGE * 4.0;
    let mut idle = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    idle.cpus = 2;
    idle.memory_mib = 256;
    let mut busy = idle.clone();
    busy.cmdline += &format!(" every=100 dirty=128M,pattern:random,entropy:100,rate:{rate:.0}");
    let still = Asked {
        mode: Mode::Hybrid,
        ..Asked::default()
    };
    let asked = Asked {
        ready: "dirty id=0",
        ..still.clone()
    };
    let (mut base, mut godwit, mut qemu) = (Samples::new(), Samples::new(), Samples::new());
    let mut totals = [Samples::new(), Samples::new()];
    let (mut own, mut wrote) = (Samples::new(), Samples::new());
    rounds(bench.repeats(2, 11), LIMIT, || {
        base.push_ms(once(bench, &link, &idle, Mover::Godwit, &still)?.blackout);
        let trip = once(bench, &link, &busy, Mover::Godwit, &asked)?;
        godwit.push_ms(trip.blackout);
        totals[0].push(trip.total.as_secs_f64());
        own.extend(trip.own_blackout_ms());
        let before = trip.said.iter().filter(|(at, _)| *at < trip.began);
        let mut rates = before.filter_map(|(_, line)| number(line, "rate").ok());
        wrote.extend(rates.next_back());
        if let Some(peer) = &bench.peer {
            let trip = once(bench, &link, &busy, Mover::Qemu(peer, TUNING), &asked)?;
            qemu.push_ms(trip.blackout);
            totals[1].push(trip.total.as_secs_f64());
        }
        Ok(())
    })?;
    let what = "dirtying at 4 x 1 Gb/s, hybrid";
    let mut times = Samples::new();
    if let (Some(busy), Some(idle)) = (godwit.median(), base.median()) {
        times.push(busy / idle);
    }
    let mut by_idle = Row::new(
        format!("{what}, blackout / idle blackout"),
        "x",
        &times,
        Aim::AtMost(1.5),
    )
    .note(format!("idle: {:.2} ms", base.median().unwrap_or(0.0)));
    by_idle.repeats[0] = godwit.count();
    Ok(vec![
        by_idle,
        Row::new(format!("{what}, blackout"), "ms", &godwit, Aim::Nothing)
            .beside(peer_name(), &qemu)
            .note(format!(
                "Godwit's receipt says {:.2} ms",
                own.median().unwrap_or(0.0)
            )),
        Row::new(format!("{what}, total time"), "s", &totals[0], Aim::Nothing)
            .beside(peer_name(), &totals[1])
            .note(format!(
                "every move ended at the target; asked to write {rate:.0} pages a second, the guest \
                 wrote {:.0} before the move",
                wrote.median().unwrap_or(0.0)
            )),
    ])
}

/// A guest that touches a random page in each 5 ms while its memory comes as fast as the link can:
/// the largest step of its clock in each.
pub(super) fn faults(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    const MIB: u64 = 256;
    let link = Link::new(Speed::Gigabit)?;
    let mut guest = BenchGuest::new(&image::payload(bench)?, "");
    guest.memory_mib = MIB + 64;
    guest.content = Some(Kind::Random.content(bench, MIB)?);
    let at = guest.content_at();
    let tick = heartbeat::TICK_US;
    guest.cmdline = format!(
        "heartbeat=5 tick={tick} dirty={MIB}M,at:{at:#x},fill:off,small:8,pattern:random,rate:200"
    );
    let asked = Asked {
        mode: Mode::PostCopy,
        ..Asked::default()
    };
    let (mut godwit, mut qemu) = (Samples::new(), Samples::new());
    rounds(bench.repeats(1, 5), LIMIT, || {
        steps(
            &once(bench, &link, &guest, Mover::Godwit, &asked)?,
            &mut godwit,
        )?;
        if let Some(peer) = &bench.peer {
            let trip = once(bench, &link, &guest, Mover::Qemu(peer, TUNING), &asked)?;
            steps(&trip, &mut qemu)?;
        }
        Ok(())
    })?;
    let what = "post-copy under full push, longest wait in 5 ms with one random page";
    let row = |share: f64, name: &str, aim: f64| {
        let at = |samples: &Samples| {
            let mut one = Samples::new();
            one.extend(samples.quantile(share));
            one
        };
        let mut row = Row::new(
            format!("{what}, {name}"),
            "ms",
            &at(&godwit),
            Aim::AtMostOfPeer(aim),
        )
        .beside(peer_name(), &at(&qemu));
        row.repeats = [godwit.count(), qemu.count()];
        row
    };
    Ok(vec![row(0.5, "p50", 0.5), row(0.999, "p99.9", 0.25)])
}

/// The largest steps of the guest's clock while its memory followed, ms; the first is the move.
fn steps(trip: &Trip, into: &mut Samples) -> Result<(), BenchError> {
    let over = trip.began + trip.total;
    let beats = trip
        .arrived
        .iter()
        .filter(|(at, line)| *at < over && heartbeat::is_beat(line));
    for (_, line) in beats.skip(1) {
        into.push(number(line, "gap_max_ns")? / 1e6);
    }
    Ok(())
}
