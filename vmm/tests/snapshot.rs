//! Snapshots: what is restored is what was saved, and what is damaged is refused.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use godwit_proto::codes::ErrorCode;
use godwit_proto::guest::DiskSpec;
use godwit_vmm::guest::{Attachments, Guest, GuestError, GuestEvent, RestoreOptions};
use support::{Running, field, has_kvm, spec};

/// Memory, registers and timers, all checked by the guest itself.
const SELF_CHECK: &str = "heartbeat=20 every=50 check=8M,rate:20000,verify:50000 regs";

fn assert_healthy(guest: &mut Running, rounds: usize) {
    for _ in 0..rounds {
        assert_eq!(guest.report("check id=", "wrong"), 0);
        assert_eq!(guest.report("regs id=", "wrong"), 0);
        guest.line("heartbeat ");
    }
    assert!(
        !guest.log.iter().any(|l| l.contains(" wrong ")),
        "{:#?}",
        guest.log
    );
}

#[test]
fn a_restored_guest_goes_on_where_it_was() {
    if !has_kvm() {
        return;
    }
    for vcpus in [1, 2] {
        for lazy in [false, true] {
            let mut original = Running::start(&godwit_proto::guest::GuestSpec {
                vcpus,
                ..spec(SELF_CHECK)
            });
            assert_healthy(&mut original, 2);
            let place = tempfile::tempdir().unwrap();
            let dir = place.path().join("snapshot");
            original.guest.pause().unwrap();
            let report = original.guest.snapshot(&dir).unwrap();
            assert!(report.bytes_written > 8 << 20);
            original.drain();
            let last = original
                .log
                .iter()
                .rev()
                .find(|line| line.starts_with("heartbeat "))
                .expect("it has beaten")
                .clone();
            drop(original);

            let mut restored = Running::restore(&dir, lazy);
            restored.guest.resume().unwrap();
            let beat = restored.line("heartbeat ");
            assert_eq!(
                field(&beat, "seq"),
                field(&last, "seq") + 1,
                "{last} then {beat}"
            );
            let step = field(&beat, "time_ns") - field(&last, "time_ns");
            assert!(step < 5_000_000_000, "{last} then {beat}");
            assert_healthy(&mut restored, 3);
        }
    }
}

#[test]
fn a_running_guest_is_paused_for_its_snapshot_and_runs_on() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec(SELF_CHECK));
    assert_healthy(&mut guest, 1);
    let place = tempfile::tempdir().unwrap();
    let report = guest.guest.snapshot(&place.path().join("s")).unwrap();
    assert!(report.pause_ns > 0);
    guest.drain();
    assert_healthy(&mut guest, 2);
}

#[test]
fn nothing_resumes_a_guest_while_its_memory_is_written() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec(SELF_CHECK));
    assert_healthy(&mut guest, 1);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("s");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| guest.guest.snapshot(&dir).unwrap());
        // Either comes before or after the snapshot as a whole, never in between.
        for _ in 0..200 {
            let _ = guest.guest.resume();
            let _ = guest.guest.pause();
            let _ = guest.guest.stats();
        }
        writer.join().unwrap();
    });
    let mut restored = Running::restore(&dir, false);
    restored.guest.resume().unwrap();
    assert_healthy(&mut restored, 2);
}

#[test]
fn a_chain_of_ten_restores_stays_healthy() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mut guest = Running::start(&spec(SELF_CHECK));
    for turn in 0..10 {
        assert_healthy(&mut guest, 1);
        let dir = place.path().join(turn.to_string());
        guest.guest.snapshot(&dir).unwrap();
        drop(guest);
        guest = Running::restore(&dir, turn % 2 == 0);
        guest.guest.resume().unwrap();
    }
    assert_healthy(&mut guest, 1);
}

#[test]
fn no_disk_write_is_lost_or_repeated_over_a_restore() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk");
    fs::File::create(&path).unwrap().set_len(32 << 20).unwrap();
    let mut config = spec("every=50 blk=size:4M,flush:7 blk=1,size:4M,poll:on");
    let other = place.path().join("other");
    fs::File::create(&other).unwrap().set_len(32 << 20).unwrap();
    config.vcpus = 2;
    for (id, path) in [("a", &path), ("b", &other)] {
        config.disks.push(DiskSpec {
            id: id.into(),
            path: path.to_str().unwrap().into(),
            read_only: false,
            discard: false,
            direct: false,
        });
    }
    let mut guest = Running::start(&config);
    for turn in 0..4 {
        for _ in 0..4 {
            let line = guest.line("blk writes=");
            for counter in ["lost", "repeated", "errors"] {
                assert_eq!(field(&line, counter), 0, "{line}");
            }
        }
        let dir = place.path().join(turn.to_string());
        guest.guest.pause().unwrap();
        guest.guest.snapshot(&dir).unwrap();
        drop(guest);
        guest = Running::restore(&dir, true);
        guest.guest.resume().unwrap();
    }
    let line = guest.line("blk writes=");
    assert!(field(&line, "writes") > 0);
}

#[test]
fn a_restored_guest_can_be_reset() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("s");
    let mut guest = Running::start(&spec("heartbeat=20"));
    guest.line("heartbeat ");
    guest.guest.snapshot(&dir).unwrap();
    drop(guest);
    let mut restored = Running::restore(&dir, true);
    restored.guest.resume().unwrap();
    restored.line("heartbeat ");
    restored.guest.reset().unwrap();
    restored.line("godwit-payload ");
    restored.line("heartbeat ");
}

/// A snapshot of a small idle guest.
fn snapshot_in(place: &Path) -> std::path::PathBuf {
    let dir = place.join("good");
    let mut guest = Running::start(&spec("heartbeat=20"));
    guest.line("heartbeat ");
    guest.guest.snapshot(&dir).unwrap();
    dir
}

fn refused(dir: &Path, lazy: bool) -> GuestError {
    let options = RestoreOptions {
        lazy,
        ..Default::default()
    };
    match Guest::restore(dir, &options, Attachments::default()) {
        Ok(_) => panic!("a damaged snapshot was restored"),
        Err(error) => error,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in ["state", "memory"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_snapshot_that_is_cut_short_is_refused() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let good = snapshot_in(place.path());
    let state_len = fs::metadata(good.join("state")).unwrap().len();
    for (file, len) in [
        ("state", 0),
        ("state", 7),
        ("state", state_len / 2),
        ("state", state_len - 1),
        ("memory", 0),
        ("memory", (64 << 20) - 1),
    ] {
        let bad = place.path().join(format!("{file}-{len}"));
        copy(&good, &bad);
        fs::OpenOptions::new()
            .write(true)
            .open(bad.join(file))
            .unwrap()
            .set_len(len)
            .unwrap();
        let error = refused(&bad, true);
        assert_eq!(
            error.code(),
            ErrorCode::SnapshotInvalid,
            "{file} {len}: {error}"
        );
    }
    let nothing = refused(&place.path().join("nothing"), true);
    assert_eq!(nothing.code(), ErrorCode::SnapshotInvalid);
}

#[test]
fn a_flipped_bit_of_the_state_is_refused() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let good = snapshot_in(place.path());
    let bad = place.path().join("bad");
    copy(&good, &bad);
    let state = fs::read(good.join("state")).unwrap();
    for at in (0..state.len()).step_by(state.len() / 50) {
        let mut damaged = state.clone();
        damaged[at] ^= 0x04;
        fs::write(bad.join("state"), damaged).unwrap();
        let code = refused(&bad, true).code();
        assert!(
            matches!(code, ErrorCode::SnapshotInvalid | ErrorCode::SnapshotNewer),
            "byte {at}"
        );
    }
}

fn damage_memory(dir: &Path, at: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(dir.join("memory"))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x80], at).unwrap();
}

#[test]
fn damaged_memory_that_a_restore_needs_is_refused() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = snapshot_in(place.path());
    // The payload lies at 2 MiB, with the page that kvmclock is written to.
    for offset in (0..8).map(|n| (2 << 20) + n * (64 << 10)) {
        damage_memory(&dir, offset);
    }
    for lazy in [false, true] {
        let error = refused(&dir, lazy);
        assert_eq!(error.code(), ErrorCode::SnapshotInvalid);
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[test]
fn a_lazy_guest_that_meets_damaged_memory_is_stopped() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("s");
    let mut guest = Running::start(&spec(SELF_CHECK));
    assert_healthy(&mut guest, 1);
    guest.guest.snapshot(&dir).unwrap();
    drop(guest);
    // The region that the guest checks is the last of its memory.
    damage_memory(&dir, (62 << 20) + 77);
    let mut lazy = Running::restore(&dir, true);
    lazy.guest.resume().unwrap();
    match lazy.event() {
        GuestEvent::MemoryLost { cause } => assert!(cause.contains("damaged"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        lazy.guest.pause().unwrap_err().code(),
        ErrorCode::WrongState
    );
    assert!(!lazy.drain().iter().any(|line| line.contains("wrong gpa")));
}

#[test]
fn a_snapshot_from_a_newer_build_says_so() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let good = snapshot_in(place.path());
    let mut state = fs::read(good.join("state")).unwrap();
    // The version of the sequence follows its magic.
    state[6] = 0x7f;
    fs::write(good.join("state"), state).unwrap();
    assert_eq!(refused(&good, true).code(), ErrorCode::SnapshotNewer);
}

#[test]
fn a_snapshot_never_overwrites_and_leaves_nothing_when_it_fails() {
    if !has_kvm() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let guest = Running::start(&spec("heartbeat=20"));
    let taken = place.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = guest.guest.snapshot(&taken).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SnapshotWrite);
    let error = guest
        .guest
        .snapshot(&place.path().join("no/such/place"))
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::SnapshotWrite);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    guest.guest.pause().expect("it still runs");
}
