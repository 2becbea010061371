//! `godwit run` and `godwit restore`.

use crate::support::{Running, field, godwit, has_kvm, names};

const SMALL: [&str; 3] = ["run", "--memory", "32M"];

fn run(more: &[&'static str]) -> Vec<&'static str> {
    [&SMALL[..], more].concat()
}

#[test]
fn the_built_in_guest_beats_until_the_user_leaves() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Running::start(dir.path(), &run(&["--socket", "g.sock"]));
    guest.line("heartbeat seq=3 ");
    assert_eq!(names(dir.path()), ["g.sock"]);
    guest.type_keys(b"\x01x");
    let ended = guest.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "godwit: guest stopped as asked\n");
    assert!(names(dir.path()).is_empty(), "the socket is gone");
}

#[test]
fn the_end_of_input_does_not_end_the_guest_and_a_signal_does() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut guest = Running::start(dir.path(), &SMALL);
        guest.close_stdin();
        guest.line("heartbeat seq=5 ");
        let pid = rustix::process::Pid::from_raw(guest.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = guest.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn each_end_of_a_guest_has_its_exit_code() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (end, code, said) in [
        ("end=poweroff", 0, "godwit: guest powered off"),
        ("end=reset", 0, "godwit: guest reset itself"),
        ("end=triple-fault", 20, "error: guest crashed: triple fault"),
        ("end=kvm-error", 21, "error: guest stopped by KVM"),
    ] {
        let args = ["run", "--memory", "32M", "--no-reboot", "--cmdline", end];
        let ended = godwit(dir.path(), &args);
        assert_eq!(ended.code, Some(code), "{end}: {ended:?}");
        assert!(ended.stderr.starts_with(said), "{end}: {}", ended.stderr);
        assert_eq!(ended.stderr.contains("rip="), code != 0, "{}", ended.stderr);
    }
}

#[test]
fn a_guest_that_resets_itself_boots_again() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Running::start(
        dir.path(),
        &run(&["--cmdline", "heartbeat for=300 end=reset"]),
    );
    for _ in 0..3 {
        guest.line("heartbeat seq=1 ");
    }
    guest.type_keys(b"\x01x");
    assert_eq!(guest.end().code, Some(0));
}

#[test]
fn a_guest_that_sleeps_for_ever_can_be_left() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for end in ["end=halt", "end=fault"] {
        let args = ["run", "--memory", "32M", "--cpus", "2", "--cmdline", end];
        let mut guest = Running::start(dir.path(), &args);
        guest.line("end how=");
        guest.type_keys(b"\x01x");
        assert_eq!(guest.end().code, Some(0), "{end}");
    }
}

#[test]
fn a_reset_by_key_boots_again() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Running::start(dir.path(), &SMALL);
    guest.line("heartbeat seq=4 ");
    guest.type_keys(b"\x01r");
    guest.line("heartbeat seq=1 ");
    guest.type_keys(b"\x01x");
    assert_eq!(guest.end().code, Some(0));
}

#[test]
fn a_restored_guest_goes_on_where_its_snapshot_was_taken() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Running::start(dir.path(), &run(&["--snapshot-dir", "snaps"]));
    let before = guest.line("heartbeat seq=5 ");
    guest.type_keys(b"\x01s");
    while !dir.path().join("snaps/0001").exists() {
        guest.line("heartbeat");
    }
    guest.type_keys(b"\x01x");
    let ended = guest.end();
    assert!(
        ended.stderr.contains("snapshot written to snaps/0001"),
        "{}",
        ended.stderr
    );
    assert_eq!(names(&dir.path().join("snaps")), ["0001"]);

    for how in ["--lazy", "--eager"] {
        let mut guest = Running::start(dir.path(), &["restore", "snaps/0001", how]);
        let first = guest.line("heartbeat");
        let second = guest.line("heartbeat");
        guest.type_keys(b"\x01x");
        assert_eq!(guest.end().code, Some(0));
        assert!(
            field(&first, "seq") > field(&before, "seq"),
            "{how}: {first}"
        );
        assert_eq!(field(&second, "seq"), field(&first, "seq") + 1, "{how}");
        assert!(
            field(&first, "time_ns") > field(&before, "time_ns"),
            "{how}: {first}"
        );
        assert!(
            field(&second, "time_ns") > field(&first, "time_ns"),
            "{how}"
        );
    }
    let shown = godwit(dir.path(), &["snapshot", "inspect", "snaps/0001"]);
    assert_eq!(shown.code, Some(0));
    assert!(
        shown.stdout.contains(&"memory   32 MiB".to_owned()),
        "{shown:?}"
    );
}

#[test]
fn a_snapshot_without_a_place_is_refused_and_the_guest_goes_on() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Running::start(dir.path(), &SMALL);
    guest.line("heartbeat seq=1 ");
    guest.type_keys(b"\x01s");
    guest.line("heartbeat seq=4 ");
    guest.type_keys(b"\x01x");
    let ended = guest.end();
    assert!(ended.stderr.contains("--snapshot-dir"), "{}", ended.stderr);
}

#[test]
fn the_loss_of_its_reader_ends_the_guest() {
    if !has_kvm() {
        return;
    }
    let script = format!(
        "'{}' run --memory 32M </dev/null | head -1",
        crate::support::GODWIT
    );
    let script = format!("set -o pipefail; {script}");
    let status = std::process::Command::new("bash")
        .args(["-c", &script])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(26));
}
