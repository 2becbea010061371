//! Moves to where there is too little: memory, time, room, permission. Some of it is injected, some real.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use godwit_proto::codes::ErrorCode;

use crate::moving::{CHECK, assert_healthy, migrate, receive, receive_by, report, run, wait_for};
use crate::support::{Ended, GODWIT, PATIENCE, Running, godwit, has_kvm, say_skipped};

fn assert_code(ended: &Ended, code: ErrorCode) {
    let expected = Some(i32::from(code.exit_code()));
    assert_eq!(ended.code, expected, "{code:?}: {}", ended.stderr);
}

/// A guest that takes faults.
fn chaotic(dir: &Path, cmdline: &str) -> Running {
    let words = ["run", "--chaos", "--socket", "a.sock", "--memory", "64M"];
    let guest = Running::start(dir, &[&words[..], &["--cmdline", cmdline]].concat());
    wait_for(&dir.join("a.sock"));
    guest
}

fn migrate_with(dir: &Path, to: &str, token: &str, more: &[&str]) -> Ended {
    let words = ["migrate", "--from", "a.sock", "--to", to, "--token", token];
    godwit(dir, &[&words[..], more].concat())
}

#[test]
fn what_lacks_room_or_memory_says_so_at_both_ends_and_the_retry_succeeds() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = chaotic(
        dir,
        "heartbeat=20 every=50 check=4M,rate:1000,verify:10000 regs",
    );
    assert_healthy(&mut source);
    for (number, (inject, code)) in [
        ("target:prepare=out-of-memory", ErrorCode::Memory),
        ("target:apply-batch=out-of-memory", ErrorCode::Memory),
        ("target:restore-state=disk-full", ErrorCode::DiskIo),
        ("source:start-dirty-log=out-of-memory", ErrorCode::Memory),
        ("source:save-state=disk-full", ErrorCode::DiskIo),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("token{number}");
        let here = ["--inject", inject];
        let (target, moved) = if inject.starts_with("target") {
            let more = [&["--chaos"], &here[..]].concat();
            let (target, to, token) = receive(dir, &name, &more);
            (target, migrate_with(dir, &to, &token, &[]))
        } else {
            let (target, to, token) = receive(dir, &name, &[]);
            (target, migrate_with(dir, &to, &token, &here))
        };
        assert_code(&moved, code);
        assert_code(&target.end(), code);
        assert_healthy(&mut source);
    }
    let (mut target, to, token) = receive(dir, "token", &[]);
    assert_eq!(migrate(dir, "a.sock", &to, &token).code, Some(0));
    assert_healthy(&mut target);
}

#[test]
fn a_process_takes_faults_only_if_it_was_started_for_them() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    let (target, to, token) = receive(dir, "token", &[]);
    let fault = ["--inject", "source:pause-guest=kill"];
    assert_code(
        &migrate_with(dir, &to, &token, &fault),
        ErrorCode::WrongState,
    );
    assert_healthy(&mut source);
    drop(target);
    let fault = ["--inject", "target:prepare=kill"];
    let receive_words = ["receive", "--listen", "127.0.0.1:0"];
    let refused = godwit(dir, &[&receive_words[..], &fault].concat());
    assert_code(&refused, ErrorCode::Usage);
    for nonsense in ["target:nowhere=kill", "source:finish=kill", "kill", ""] {
        let words = ["--chaos", "--inject", nonsense];
        let refused = godwit(dir, &[&receive_words[..], &words].concat());
        assert_code(&refused, ErrorCode::Usage);
    }
}

#[test]
fn a_guest_that_was_slowed_for_a_move_has_all_its_time_back_when_it_fails() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cmdline = "heartbeat=20 every=100 dirty=6M,rate:4000,entropy:100";
    let mut source = chaotic(dir, cmdline);
    let undisturbed = steady_rate(&mut source);
    for (number, (fault, downtime_limit)) in [
        // The second time, so that it is slowed already; and no blackout is short enough.
        ("source:set-throttle@2=error", "1"),
        ("source:set-throttle@2=cancel", "1"),
        // It is given up while it is slow.
        ("target:resume-guest=error", "1000"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("token{number}");
        let inject = ["--inject", fault];
        let (here, there) = match fault.starts_with("source") {
            true => (&inject[..], &[][..]),
            false => (&[][..], &inject[..]),
        };
        let (target, to, token) = receive(dir, &name, &[&["--chaos"], there].concat());
        // A quarter of what the guest writes.
        let words = ["--mode", "pre-copy", "--bandwidth", "4M"];
        let slow = ["--throttle-start", "70", "--downtime-limit", downtime_limit];
        let words = [&words[..], &slow].concat();
        let moved = migrate_with(dir, &to, &token, &[&words[..], here].concat());
        assert!(!matches!(moved.code, Some(0) | None), "{}", moved.stderr);
        let ended = target.end();
        assert_ne!(ended.code, Some(0));
        let said = source.said() + &ended.stderr;
        assert!(
            said.contains(&fault.replace('=', "@1=").replace("@2@1", "@2")),
            "{said}"
        );
        // It may take a while on a busy machine, but not for ever.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rate = steady_rate(&mut source);
            if rate * 2 > undisturbed {
                break;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "{fault}: {rate} of {undisturbed} pages a second");
        }
    }
}

/// Pages a second that the guest writes, by the best of its next reports.
fn steady_rate(guest: &mut Running) -> u64 {
    guest.lines_so_far();
    let rates = (0..10).map(|_| report(guest, "dirty id=", "rate"));
    rates.max().unwrap()
}

#[test]
fn a_target_that_may_not_map_the_guest_refuses_it() {
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
        "4G",
        "--cmdline",
        CHECK,
    ];
    let mut source = Running::start(dir, &words);
    wait_for(&dir.join("a.sock"));
    let mut limited = Command::new("sh");
    // Address space, in KiB: enough for the program, not for the guest.
    limited.args(["-c", "ulimit -v 3000000; exec \"$@\"", "sh", GODWIT]);
    let (target, to, token) = receive_by(dir, "token", &["--overcommit"], limited);
    let moved = migrate(dir, "a.sock", &to, &token);
    assert_code(&moved, ErrorCode::Memory);
    assert_code(&target.end(), ErrorCode::Memory);
    assert_healthy(&mut source);
}

/// A control group with a limit, gone when dropped.
struct Group(PathBuf);

impl Group {
    /// `None`, said loudly, when none can be made.
    fn limited_to(bytes: u64) -> Option<Self> {
        let name = format!("godwit-test-{}", std::process::id());
        for (root, limit) in [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ] {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            // Elsewhere it would be a directory like any other.
            let real = group.0.join(limit).exists();
            if real && fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        say_skipped("no control group with a memory limit can be made: wants root");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets go of those that were killed in it a moment later.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_target_without_enough_memory_refuses_or_is_killed_and_the_guest_stays() {
    if !has_kvm() {
        return;
    }
    let Some(group) = Group::limited_to(48 << 20) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(
        dir,
        "a.sock",
        "1",
        "heartbeat=20 every=50 check=80M,rate:500 regs",
    );
    report(&mut source, "check id=", "filled");
    let limited = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell.arg(group.0.join("cgroup.procs")).arg(GODWIT);
        shell
    };
    let (target, to, token) = receive_by(dir, "token", &[], limited());
    let moved = migrate(dir, "a.sock", &to, &token);
    assert_code(&moved, ErrorCode::Memory);
    assert!(moved.stderr.contains("--overcommit"), "{}", moved.stderr);
    assert_code(&target.end(), ErrorCode::Memory);
    assert_healthy(&mut source);

    // It takes its chance, and the kernel kills it when memory has run out.
    let (target, to, token) = receive_by(dir, "token2", &["--overcommit"], limited());
    let moved = migrate(dir, "a.sock", &to, &token);
    assert_code(&moved, ErrorCode::LinkLost);
    assert_eq!(target.end().code, None, "killed");
    assert_healthy(&mut source);

    let (mut target, to, token) = receive(dir, "token3", &[]);
    assert_eq!(migrate(dir, "a.sock", &to, &token).code, Some(0));
    assert_healthy(&mut target);
}

#[test]
fn a_target_whose_disk_for_the_consoles_output_is_full_runs_the_guest_all_the_same() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "1", CHECK);
    assert_healthy(&mut source);
    // The kernel answers each write to it that the device is full.
    let more = ["--serial", "file:/dev/full", "--socket", "b.sock"];
    let (silent, to, token) = receive(dir, "token", &more);
    let moved = migrate(dir, "a.sock", &to, &token);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    let before = source.end();
    assert_eq!(before.code, Some(0));

    let (mut target, to, token) = receive(dir, "token2", &["--serial", "stdio"]);
    let moved = migrate(dir, "b.sock", &to, &token);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    assert_eq!(silent.end().code, Some(0));
    assert_healthy(&mut target);
}
