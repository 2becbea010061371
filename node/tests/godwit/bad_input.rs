//! Each wrong thing is one line on stderr with cause and fix, an exit code, and nothing left behind.

use std::fs;
use std::path::Path;

use crate::support::{Ended, Running, godwit, has_kvm, names, say_skipped};

fn refused(ended: &Ended, code: i32, what: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for text in what {
        assert!(
            ended.stderr.contains(text),
            "{text:?} is not in {}",
            ended.stderr
        );
    }
}

#[test]
fn a_guest_that_cannot_be_is_refused_with_its_code_and_leaves_nothing() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let elf = fs::read(crate::support::GODWIT).unwrap();
    fs::write(dir.path().join("text"), "not a kernel").unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    fs::write(dir.path().join("short"), &elf[..40]).unwrap();
    let sparse = fs::File::create(dir.path().join("big")).unwrap();
    sparse.set_len(8 << 30).unwrap();
    let before = names(dir.path());
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["--kernel", "none"], 11, &["none"]),
        (&["--kernel", "text"], 11, &["not an x86-64 ELF or bzImage"]),
        (&["--kernel", "empty"], 11, &["empty"]),
        (&["--kernel", "short"], 11, &[]),
        (&["--kernel", "big"], 11, &[]),
        (&["--kernel", "."], 11, &["regular file"]),
        (&["--initrd", "text"], 10, &["kernel"]),
        (&["--cpus", "0"], 10, &["1 to 64"]),
        (&["--cpus", "65"], 10, &["1 to 64"]),
        (&["--memory", "0"], 10, &[]),
        (&["--memory", "15M"], 10, &[]),
        (&["--memory", "2T"], 10, &[]),
        (&["--name", ""], 10, &["letters"]),
        (&["--cpu-profile", "pentium"], 10, &["pentium"]),
        (&["--disk", "none"], 13, &["none", "create"]),
        (&["--disk", "empty"], 13, &["size 0"]),
        (
            &["--net", "tap=a-name-longer-than-any"],
            14,
            &["a-name-longer-than-any"],
        ),
        (&["--serial", "file:no/such/file"], 26, &["no/such/file"]),
        (
            &["--serial", "socket:no/such/socket"],
            26,
            &["no/such/socket"],
        ),
        (&["--serial", "socket:text"], 26, &["not a socket"]),
        (&["--console", "stdio"], 10, &["stdio"]),
        (&["--socket", "no/such/socket"], 1, &["no/such/socket"]),
    ];
    for (args, code, what) in cases {
        let socket = ["run", "--socket", "g.sock"];
        let begin = if args[0] == "--socket" {
            &socket[..1]
        } else {
            &socket[..]
        };
        let log = ["--serial", "file:new.log"];
        let log = if ["--serial", "--console"].contains(&args[0]) {
            &log[..0]
        } else {
            &log[..]
        };
        let args = [begin, log, args].concat();
        let ended = godwit(dir.path(), &args);
        println!("{args:?}: {}", ended.stderr.trim_end());
        refused(&ended, *code, what);
        assert_eq!(names(dir.path()), before, "{args:?} left something behind");
    }
}

#[test]
fn what_is_not_an_option_is_refused_as_usage() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["run", "--memory", "lots"][..],
        &["run", "--disk", "a,cache=none"],
        &["run", "--net", "mac=1"],
        &["run", "--serial", "pty"],
        &["run", "--no-such-option"],
        &["fly"],
        &[],
    ] {
        let ended = godwit(dir.path(), args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("kernel"), godwit_vmm::payload::ELF).unwrap();
    let initrd = fs::File::create(dir.path().join("initrd")).unwrap();
    initrd.set_len(64 << 20).unwrap();
    let args = ["run", "--memory", "32M", "--kernel", "kernel", "--initrd"];
    refused(
        &godwit(dir.path(), &[&args[..], &["initrd"]].concat()),
        12,
        &["initrd"],
    );
    refused(
        &godwit(dir.path(), &[&args[..], &["none"]].concat()),
        12,
        &["none"],
    );
}

#[test]
fn a_disk_of_another_guest_is_refused_until_that_guest_has_ended() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = fs::File::create(dir.path().join("disk")).unwrap();
    disk.set_len(1 << 20).unwrap();
    let args = ["run", "--memory", "32M", "--disk", "disk"];
    let mut first = Running::start(dir.path(), &args);
    first.line("heartbeat seq=1 ");
    refused(&godwit(dir.path(), &args), 13, &["disk"]);
    first.type_keys(b"\x01x");
    assert_eq!(first.end().code, Some(0));
    let mut second = Running::start(dir.path(), &args);
    second.line("heartbeat seq=1 ");
    second.type_keys(b"\x01x");
    assert_eq!(second.end().code, Some(0));
}

/// In a network namespace of its own: no tap of this machine is touched.
#[test]
fn a_tap_of_another_guest_is_refused() {
    let may = std::process::Command::new("unshare")
        .args(["-n", "true"])
        .status();
    if !has_kvm() || !may.is_ok_and(|status| status.success()) {
        return say_skipped("no permission for KVM or for a network namespace");
    }
    let script = r#"
        run() { exec "$0" run --memory 32M --serial null --net tap=gwtap0 </dev/null; }
        run & first=$!
        for _ in $(seq 500); do grep -q gwtap0 /proc/self/net/dev && break; sleep 0.02; done
        (run); code=$?
        kill $first; wait $first
        exit $code"#;
    let ended = std::process::Command::new("unshare")
        .args(["-n", "bash", "-c", script, crate::support::GODWIT])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(14), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains("gwtap0"), "{stderr}");
}

/// A snapshot of the built-in guest, in `dir/snap/0001`.
fn snapshot(dir: &Path) {
    let args = ["run", "--memory", "32M", "--snapshot-dir", "snap"];
    let mut guest = Running::start(dir, &args);
    guest.line("heartbeat seq=2 ");
    guest.type_keys(b"\x01s");
    while !dir.join("snap/0001").exists() {
        guest.line("heartbeat");
    }
    guest.type_keys(b"\x01x");
    assert_eq!(guest.end().code, Some(0));
}

#[test]
fn a_damaged_snapshot_is_refused_and_a_whole_one_is_not() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    snapshot(dir.path());
    let state = dir.path().join("snap/0001/state");
    let memory = dir.path().join("snap/0001/memory");
    let (good_state, good_memory) = (fs::read(&state).unwrap(), fs::read(&memory).unwrap());
    let restore = |more: &[&str]| godwit(dir.path(), &[&["restore", "snap/0001"], more].concat());

    for length in [0, 7, 100, good_state.len() / 2, good_state.len() - 1] {
        fs::write(&state, &good_state[..length]).unwrap();
        refused(&restore(&[]), 17, &[]);
    }
    for at in [8, 30, good_state.len() / 3, good_state.len() - 3] {
        let mut bytes = good_state.clone();
        bytes[at] ^= 0x10;
        fs::write(&state, bytes).unwrap();
        let ended = restore(&[]);
        // A flipped version may also look newer.
        let code = if ended.code == Some(18) { 18 } else { 17 };
        refused(&ended, code, &[]);
    }
    let mut newer = good_state.clone();
    newer[6] += 1; // the version of the sequence
    fs::write(&state, newer).unwrap();
    refused(&restore(&[]), 18, &["format 2"]);
    fs::write(&state, &good_state).unwrap();

    fs::write(&memory, &good_memory[..good_memory.len() - 4096]).unwrap();
    refused(&restore(&[]), 17, &["memory"]);
    let mut flipped = good_memory.clone();
    let at = flipped.iter().position(|&byte| byte != 0).unwrap();
    flipped[at] ^= 1;
    fs::write(&memory, flipped).unwrap();
    refused(&restore(&["--eager"]), 17, &["damaged"]);
    fs::remove_file(&memory).unwrap();
    refused(&restore(&[]), 17, &["memory"]);
    refused(
        &godwit(dir.path(), &["restore", "nowhere"]),
        17,
        &["nowhere"],
    );

    fs::write(&memory, good_memory).unwrap();
    let overrides = restore(&["--disk", "root=nothing"]);
    refused(&overrides, 17, &["root"]);
    let mut guest = Running::start(dir.path(), &["restore", "snap/0001", "--eager"]);
    guest.line("heartbeat");
    guest.type_keys(b"\x01x");
    assert_eq!(guest.end().code, Some(0));
}
