//! A guest under load that moves to and fro while it talks to somebody.

use std::time::Duration;

use godwit_chaos_tests::nested::image::NUMBERED;
use godwit_chaos_tests::nested::{Guest, GuestSpec, Host, Process, Vmm, Work};

use super::{STEP, StepResult, ends_well, ensure, no_failure, say, start};

/// The step's name.
pub(crate) const NAME: &str = "moves under load while its connection goes on";
/// How a guest is moved: mode and further options of `godwit migrate`. What is emulated is slow, so its
/// memory may take longer than is usual to come to rest.
const MODES: [(&str, &str); 4] = [
    ("pre-copy", "--downtime-limit 5000"),
    ("post-copy", ""),
    ("hybrid", "--downtime-limit 1000"),
    ("local", ""),
];
/// What one move may take beyond what the other steps need.
const MOVE: Duration = Duration::from_secs(120);
/// Records that come both ways after a move before it counts.
const RECORDS_AFTER: u64 = 50;
/// How often both ends are asked whether they do, about once a second.
const MAX_QUESTIONS: u32 = 90;

/// How often the guest moves in each mode.
fn moves() -> u32 {
    match std::env::var("GODWIT_NESTED_MOVES") {
        Err(_) => 1,
        Ok(text) => text.parse().expect("GODWIT_NESTED_MOVES is a number"),
    }
}

/// How long the step may take with all numbers of processors.
pub(crate) fn longest() -> Duration {
    MOVE * moves() * MODES.len() as u32 * 2
}

pub(crate) fn moves_under_load(host: &Host, vmm: Vmm, cpus: u32) -> StepResult {
    if vmm != Vmm::Godwit {
        return Ok(());
    }
    let listen = format!("{NUMBERED} listen 7003");
    let mut peer = Process::start(host, &format!("numbered-{cpus}"), &listen)?;
    let mut spec = GuestSpec::new("loaded", cpus, Work::Load);
    spec.index = 1;
    let mut guest = start(host, vmm, &spec)?;
    guest.console.await_line("L2-LOADED", STEP)?;
    peer.await_newest_line("NUMBERED sent=", STEP)?;
    guest.console.type_text("baseline\n")?;
    guest.console.await_line("L2-BASELINE", STEP)?;

    for (mode, options) in MODES {
        for number in 1..=moves() {
            let (source, moved, receipt) = guest.migrate(mode, options)?;
            no_failure(&source)?;
            guest = moved;
            let blackout = completed(&receipt)?;
            let gap = goes_on(&mut peer, &mut guest)?;
            say(&format!(
                "nested: move {number} by {mode}, {cpus} CPUs: blackout {blackout}, longest gap so far {gap} ms"
            ));
        }
    }

    guest.console.type_text("finish\n")?;
    let theirs = guest
        .console
        .await_line("L2-NUMBERS status=0 NUMBERED done", STEP)?;
    let ours = peer.await_line("NUMBERED done", STEP)?;
    for (from, to) in [(&theirs, &ours), (&ours, &theirs)] {
        ensure(value(from, "sent")? == value(to, "received")?, || {
            format!("one says {from:?}, the other {to:?}")
        })?;
    }
    let status = peer.wait(STEP)?;
    ensure(status == 0, || {
        format!("the guest's peer ended with {status}")
    })?;
    guest.console.await_line("L2-STRESS status=0", STEP)?;
    ends_well(&mut guest)
}

/// The blackout in `receipt` for people, of a migration that completed.
fn completed(receipt: &str) -> StepResult<String> {
    let json: serde_json::Value = serde_json::from_str(receipt)?;
    let blackout = &json["blackout"];
    let outside = match blackout["outside_ms"].as_f64() {
        Some(outside) => format!("{outside:.1} ms to its first frame"),
        // What is emulated may take longer than the target watches.
        None => "not heard within a second".to_owned(),
    };
    match blackout["total_ms"].as_f64() {
        Some(total) if json["outcome"]["result"] == "completed" => {
            Ok(format!("{total:.1} ms, {outside}"))
        }
        _ => Err(format!("not as it should be: {receipt}").into()),
    }
}

/// Records come through both ways again, at both ends. Returns the longest gap that the peer has seen
/// so far, ms.
fn goes_on(peer: &mut Process<'_>, guest: &mut Guest<'_>) -> StepResult<u64> {
    let first = state(guest)?;
    let (sent, received) = (value(&first, "sent")?, value(&first, "received")?);
    let mut last = first.clone();
    for _ in 0..MAX_QUESTIONS {
        let seen = peer.await_newest_line("NUMBERED sent=", STEP)?;
        last = state(guest)?;
        if value(&seen, "received")? > sent + RECORDS_AFTER
            && value(&last, "received")? > received + RECORDS_AFTER
        {
            no_failure(guest)?;
            return value(&seen, "gap_max_ms");
        }
    }
    Err(format!("nothing comes through: from {first:?} to {last:?}").into())
}

/// How the connection is, as the guest sees it.
fn state(guest: &mut Guest<'_>) -> StepResult<String> {
    guest.console.type_text("state\n")?;
    Ok(guest.console.await_line("L2-STATE ", STEP)?)
}

/// The number behind `name=` in `line`.
fn value(line: &str, name: &str) -> StepResult<u64> {
    let mut words = line.split(' ');
    let text = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = text.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| format!("no number {name} in {line:?}").into())
}
