//! Guests that move between two processes, over real sockets.

use godwit_node::guest_process::client::{Client, ClientError, Moved};
use godwit_proto::codes::ErrorCode;
use rustix::process::{Pid, Signal};

use crate::moving::{
    CHECK, assert_healthy, migrate, move_slowly, receive, report, request, run, with_disk,
};
use crate::support::{Running, field, godwit, has_kvm, names};

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
        // No beat is lost, and none comes twice. One that the guest was telling when it moved begins here
        // and ends there.
        let whole = |line: &&String| line.starts_with("heartbeat ") && line.contains(" ticks=");
        let seen = left.stdout.iter().rfind(whole).unwrap();
        let last = left.stdout.last().unwrap();
        let split = last.starts_with('h') && !whole(&last);
        assert_eq!(
            field(seen, "seq") + 1 + u64::from(split),
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
        // Where it is, it does not go.
        let itself = migrate(dir, &to, &address, &token);
        assert_eq!(
            itself.code,
            Some(i32::from(ErrorCode::AlreadyMigrating.exit_code())),
            "{}",
            itself.stderr
        );
    }
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
    assert_eq!(
        failed.code,
        Some(i32::from(ErrorCode::NeverStarted.exit_code())),
        "{}",
        failed.stderr
    );
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
    let mover = move_slowly(dir, "a.sock", &to, &token);
    let mut client = Client::connect(&dir.join("a.sock")).unwrap();
    // While it moves, nobody else changes it, nor moves it.
    let refused = |error: ClientError, code: ErrorCode| match error {
        ClientError::Refused(error) => assert_eq!(error.code(), code),
        other => panic!("{other}"),
    };
    refused(client.pause().unwrap_err(), ErrorCode::WrongState);
    let another = client.migrate(request(&to, &token)).unwrap_err();
    refused(another, ErrorCode::AlreadyMigrating);
    client.cancel_migration().unwrap();
    let Moved { moved, receipt, .. } = mover.join().unwrap().unwrap();
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
    let mover = move_slowly(dir, "a.sock", &to, &token);
    // Dropping kills it with SIGKILL.
    drop(target);
    let Moved { moved, receipt, .. } = mover.join().unwrap().unwrap();
    assert!(!moved, "{receipt}");
    assert_healthy(&mut source);
}

fn terminate(process: &Running) {
    let pid = Pid::from_raw(process.pid()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
}

#[test]
fn a_target_that_is_told_to_stop_ends_at_once_and_the_guest_stays() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cancelled = Some(i32::from(ErrorCode::Cancelled.exit_code()));
    let (idle, ..) = receive(dir, "idle", &[]);
    terminate(&idle);
    let ended = idle.end();
    assert_eq!(ended.code, cancelled, "{}", ended.stderr);

    let mut source = run(dir, "a.sock", "1", CHECK);
    assert_healthy(&mut source);
    let (target, to, token) = receive(dir, "token", &[]);
    let mover = move_slowly(dir, "a.sock", &to, &token);
    terminate(&target);
    let ended = target.end();
    assert_eq!(ended.code, cancelled, "{}", ended.stderr);
    let Moved { moved, receipt, .. } = mover.join().unwrap().unwrap();
    assert!(!moved, "{receipt}");
    let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
    let code = ErrorCode::Cancelled.exit_code();
    assert_eq!(receipt["outcome"]["codes"][0], code, "{receipt}");
    assert_healthy(&mut source);
}
