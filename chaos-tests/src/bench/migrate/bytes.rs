//! What goes over the wire, and whether the wire was busy all the time.

use std::time::Duration;

use super::super::guests::BenchGuest;
use super::super::{Aim, Bench, BenchError, Row, Samples, image, rounds};
use super::corpus::{Kind, non_zero_bytes};
use super::link::{End, Link, Speed};
use super::qemu::{Channels, Tuning};
use super::trip::{Asked, Mover, Pair, Trip, once};
use super::{best, heartbeat};

const LIMIT: Duration = Duration::from_secs(60);
const CONTENT_MIB: u64 = 256;
/// Beside the content: what the guest itself needs.
const OTHER_MIB: u64 = 64;
const IDLE_MIB: u64 = 1024;
const TUNINGS: [Tuning; 2] = [
    Tuning::of(Channels::Multi(2)),
    Tuning::of(Channels::MultiZstd(2)),
];
const ZSTD: Tuning = Tuning::of(Channels::MultiZstd(2));

/// Bytes on the wire by bytes of the guest, and the time by what the wire needs for them.
pub(super) fn contents(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Gigabit)?;
    let mut rows = Vec::new();
    for (kind, aim) in [
        (Kind::Files, 0.36),
        (Kind::Database, 0.16),
        (Kind::Random, 1.01),
    ] {
        let mut guest = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
        let content = kind.content(bench, CONTENT_MIB)?;
        let non_zero = non_zero_bytes(&content)?;
        guest.memory_mib = CONTENT_MIB + OTHER_MIB;
        guest.content = Some(content);
        rows.extend(of_guest(bench, &link, &guest, kind.name(), non_zero, aim)?);
    }
    let mut idle = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    idle.memory_mib = IDLE_MIB;
    let all = (IDLE_MIB << 20) as f64;
    // The time for some kilobytes is not the wire's.
    rows.extend(
        of_guest(bench, &link, &idle, "idle guest of zeros", all, 0.001)?
            .into_iter()
            .take(1),
    );
    Ok(rows)
}

fn of_guest(
    bench: &Bench,
    link: &Link,
    guest: &BenchGuest,
    name: &str,
    guest_bytes: f64,
    aim: f64,
) -> Result<Vec<Row>, BenchError> {
    let rate = link.speed.bytes_per_second().unwrap_or(f64::MAX);
    let share = |trip: &Trip| trip.wire_bytes as f64 / guest_bytes;
    let busy = |trip: &Trip| trip.total.as_secs_f64() * rate / trip.wire_bytes as f64;
    let (mut wire, mut time, mut given) = (Samples::new(), Samples::new(), Samples::new());
    let mut tried = TUNINGS.map(|tuning| (tuning, Samples::new()));
    let mut times = TUNINGS.map(|tuning| (tuning, Samples::new()));
    let mut seconds = Samples::new();
    let mut tried_seconds = TUNINGS.map(|tuning| (tuning, Samples::new()));
    rounds(bench.repeats(1, 5), LIMIT, || {
        let asked = Asked::default();
        let trip = once(bench, link, guest, Mover::Godwit, &asked)?;
        wire.push(share(&trip));
        time.push(busy(&trip));
        seconds.push(trip.total.as_secs_f64());
        given.push(sent_bytes(&trip) / guest_bytes);
        if let Some(peer) = &bench.peer {
            for index in 0..TUNINGS.len() {
                let mover = Mover::Qemu(peer, TUNINGS[index]);
                let trip = once(bench, link, guest, mover, &asked)?;
                tried[index].1.push(share(&trip));
                times[index].1.push(busy(&trip));
                tried_seconds[index].1.push(trip.total.as_secs_f64());
            }
        }
        Ok(())
    })?;
    let handed = given.median().unwrap_or(0.0);
    let mut bytes = Row::new(
        format!("wire / guest bytes, {name}"),
        "x",
        &wire,
        Aim::AtMost(aim),
    )
    .note(format!(
        "what was given to the link, without headers: {handed:.4}"
    ));
    let what = format!("total time / (wire bytes / 1 Gb/s), {name}");
    let mut total = Row::new(what, "x", &time, Aim::AtMost(1.05));
    if let Some((tuning, samples)) = best(&tried, false) {
        bytes = bytes.beside(tuning.name(), samples);
    }
    if let Some((tuning, samples)) = best(&times, false) {
        total = total.beside(tuning.name(), samples);
    }
    let what = format!("total time at 1 Gb/s, {name}");
    let mut whole = Row::new(what, "s", &seconds, Aim::Nothing);
    if let Some((tuning, samples)) = best(&tried_seconds, false) {
        whole = whole.beside(tuning.name(), samples);
    }
    Ok(vec![bytes, total, whole])
}

/// Bytes of pages that the receipt tells of.
fn sent_bytes(trip: &Trip) -> f64 {
    let kinds = trip.own["bytes"].as_object();
    let bytes = kinds
        .into_iter()
        .flatten()
        .filter_map(|(_, bytes)| bytes.as_f64());
    bytes.sum()
}

/// Eight bytes of a page change again and again: what that adds to a guest that does nothing.
pub(super) fn small_writes(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    const MIB: u64 = 128;
    let link = Link::new(Speed::Gigabit)?;
    let mut still = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    still.cpus = 2;
    still.memory_mib = MIB + OTHER_MIB;
    still.content = Some(Kind::Random.content(bench, MIB)?);
    let mut writing = still.clone();
    let at = writing.content_at();
    writing.cmdline += &format!(" dirty=32M,at:{at:#x},fill:off,small:8,pattern:random,rate:8000");
    let asked = Asked::default();
    let movers = bench.peer.iter().map(|peer| Mover::Qemu(peer, ZSTD));
    let movers: Vec<_> = std::iter::once(Mover::Godwit).chain(movers).collect();
    let mut extra = [Samples::new(), Samples::new()];
    let mut counts = Samples::new();
    rounds(bench.repeats(1, 7), LIMIT, || {
        for (samples, &mover) in extra.iter_mut().zip(&movers) {
            let base = once(bench, &link, &still, mover, &asked)?.wire_bytes as f64;
            let trip = once(bench, &link, &writing, mover, &asked)?;
            samples.push((trip.wire_bytes as f64 - base) / f64::from(1 << 20));
            if let Some(count) = trip.own["rounds_total"].as_f64() {
                counts.push(count);
            }
        }
        Ok(())
    })?;
    let what = "wire bytes for 8,000 small writes a second, beyond those of a still guest";
    let count = counts.median().unwrap_or(0.0);
    let row = Row::new(what, "MiB", &extra[0], Aim::AtMostOfPeer(0.25));
    Ok(vec![
        row.beside(ZSTD.name(), &extra[1])
            .note(format!("Godwit made {count} rounds")),
    ])
}

/// A guest that goes and comes back at once.
pub(super) fn there_and_back(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    const MIB: u64 = 128;
    let link = Link::new(Speed::Gigabit)?;
    let mut guest = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    guest.memory_mib = MIB + OTHER_MIB;
    guest.content = Some(Kind::Files.content(bench, MIB)?);
    let mut ratio = Samples::new();
    rounds(bench.repeats(1, 5), LIMIT, || {
        let asked = Asked {
            retain: true,
            ..Asked::default()
        };
        let mut pair = Pair::start(bench, &link, &guest, Mover::Godwit, &asked)?;
        let there = pair.migrate(bench, &link, End::Source, &asked)?;
        let mut pair = pair.turned(bench, &link)?;
        let back = pair.migrate(bench, &link, End::Target, &asked)?;
        ratio.push(back.wire_bytes as f64 / there.wire_bytes as f64);
        Ok(())
    })?;
    let row = Row::new(
        "wire bytes of the way back / of the way there",
        "x",
        &ratio,
        Aim::AtMost(0.1),
    );
    Ok(vec![row])
}
