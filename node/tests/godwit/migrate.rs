//! Guests that move between two processes, over real sockets.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use godwit_node::guest_process::client::{Client, ClientError};
use godwit_proto::codes::ErrorCode;
use godwit_proto::process::MigrateRequest;

use crate::support::{Ended, PATIENCE, Running, godwit, has_kvm, names};

const CHECK: &str = "heartbeat=20 every=50 check=48M,rate:20000,verify:100000 regs";

/// The number behind `key=` in a line of the guest.
fn field(line: &str, key: &str) -> u64 {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no number {key} in {line:?}"))
}

/// The number `key` of the next line that begins with `start` and has it.
fn report(guest: &mut Running, start: &str, key: &str) -> u64 {
    loop {
        let line = guest.line(start);
        if line.contains(&format!(" {key}=")) {
            return field(&line, key);
        }
    }
}

fn run(dir: &Path, socket: &str, cpus: &str, cmdline: &str) -> Running {
    let guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            socket,
            "--memory",
            "128M",
            "--cpus",
            cpus,
            "--cmdline",
            cmdline,
        ],
    );
    wait_for(&dir.join(socket));
    guest
}

/// A process that waits for a guest, and where and with which token it does.
fn receive(dir: &Path, name: &str, more: &[&str]) -> (Running, String, String) {
    let mut args = vec!["receive", "--listen", "127.0.0.1:0", "--token-file", name];
    args.extend(more);
    let receiver = Running::start(dir, &args);
    wait_for(&dir.join(name));
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    (receiver, lines.next().unwrap(), lines.next().unwrap())
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} does not appear",
            path.display()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn migrate(dir: &Path, socket: &str, to: &str, token: &str) -> Ended {
    godwit(
        dir,
        &[
            "migrate", "--from", socket, "--to", to, "--token", token, "--json",
        ],
    )
}

fn request(to: &str, token: &str) -> MigrateRequest {
    MigrateRequest {
        to: to.into(),
        token: token.into(),
        downtime_limit_ms: None,
        timeout_ms: None,
        bandwidth_cap: None,
        streams: None,
        asked_by: "a test".into(),
        why: "to see".into(),
    }
}

fn assert_healthy(guest: &mut Running) {
    for _ in 0..2 {
        assert_eq!(report(guest, "check id=", "wrong"), 0);
        assert_eq!(report(guest, "regs id=", "wrong"), 0);
    }
}

#[test]
fn a_moved_guest_goes_on_and_finds_its_memory_right() {
    if !has_kvm() {
        return;
    }
    for cpus in ["1", "4"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut source = run(dir, "a.sock", cpus, CHECK);
        assert_healthy(&mut source);
        let (mut target, to, token) = receive(dir, "token", &[]);
        let beat = source.line("heartbeat ");
        let moved = migrate(dir, "a.sock", &to, &token);
        assert_eq!(moved.code, Some(0), "{}", moved.stderr);
        let receipt: serde_json::Value = serde_json::from_str(&moved.stdout[0]).unwrap();
        assert_eq!(receipt["outcome"]["result"], "completed");
        assert!(receipt["blackout"]["total_ms"].as_f64().unwrap() > 0.0);
        let left = source.end();
        assert_eq!(left.code, Some(0));
        assert!(left.stderr.contains("runs elsewhere"), "{}", left.stderr);

        let first = target.line("heartbeat ");
        assert!(
            field(&first, "seq") > field(&beat, "seq"),
            "{beat} then {first}"
        );
        assert!(
            field(&first, "time_ns") > field(&beat, "time_ns"),
            "{beat} then {first}"
        );
        // No beat is lost, and none comes twice.
        let mut seen = left
            .stdout
            .iter()
            .filter(|line| line.starts_with("heartbeat "));
        assert_eq!(
            field(seen.next_back().unwrap(), "seq") + 1,
            field(&first, "seq")
        );
        assert_healthy(&mut target);
        target.type_keys(b"\x01x");
        assert_eq!(target.end().code, Some(0));
        assert_eq!(names(dir), ["token"]);
    }
}

#[test]
fn a_guest_goes_round_in_circles_unharmed() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut guest = run(dir, "0.sock", "2", CHECK);
    assert_healthy(&mut guest);
    for turn in 0..5 {
        let (from, to) = (format!("{turn}.sock"), format!("{}.sock", turn + 1));
        let (target, address, token) = receive(dir, &format!("token{turn}"), &["--socket", &to]);
        let moved = migrate(dir, &from, &address, &token);
        assert_eq!(moved.code, Some(0), "turn {turn}: {}", moved.stderr);
        guest = target;
        assert_healthy(&mut guest);
    }
}

fn with_disk(dir: &Path, socket: &str, cmdline: &str) -> Running {
    std::fs::File::create(dir.join("disk"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            socket,
            "--memory",
            "64M",
            "--cpus",
            "2",
            "--disk",
            "disk",
            "--cmdline",
            cmdline,
        ],
    );
    wait_for(&dir.join(socket));
    guest
}

#[test]
fn a_disk_goes_with_its_guest_and_no_write_is_lost_or_repeated() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut guest = with_disk(dir, "0.sock", "every=50 blk=size:8M,flush:7 check=8M,cpu:0");
    assert_eq!(report(&mut guest, "blk writes=", "lost"), 0);
    for turn in 0..3 {
        let (from, to) = (format!("{turn}.sock"), format!("{}.sock", turn + 1));
        let (target, address, token) = receive(dir, &format!("token{turn}"), &["--socket", &to]);
        let moved = migrate(dir, &from, &address, &token);
        assert_eq!(moved.code, Some(0), "turn {turn}: {}", moved.stderr);
        guest = target;
        for _ in 0..3 {
            let line = guest.line("blk writes=");
            for counter in ["lost", "repeated", "errors"] {
                assert_eq!(field(&line, counter), 0, "turn {turn}: {line}");
            }
        }
        // Nobody else has the disk, and nobody else gets it.
        let other = godwit(dir, &["run", "--disk", "disk"]);
        assert_eq!(
            other.code,
            Some(i32::from(ErrorCode::Disk.exit_code())),
            "{}",
            other.stderr
        );
    }
}

#[test]
fn a_target_that_cannot_have_the_guest_leaves_it_where_it_is() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = with_disk(dir, "a.sock", CHECK);
    let (target, to, token) = receive(dir, "token", &["--disk", "disk0=missing"]);
    let refused = migrate(dir, "a.sock", &to, &token);
    assert_eq!(
        refused.code,
        Some(i32::from(ErrorCode::Disk.exit_code())),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("does not exist"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        target.end().code,
        Some(i32::from(ErrorCode::Disk.exit_code()))
    );
    assert_healthy(&mut source);
}

#[test]
fn a_guest_whose_disk_another_takes_at_the_last_moment_goes_on_at_the_source() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = with_disk(dir, "a.sock", CHECK);
    assert_healthy(&mut source);
    // The target is to use a copy, which a third guest uses already: it learns that when the guest is
    // to run, after the source has given it up.
    std::fs::copy(dir.join("disk"), dir.join("copy")).unwrap();
    let mut third = Running::start(dir, &["run", "--disk", "copy"]);
    third.line("heartbeat ");
    let (target, to, token) = receive(dir, "token", &["--disk", "disk0=copy"]);
    let failed = migrate(dir, "a.sock", &to, &token);
    assert!(!matches!(failed.code, Some(0) | None), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("in use by another guest"),
        "{}",
        failed.stderr
    );
    assert_ne!(target.end().code, Some(0));
    assert_healthy(&mut source);
    third.line("heartbeat ");
}

#[test]
fn a_wrong_token_moves_nothing() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    let (_other, _, of_another) = receive(dir, "other", &[]);
    let (mut target, to, token) = receive(dir, "token", &[]);
    for wrong in [of_another.as_str(), "nonsense", ""] {
        let refused = migrate(dir, "a.sock", &to, wrong);
        assert!(
            !matches!(refused.code, Some(0) | None),
            "{wrong}: {}",
            refused.stderr
        );
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    assert_healthy(&mut source);
    // The right one still does.
    assert_eq!(migrate(dir, "a.sock", &to, &token).code, Some(0));
    assert_healthy(&mut target);
}

#[test]
fn nobody_at_the_target_is_noticed_and_the_guest_stays() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    let (target, to, token) = receive(dir, "token", &[]);
    drop(target);
    let failed = migrate(dir, "a.sock", &to, &token);
    assert!(!matches!(failed.code, Some(0) | None), "{}", failed.stderr);
    assert_healthy(&mut source);
}

#[test]
fn a_cancelled_migration_leaves_the_guest_undisturbed_and_the_next_succeeds() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    assert_healthy(&mut source);
    let (target, to, token) = receive(dir, "token", &[]);
    let mut slow = request(&to, &token);
    slow.bandwidth_cap = Some(4 << 20);
    let socket = dir.join("a.sock");
    let mover = {
        let socket = socket.clone();
        thread::spawn(move || Client::connect(&socket).unwrap().migrate(slow))
    };
    let mut client = Client::connect(&socket).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.migration_progress().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the migration does not begin");
        thread::sleep(Duration::from_millis(10));
    }
    // While it moves, nobody else changes it, nor moves it.
    let refused = |error: ClientError| match error {
        ClientError::Refused(error) => assert_eq!(error.code(), ErrorCode::WrongState),
        other => panic!("{other}"),
    };
    refused(client.pause().unwrap_err());
    refused(client.migrate(request(&to, &token)).unwrap_err());
    client.cancel_migration().unwrap();
    let (moved, receipt) = mover.join().unwrap().unwrap();
    assert!(!moved, "{receipt}");
    assert_ne!(target.end().code, Some(0));
    assert_healthy(&mut source);

    let (mut target, to, token) = receive(dir, "token2", &[]);
    assert_eq!(migrate(dir, "a.sock", &to, &token).code, Some(0));
    assert_healthy(&mut target);
}

#[test]
fn a_target_that_is_killed_while_memory_is_copied_costs_nothing() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "2", CHECK);
    assert_healthy(&mut source);
    let (target, to, token) = receive(dir, "token", &[]);
    let mut slow = request(&to, &token);
    slow.bandwidth_cap = Some(4 << 20);
    let socket = dir.join("a.sock");
    let mover = {
        let socket = socket.clone();
        thread::spawn(move || Client::connect(&socket).unwrap().migrate(slow))
    };
    let mut client = Client::connect(&socket).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.migration_progress().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the migration does not begin");
        thread::sleep(Duration::from_millis(10));
    }
    // Dropping kills it with SIGKILL.
    drop(target);
    let (moved, receipt) = mover.join().unwrap().unwrap();
    assert!(!moved, "{receipt}");
    assert_healthy(&mut source);
}
