//! What a move costs while it lasts: work of the guest, and memory on both sides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::guests::BenchGuest;
use super::super::program::number;
use super::super::{Aim, Bench, BenchError, Row, Samples, image, overhead, rounds};
use super::corpus::Kind;
use super::heartbeat;
use super::link::{End, Link, Speed};
use super::qemu::{Channels, Tuning};
use super::trip::{Asked, Mover, Pair, Trip, once};

const LIMIT: Duration = Duration::from_secs(60);
const CONTENT_MIB: u64 = 256;
const OTHER_MIB: u64 = 64;
const TUNING: Tuning = Tuning::of(Channels::Multi(2));
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Pages that a processor writes in a second, over 16 MiB as fast as it can, during the move and before.
pub(super) fn throughput(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Gigabit)?;
    let words = format!("{} every=50 dirty=16M,small:8", heartbeat::words());
    let mut guest = BenchGuest::new(&image::payload(bench)?, &words);
    guest.cpus = 2;
    guest.memory_mib = CONTENT_MIB + 2 * OTHER_MIB;
    guest.content = Some(Kind::Random.content(bench, CONTENT_MIB)?);
    // Not the default, the end of memory: the content lies there.
    guest.cmdline += &format!(",at:{:#x}", guest.content_at() - (32 << 20));
    let asked = Asked {
        ready: "dirty id=0 cpu=1 pages",
        ..Asked::default()
    };
    let (mut godwit, mut qemu) = (Samples::new(), Samples::new());
    rounds(bench.repeats(1, 7), LIMIT, || {
        let trip = once(bench, &link, &guest, Mover::Godwit, &asked)?;
        godwit.push(undisturbed(&trip)?);
        if let Some(peer) = &bench.peer {
            let trip = once(bench, &link, &guest, Mover::Qemu(peer, TUNING), &asked)?;
            qemu.push(undisturbed(&trip)?);
        }
        Ok(())
    })?;
    let what = "guest throughput during pre-copy / before";
    let row = Row::new(what, "x", &godwit, Aim::AtLeast(0.85));
    Ok(vec![row.beside(TUNING.name(), &qemu)])
}

/// Pages a second during the move by those before.
fn undisturbed(trip: &Trip) -> Result<f64, BenchError> {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for (at, line) in &trip.said {
        if line.starts_with("dirty id=0") && line.contains(" pages=") {
            let side = if *at < trip.began {
                &mut before
            } else {
                &mut during
            };
            side.push((*at, number(line, "pages")?));
        }
    }
    match (rate(&before), rate(&during)) {
        (Some(before), Some(during)) => Ok(during / before),
        _ => Err(BenchError::Report {
            line: format!("{} lines before, {} during", before.len(), during.len()),
            key: "two lines of dirty on each side".to_owned(),
        }),
    }
}

fn rate(lines: &[(Instant, f64)]) -> Option<f64> {
    let ((from, first), (to, last)) = (lines.first()?, lines.last()?);
    let time = to.saturating_duration_since(*from).as_secs_f64();
    (time > 0.0).then_some((last - first) / time)
}

/// The most memory beyond the guest's, on either side, while a guest moves that writes.
pub(super) fn memory(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    const MEMORY_MIB: u64 = 1024;
    let link = Link::new(Speed::Gigabit)?;
    let mut guest = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    guest.cpus = 2;
    guest.memory_mib = MEMORY_MIB;
    guest.cmdline += " dirty=256M,pattern:random,entropy:50,rate:8000";
    let (mut godwit, mut qemu) = ([const { Samples::new() }; 2], [const { Samples::new() }; 2]);
    rounds(bench.repeats(1, 3), LIMIT, || {
        watch(bench, &link, &guest, Mover::Godwit, &mut godwit)?;
        match &bench.peer {
            Some(peer) => watch(bench, &link, &guest, Mover::Qemu(peer, TUNING), &mut qemu),
            None => Ok(()),
        }
    })?;
    let bound = 64.0 + MEMORY_MIB as f64 * 0.002;
    let row = |side: usize, name: &str| {
        let what = format!("memory beyond the guest's 1 GiB, {name}");
        Row::new(what, "MiB", &godwit[side], Aim::AtMost(bound)).beside(TUNING.name(), &qemu[side])
    };
    Ok(vec![row(0, "source"), row(1, "target")])
}

/// Moves the guest once and adds the peaks of both sides.
fn watch(
    bench: &Bench,
    link: &Link,
    guest: &BenchGuest,
    mover: Mover<'_>,
    into: &mut [Samples; 2],
) -> Result<(), BenchError> {
    let asked = Asked {
        ready: "dirty id=0",
        ..Asked::default()
    };
    let mut pair = Pair::start(bench, link, guest, mover, &asked)?;
    let pids = pair.programs().map(|program| program.pid());
    let over = AtomicBool::new(false);
    let peaks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| peaks(pids, &over));
        let trip = pair.migrate(bench, link, End::Source, &asked);
        over.store(true, Ordering::Release);
        let peaks = watcher.join().expect("watching does not panic");
        trip.map(|_| peaks)
    })?;
    for (samples, peak) in into.iter_mut().zip(peaks) {
        samples.push(peak);
    }
    Ok(())
}

/// The most that either process took until it was `over`, MiB.
fn peaks(pids: [u32; 2], over: &AtomicBool) -> [f64; 2] {
    let mut peaks = [0.0f64; 2];
    while !over.load(Ordering::Acquire) {
        for (peak, pid) in peaks.iter_mut().zip(pids) {
            // A target has no guest at first, a source no process at last.
            *peak = peak.max(overhead::mib(pid).unwrap_or(0.0));
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    peaks
}
