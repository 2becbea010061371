//! Guests that run at the target before their memory is there, and what becomes of them when the
//! link or the source is lost.

use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_node::guest_process::client::{Client, ClientError, Moved};
use godwit_proto::codes::ErrorCode;
use godwit_proto::migrate::Mode;
use godwit_proto::process::{ExitReason, MigrateRequest};
use serde_json::Value;

use crate::moving::{CHECK, assert_healthy, receive, report, request, run, wait_for, with_disk};
use crate::relay::Relay;
use crate::support::{Ended, PATIENCE, Running, field, godwit, has_kvm, say_skipped};

/// Whether memory can follow a guest here. Says so loudly when not.
pub(crate) fn has_post_copy() -> bool {
    let possible = godwit_vmm::memory::post_copy::check();
    if let Err(error) = &possible {
        say_skipped(&format!("no post-copy here: {error}"));
    }
    has_kvm() && possible.is_ok()
}

/// `godwit migrate` with options, to its end, and the receipt.
pub(crate) fn migrate(
    dir: &Path,
    socket: &str,
    to: &str,
    token: &str,
    options: &[&str],
) -> (Ended, Value) {
    let mut args = vec![
        "migrate", "--from", socket, "--to", to, "--token", token, "--json",
    ];
    args.extend(options);
    let ended = godwit(dir, &args);
    let receipt = ended
        .stdout
        .first()
        .map(|line| serde_json::from_str(line).unwrap());
    (ended, receipt.unwrap_or_default())
}

/// A guest with everything that can be said about it.
fn start(dir: &Path, socket: &str, options: &[&str], cmdline: &str) -> Running {
    let mut args = vec!["run", "--socket", socket, "--cmdline", cmdline];
    args.extend(options);
    let guest = Running::start(dir, &args);
    wait_for(&dir.join(socket));
    guest
}

pub(crate) fn phases(receipt: &Value) -> Vec<&str> {
    let phases = receipt["phases"].as_array().unwrap();
    phases
        .iter()
        .map(|phase| phase["phase"].as_str().unwrap())
        .collect()
}

/// Moves a guest, in the background.
fn mover(
    dir: &Path,
    socket: &str,
    request: MigrateRequest,
) -> JoinHandle<Result<Moved, ClientError>> {
    let socket = dir.join(socket);
    thread::spawn(move || Client::connect(&socket).unwrap().migrate(request))
}

/// Waits until the migration is in post-copy, with memory still to come.
fn await_post_copy(dir: &Path, socket: &str) {
    let mut client = Client::connect(&dir.join(socket)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no post-copy");
        let progress = client.migration_progress().unwrap().unwrap_or_default();
        let progress: Value = serde_json::from_str(&progress).unwrap_or_default();
        if progress["phase"] == "post-copy" {
            assert!(progress["remaining_pages"].as_u64().unwrap() > 0);
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Post-copy at so many bytes a second.
fn slow_post_copy(to: &str, token: &str, bytes_per_second: u64) -> MigrateRequest {
    MigrateRequest {
        mode: Some(Mode::PostCopy),
        bandwidth_cap: Some(bytes_per_second),
        ..request(to, token)
    }
}

/// A guest that writes its memory in one pattern is moved in all modes, one after the other.
fn moves_in_all_modes(options: &[&str], check: &str, dirty: &str) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cmdline = format!("heartbeat=20 every=50 {check} {dirty} regs");
    let mut guest = start(dir, "0.sock", options, &cmdline);
    report(&mut guest, "dirty id=", "pages");
    assert_healthy(&mut guest);
    // No round leaves so little that a switch takes a millisecond: hybrid falls to post-copy.
    for (turn, (mode, more)) in [
        ("pre-copy", &["--verify", "--compression=1"][..]),
        ("post-copy", &["--verify", "--streams=2"]),
        (
            "hybrid",
            &["--downtime-limit=1", "--bandwidth=48M", "--compression=off"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{mode} {options:?} {dirty}");
        let next = format!("{}.sock", turn + 1);
        let (target, to, token) = receive(dir, &format!("token{turn}"), &["--socket", &next]);
        let beat = guest.line("heartbeat ");
        let options = [&["--mode", mode], more].concat();
        let (moved, receipt) = migrate(dir, &format!("{turn}.sock"), &to, &token, &options);
        assert_eq!(moved.code, Some(0), "{name}: {}", moved.stderr);
        assert_eq!(receipt["outcome"]["result"], "completed", "{name}");
        let followed = phases(&receipt).contains(&"post-copy");
        assert_eq!(followed, mode != "pre-copy", "{name}: {receipt}");
        let left = guest.end();
        assert_eq!(left.code, Some(0), "{name}: {}", left.stderr);
        guest = target;
        let first = guest.line("heartbeat ");
        assert!(
            field(&first, "time_ns") > field(&beat, "time_ns"),
            "{name}: {beat} then {first}"
        );
        assert_healthy(&mut guest);
        assert_healthy(&mut guest);
    }
}

#[test]
fn a_guest_is_moved_in_every_mode_whatever_it_writes_and_finds_its_memory_right() {
    if !has_post_copy() {
        return;
    }
    for cpus in ["1", "4"] {
        for pattern in ["seq", "random", "zipf"] {
            moves_in_all_modes(
                &["--memory", "64M", "--cpus", cpus],
                "check=8M,rate:5000,verify:50000",
                &format!("dirty=24M,pattern:{pattern},rate:12000,entropy:100"),
            );
        }
    }
}

#[test]
fn huge_pages_and_rings_change_nothing_about_it() {
    if !has_post_copy() {
        return;
    }
    for options in [
        [
            "--memory",
            "256M",
            "--cpus",
            "4",
            "--huge-pages",
            "transparent",
            "--dirty-log",
            "ring",
        ],
        [
            "--memory",
            "64M",
            "--cpus",
            "2",
            "--huge-pages",
            "none",
            "--dirty-log",
            "bitmap",
        ],
    ] {
        moves_in_all_modes(
            &options,
            "check=16M,rate:5000,verify:50000",
            "dirty=24M,pattern:random,rate:12000,entropy:100",
        );
    }
}

#[test]
fn huge_pages_of_the_hosts_reserve_follow_whole() {
    if !has_post_copy() {
        return;
    }
    // For the guest that moves and the one that takes its place.
    if free_huge_pages() < 2 * 32 {
        return say_skipped("fewer than 64 free huge pages of 2 MiB (sysctl vm.nr_hugepages)");
    }
    moves_in_all_modes(
        &["--memory", "64M", "--cpus", "2", "--huge-pages", "2m"],
        "check=8M,rate:5000,verify:50000",
        "dirty=24M,pattern:zipf,rate:12000,entropy:100",
    );
}

fn free_huge_pages() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = memory
        .lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.map_or(0, |number| number.trim().parse().unwrap())
}

#[test]
#[ignore = "minutes: every pattern, 1 and 4 vCPUs, up to 1 GiB, with huge pages and rings"]
fn a_guest_is_moved_in_every_mode_long_form() {
    if !has_post_copy() {
        return;
    }
    for memory in ["64M", "256M", "1G"] {
        for cpus in ["1", "4"] {
            for pattern in ["seq", "random", "zipf"] {
                for (huge_pages, log) in [("none", "bitmap"), ("transparent", "ring")] {
                    moves_in_all_modes(
                        &[
                            "--memory",
                            memory,
                            "--cpus",
                            cpus,
                            "--huge-pages",
                            huge_pages,
                            "--dirty-log",
                            log,
                        ],
                        "check=16M,rate:5000,verify:50000",
                        &format!("dirty=24M,pattern:{pattern},rate:12000,entropy:100"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_disk_is_written_through_memory_that_is_not_there_yet_and_no_write_is_lost_or_repeated() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cmdline =
        "heartbeat=20 every=50 blk=size:8M,flush:7 check=32M,rate:20000,verify:50000 regs";
    let mut guest = with_disk(dir, "0.sock", cmdline);
    assert_eq!(report(&mut guest, "blk writes=", "lost"), 0);
    assert_healthy(&mut guest);
    for (turn, mode) in ["post-copy", "hybrid", "post-copy"].into_iter().enumerate() {
        let next = format!("{}.sock", turn + 1);
        let (target, to, token) = receive(dir, &format!("token{turn}"), &["--socket", &next]);
        // A second and more in which requests of the disk need pages that are missing.
        let options = ["--mode", mode, "--bandwidth=24M", "--downtime-limit=1"];
        let here = format!("{turn}.sock");
        let (moved, receipt) = migrate(dir, &here, &to, &token, &options);
        assert_eq!(moved.code, Some(0), "{mode}: {}", moved.stderr);
        assert!(phases(&receipt).contains(&"post-copy"), "{receipt}");
        guest = target;
        for _ in 0..3 {
            let line = guest.line("blk writes=");
            for counter in ["lost", "repeated", "errors"] {
                assert_eq!(field(&line, counter), 0, "{mode}: {line}");
            }
        }
        assert_healthy(&mut guest);
    }
}

#[test]
fn a_guest_goes_to_and_fro_many_times_in_changing_modes_unharmed() {
    if !has_post_copy() {
        return;
    }
    let times = std::env::var("GODWIT_PING_PONG").map_or(20, |times| times.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut guest = start(
        dir,
        "0.sock",
        &["--memory", "32M", "--cpus", "2"],
        "heartbeat=20 every=50 check=8M,rate:20000,verify:100000 regs",
    );
    assert_healthy(&mut guest);
    let mut beat = 0;
    for turn in 0..times {
        let mode = ["pre-copy", "post-copy", "hybrid"][turn % 3];
        let (here, there) = (
            format!("{}.sock", turn % 2),
            format!("{}.sock", (turn + 1) % 2),
        );
        let name = format!("token{turn}");
        let (target, to, token) = receive(dir, &name, &["--socket", &there]);
        let (moved, _) = migrate(dir, &here, &to, &token, &["--mode", mode]);
        assert_eq!(
            moved.code,
            Some(0),
            "turn {turn}, {mode}: {}; the source (over: {}) said {}; the target said {}",
            moved.stderr,
            guest.is_over(),
            guest.said(),
            target.said()
        );
        assert_eq!(guest.end().code, Some(0), "turn {turn}");
        guest = target;
        let line = guest.line("heartbeat ");
        assert!(field(&line, "seq") > beat, "turn {turn}: {line}");
        beat = field(&line, "seq");
        assert_eq!(report(&mut guest, "check id=", "wrong"), 0, "turn {turn}");
        assert_eq!(report(&mut guest, "regs id=", "wrong"), 0, "turn {turn}");
        std::fs::remove_file(dir.join(name)).unwrap();
    }
}

#[test]
fn a_guest_that_resets_while_its_memory_follows_starts_anew_where_it_is() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Resets when 6 s have passed; its memory takes as long on this link.
    let cmdline = "heartbeat=20 every=100 dirty=24M,rate:100,entropy:100 for=6000 end=reset";
    let mut source = run(dir, "a.sock", "2", cmdline);
    source.line("dirty id=0 cpu=1 filled=");
    let (mut target, to, token) = receive(dir, "token", &["--socket", "b.sock"]);
    let request = slow_post_copy(&to, &token, 4 << 20);
    let moving = mover(dir, "a.sock", request);
    await_post_copy(dir, "a.sock");
    target.line("end how=reset");
    assert!(!moving.is_finished(), "its memory is there already");
    let moved = moving.join().unwrap().unwrap();
    assert!(moved.moved, "{}", moved.receipt);
    assert_eq!(source.end().code, Some(0));
    let first = target.line("godwit-payload version=");
    assert_eq!(field(&first, "cpus"), 2);
    assert_eq!(field(&target.line("heartbeat "), "seq"), 1);
    target.line("dirty id=0 cpu=1 filled=");
}

#[test]
fn a_link_that_is_cut_in_post_copy_is_made_again_and_no_page_is_lost() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "2", CHECK);
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "token", &["--socket", "b.sock"]);
    let relay = Relay::start(&to);
    let moving = mover(
        dir,
        "a.sock",
        slow_post_copy(&relay.address(), &token, 8 << 20),
    );
    await_post_copy(dir, "a.sock");
    target.line("heartbeat ");
    relay.cut();
    // Longer than a dead peer takes to be noticed.
    let mut client = Client::connect(&dir.join("a.sock")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let progress = client.migration_progress().unwrap().unwrap();
        let progress: Value = serde_json::from_str(&progress).unwrap();
        if progress["phase"] == "recovering" {
            break;
        }
        assert!(Instant::now() < deadline, "{progress}");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    relay.mend();
    let Moved { moved, receipt, .. } = moving.join().unwrap().unwrap();
    assert!(moved, "{receipt}");
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["recoveries"], 1, "{receipt}");
    assert_eq!(source.end().code, Some(0));
    assert_healthy(&mut target);
    assert_healthy(&mut target);
}

#[test]
fn a_source_that_dies_in_post_copy_takes_the_guest_with_it_and_that_is_said() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "2", CHECK);
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "token", &["--recovery-window", "1"]);
    let moving = mover(dir, "a.sock", slow_post_copy(&to, &token, 4 << 20));
    await_post_copy(dir, "a.sock");
    target.line("heartbeat ");
    drop(source);
    assert!(moving.join().unwrap().is_err());
    let ended = target.end();
    let lost = ErrorCode::PagesLost.exit_code();
    assert_eq!(ended.code, Some(lost.into()), "{}", ended.stderr);
    let wrong = ended
        .stdout
        .iter()
        .any(|line| line.starts_with("check wrong"));
    assert!(!wrong, "{:#?}", ended.stdout);
}

#[test]
fn a_link_that_stays_cut_leaves_nobody_waiting_and_no_guest_on_either_side() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "token", &["--recovery-window", "2"]);
    let relay = Relay::start(&to);
    let request = MigrateRequest {
        recovery_window_ms: Some(2000),
        ..slow_post_copy(&relay.address(), &token, 4 << 20)
    };
    let moving = mover(dir, "a.sock", request);
    await_post_copy(dir, "a.sock");
    target.line("heartbeat ");
    relay.cut();
    let Moved { moved, receipt, .. } = moving.join().unwrap().unwrap();
    assert!(!moved);
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["outcome"]["result"], "unconfirmed", "{receipt}");
    let ended = target.end();
    assert_eq!(ended.code, Some(ErrorCode::PagesLost.exit_code().into()));
    // The source never runs it again.
    let mut client = Client::connect(&dir.join("a.sock")).unwrap();
    match client.resume() {
        Err(ClientError::Refused(error)) => assert_eq!(error.code(), ErrorCode::WrongState),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_whose_memory_still_follows_is_not_changed_nor_moved_on() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "token", &["--socket", "b.sock"]);
    let moving = mover(dir, "a.sock", slow_post_copy(&to, &token, 16 << 20));
    await_post_copy(dir, "a.sock");
    target.line("heartbeat ");
    let mut client = Client::connect(&dir.join("b.sock")).unwrap();
    let (_third, onward, onward_token) = receive(dir, "token2", &[]);
    for refused in [
        client.pause().unwrap_err(),
        client.reset().unwrap_err(),
        client
            .snapshot(dir.join("snapshot").to_str().unwrap())
            .map(drop)
            .unwrap_err(),
        client
            .migrate(request(&onward, &onward_token))
            .map(drop)
            .unwrap_err(),
    ] {
        match refused {
            ClientError::Refused(error) => {
                assert_eq!(error.code(), ErrorCode::WrongState, "{error}");
            }
            other => panic!("{other}"),
        }
    }
    let Moved { moved, receipt, .. } = moving.join().unwrap().unwrap();
    assert!(moved, "{receipt}");
    client.pause().unwrap();
    client.resume().unwrap();
    assert_healthy(&mut target);
}

#[test]
fn a_guest_that_ends_while_its_memory_follows_is_not_held_up_and_its_source_goes() {
    if !has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "2", CHECK);
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "token", &["--socket", "b.sock"]);
    let moving = mover(dir, "a.sock", slow_post_copy(&to, &token, 2 << 20));
    await_post_copy(dir, "a.sock");
    target.line("heartbeat ");
    let client = Client::connect(&dir.join("b.sock")).unwrap();
    assert_eq!(client.stop().unwrap(), ExitReason::Stopped);
    assert_eq!(target.end().code, Some(0));
    let Moved { moved, receipt, .. } = moving.join().unwrap().unwrap();
    assert!(moved, "{receipt}");
    assert_eq!(source.end().code, Some(0));
}
