//! Guests that move to another process of the same host, which takes their memory over as it is.

use std::path::Path;
use std::process::Command;

use godwit_node::guest_process::client::{Client, ClientError};
use godwit_proto::codes::ErrorCode;

use crate::moving::{CHECK, assert_healthy, receive, report, run, with_disk};
use crate::support::{Ended, field, godwit, has_kvm};

fn migrate_locally(dir: &Path, socket: &str, to: &str, token: &str) -> Ended {
    let mode = ["migrate", "--mode", "local", "--json"];
    godwit(
        dir,
        &[&mode[..], &["--from", socket, "--to", to, "--token", token]].concat(),
    )
}

#[test]
fn a_guest_goes_to_another_process_and_back_without_a_page_on_the_wire() {
    if !has_kvm() {
        return;
    }
    for cpus in ["1", "4"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut guest = run(dir, "0.sock", cpus, CHECK);
        assert_healthy(&mut guest);
        for turn in 0..4 {
            let (from, to) = (format!("{turn}.sock"), format!("{}.sock", turn + 1));
            let token = format!("token{turn}");
            let (mut target, address, token) = receive(dir, &token, &["--socket", &to]);
            let beat = guest.line("heartbeat ");
            let moved = migrate_locally(dir, &from, &address, &token);
            assert_eq!(moved.code, Some(0), "turn {turn}: {}", moved.stderr);
            let receipt: serde_json::Value = serde_json::from_str(&moved.stdout[0]).unwrap();
            assert_eq!(receipt["outcome"]["result"], "completed");
            assert_eq!(receipt["mode"], "local");
            let sent: f64 = receipt["bytes"]
                .as_object()
                .unwrap()
                .values()
                .filter_map(serde_json::Value::as_f64)
                .sum();
            assert!(sent < 1.0, "{sent} bytes of pages went over the wire");
            assert_eq!(guest.end().code, Some(0));
            let first = target.line("heartbeat ");
            assert!(field(&first, "time_ns") > field(&beat, "time_ns"));
            guest = target;
            assert_healthy(&mut guest);
        }
    }
}

#[test]
fn a_disk_goes_along_and_no_write_is_lost_or_repeated() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = with_disk(dir, "a.sock", "every=50 blk=size:8M,flush:7 check=8M,cpu:0");
    report(&mut source, "blk writes=", "lost");
    let (mut target, to, token) = receive(dir, "token", &[]);
    let moved = migrate_locally(dir, "a.sock", &to, &token);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    assert_eq!(source.end().code, Some(0));
    for key in ["lost", "repeated", "errors"] {
        assert_eq!(report(&mut target, "blk writes=", key), 0);
    }
    assert_eq!(report(&mut target, "check id=", "wrong"), 0);
}

#[test]
fn memory_is_handed_over_only_to_a_local_move() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut guest = run(dir, "a.sock", "1", CHECK);
    let client = Client::connect(&dir.join("a.sock")).unwrap();
    match client.take_over() {
        Err(ClientError::Refused(error)) => assert_eq!(error.code(), ErrorCode::WrongState),
        other => panic!("{other:?}"),
    }
    assert_healthy(&mut guest);
}

/// The tap has one place, which the source still has when the target is built. In a network namespace of
/// its own: no tap of this machine is touched.
#[test]
fn a_tap_goes_along_and_carries_what_was_sent_meanwhile() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        set -e
        godwit=$0
        trap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT
        await() { for _ in $(seq 1000); do eval "$1" && return; sleep 0.02; done; echo "no: $1" >&2; exit 90; }
        "$godwit" run --socket a.sock --memory 32M --serial null --net tap=gwtap0 --cmdline "net=ip:10.9.0.2" </dev/null &
        await 'test -S a.sock && grep -q gwtap0 /proc/self/net/dev'
        ip link set lo up
        ip address add 10.9.0.1/24 dev gwtap0
        ip link set gwtap0 up
        # A client that sees one tap all the time.
        exec 3<>/dev/udp/10.9.0.2/7
        echo_once() { printf "$1" >&3; read -r -n 1 -t 10 answer <&3 && test "$answer" = "$1"; }
        await 'echo_once b'
        "$godwit" receive --listen 127.0.0.1:0 --token-file token --socket b.sock --serial null </dev/null &
        await 'test -e token'
        "$godwit" migrate --mode local --from a.sock --to "$(head -n 1 token)" --token "$(tail -n 1 token)"
        for n in 1 2 3; do echo_once "$n"; done
        "$godwit" vmm-ctl --socket b.sock stop
        wait
        echo carried
    "#;
    let run = Command::new("unshare")
        .args(["--net", "bash", "-c", script])
        .arg(env!("CARGO_BIN_EXE_godwit"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    if stderr.contains("unshare failed") || stderr.contains("ip: command not found") {
        println!("SKIPPED: no network namespaces, or no `ip` here: {stderr}");
        return;
    }
    assert!(run.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("carried"), "{stdout}{stderr}");
}

#[test]
fn a_target_that_dies_with_the_memory_in_hand_leaves_the_guest_unharmed() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut source = run(dir, "a.sock", "2", CHECK);
    assert_healthy(&mut source);
    let fault = ["--chaos", "--inject", "target:restore-state=kill"];
    let (target, to, token) = receive(dir, "token", &fault);
    let moved = migrate_locally(dir, "a.sock", &to, &token);
    assert_ne!(moved.code, Some(0), "{:?}", moved.stdout);
    assert_eq!(target.end().code, None, "killed");
    assert_healthy(&mut source);
    let (mut target, to, token) = receive(dir, "again", &[]);
    assert_eq!(migrate_locally(dir, "a.sock", &to, &token).code, Some(0));
    assert_healthy(&mut target);
}
