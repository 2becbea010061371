//! Guests that go back where they came from, whose memory was kept there.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use godwit_node::guest_process::keeper;
use serde_json::Value;

use crate::moving::{assert_healthy, receive, run, wait_for};
use crate::support::{GODWIT, PATIENCE, Running, godwit, has_kvm};

/// A guest that writes little of its memory, and finds every wrong page.
const CALM: &str = "heartbeat=20 every=50 check=48M,rate:500,verify:100000 regs";

/// Moves the guest, whose memory is kept for a minute, and returns its new process and the receipt.
fn go(dir: &Path, from: &str, to: &str) -> (Running, Value) {
    let (target, address, token) = receive(dir, &format!("{to}.token"), &["--socket", to]);
    let moved = godwit(
        dir,
        &[
            "migrate", "--verify", "--retain", "60", "--json", "--from", from, "--to", &address,
            "--token", &token,
        ],
    );
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    let receipt: Value = serde_json::from_str(&moved.stdout[0]).unwrap();
    assert_eq!(receipt["outcome"]["result"], "completed");
    (target, receipt)
}

fn bytes(receipt: &Value) -> f64 {
    let kinds = receipt["bytes"].as_object().unwrap();
    kinds.values().filter_map(Value::as_f64).sum()
}

/// Ends the process that keeps what was left by the migration of `receipt`.
fn forget(receipt: &Value) {
    let left_by = receipt["migration"].as_str().unwrap().parse().unwrap();
    if let Ok(client) =
        godwit_node::guest_process::client::Client::connect(&keeper::socket_of(left_by).unwrap())
    {
        let _ = client.take_over();
    }
}

fn await_keeper(receipt: &Value) {
    let left_by = receipt["migration"].as_str().unwrap().parse().unwrap();
    crate::moving::wait_for(&keeper::socket_of(left_by).unwrap());
}

#[test]
fn a_guest_that_goes_back_sends_only_what_changed() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut here = run(dir, "here.sock", "2", CALM);
    assert_healthy(&mut here);
    let (mut there, first) = go(dir, "here.sock", "there.sock");
    await_keeper(&first);
    assert_healthy(&mut there);
    let (mut back, second) = go(dir, "there.sock", "back.sock");
    assert_healthy(&mut back);
    await_keeper(&second);
    assert!(
        bytes(&second) < 0.5 * bytes(&first),
        "{} bytes there, {} back",
        bytes(&first),
        bytes(&second)
    );
    // And once more: what was kept at the other end is as good.
    let (mut again, third) = go(dir, "back.sock", "again.sock");
    assert_healthy(&mut again);
    assert!(
        bytes(&third) < 0.5 * bytes(&first),
        "{} bytes, then {}",
        bytes(&first),
        bytes(&third)
    );
    await_keeper(&third);
    forget(&third);
    again.type_keys(b"\x01x");
    assert_eq!(again.end().code, Some(0));
}

#[test]
fn a_guest_whose_memory_is_not_kept_any_more_goes_back_whole() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut here = run(dir, "here.sock", "1", CALM);
    assert_healthy(&mut here);
    let (mut there, first) = go(dir, "here.sock", "there.sock");
    await_keeper(&first);
    forget(&first);
    assert_healthy(&mut there);
    std::thread::sleep(Duration::from_millis(100));
    let (mut back, second) = go(dir, "there.sock", "back.sock");
    assert_healthy(&mut back);
    assert!(bytes(&second) > 0.5 * bytes(&first));
    await_keeper(&second);
    forget(&second);
    back.type_keys(b"\x01x");
    assert_eq!(back.end().code, Some(0));
}

/// Kills the process that keeps what was left by the migration of `receipt`, and waits until it is gone.
fn kill_keeper(receipt: &Value) {
    let left_by = receipt["migration"].as_str().unwrap();
    let is_keeper = |pid: &str| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("keep-memory") && words.contains(left_by)
    };
    let find = || {
        let entries = fs::read_dir("/proc").unwrap();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| is_keeper(name)).collect::<Vec<_>>()
    };
    let keepers = find();
    assert_eq!(keepers.len(), 1, "keepers of {left_by}: {keepers:?}");
    let killed = Command::new("kill").args(["-KILL", &keepers[0]]).status();
    assert!(killed.unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while !find().is_empty() {
        assert!(Instant::now() < deadline, "the keeper does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_keeper_that_dies_while_it_hands_memory_over_costs_the_guest_only_the_short_way() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut here = run(dir, "here.sock", "1", CALM);
    assert_healthy(&mut here);
    let (mut there, first) = go(dir, "here.sock", "there.sock");
    await_keeper(&first);
    kill_keeper(&first);
    // In its place one that dies when it has heard the first words.
    let left_by = first["migration"].as_str().unwrap().parse().unwrap();
    let socket = keeper::socket_of(left_by).unwrap();
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let dying = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read(&mut [0; 1]).unwrap()
    });
    assert_healthy(&mut there);
    let (mut back, second) = go(dir, "there.sock", "back.sock");
    assert_eq!(dying.join().unwrap(), 1, "it was asked");
    assert_healthy(&mut back);
    assert!(bytes(&second) > 0.5 * bytes(&first));
    await_keeper(&second);
    forget(&second);
    let _ = fs::remove_file(&socket);
    back.type_keys(b"\x01x");
    assert_eq!(back.end().code, Some(0));
}

#[test]
fn memory_that_is_not_kept_as_asked_is_told_to_who_asked() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let words = [
        "run",
        "--socket",
        "a.sock",
        "--memory",
        "64M",
        "--cmdline",
        CALM,
    ];
    for (turn, more) in [&["--json"][..], &[]].into_iter().enumerate() {
        // A keeper has no place for its socket: the file system is full, or not there where none can be mounted.
        let mut source = Command::new("unshare");
        source
            .args(["--mount", "sh", "-c"])
            .arg("mkdir full && mount -t tmpfs -o size=4k,nr_inodes=1 none full; exec \"$@\"");
        source.arg("sh").arg(GODWIT).args(words);
        source.env("XDG_RUNTIME_DIR", dir.join("full"));
        let can = Command::new("unshare").args(["--mount", "true"]).status();
        if !can.is_ok_and(|status| status.success()) {
            source = Command::new(GODWIT);
            source.args(words).env("XDG_RUNTIME_DIR", dir.join("full"));
        }
        let _ = fs::remove_dir(dir.join("full"));
        let _ = fs::remove_file(dir.join("a.sock"));
        let mut source = Running::spawn(dir, &mut source);
        wait_for(&dir.join("a.sock"));
        assert_healthy(&mut source);
        let (mut target, to, token) = receive(dir, &format!("token{turn}"), &[]);
        let asked = [
            "migrate", "--from", "a.sock", "--to", &to, "--token", &token,
        ];
        let moved = godwit(dir, &[&asked[..], &["--retain", "60"], more].concat());
        assert_eq!(moved.code, Some(0), "{}", moved.stderr);
        let told = match more {
            [] => moved.stderr,
            _ => {
                let receipt: Value = serde_json::from_str(&moved.stdout[0]).unwrap();
                receipt["warnings"][0].as_str().unwrap().to_owned()
            }
        };
        assert!(told.contains("memory is not kept"), "{told}");
        assert_eq!(source.end().code, Some(0));
        assert_healthy(&mut target);
    }
}

#[test]
fn a_guest_that_was_restored_lazily_is_moved_with_all_its_memory() {
    if !has_kvm() || !crate::migrate_modes::has_post_copy() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut guest = run(dir, "a.sock", "2", CALM);
    assert_healthy(&mut guest);
    let snapshot = dir.join("snapshot");
    let snap = ["vmm-ctl", "--socket", "a.sock", "snapshot", "snapshot"];
    let taken = godwit(dir, &snap);
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    drop(guest);
    for mode in ["pre-copy", "post-copy"] {
        let socket = format!("{mode}.sock");
        let words = ["restore", snapshot.to_str().unwrap(), "--socket", &socket];
        // At once, while most of its memory is still in the file.
        let restored = Running::start(dir, &words);
        wait_for(&dir.join(&socket));
        let (mut target, to, token) = receive(dir, &format!("{mode}.token"), &[]);
        let asked = ["migrate", "--from", &socket, "--to", &to, "--token", &token];
        let moved = godwit(dir, &[&asked[..], &["--mode", mode, "--verify"]].concat());
        assert_eq!(moved.code, Some(0), "{mode}: {}", moved.stderr);
        assert_eq!(restored.end().code, Some(0));
        assert_healthy(&mut target);
    }
}
