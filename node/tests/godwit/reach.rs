//! A moved guest is reached where it is now: two taps on a bridge, in a network namespace.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Running, field, godwit, has_kvm, say_skipped};

/// Set in the process that has a network of its own.
const INSIDE: &str = "GODWIT_TEST_IN_OWN_NETWORK";
const MAC: &str = "02:00:00:00:00:66";

/// Runs the test of that name again in a namespace of its own, unless that is where it is. Whether the
/// caller is to go on.
pub(crate) fn in_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let allowed = Command::new("unshare")
        .args([
            "-n",
            "sh",
            "-c",
            "ip link set lo up && test -w /dev/net/tun",
        ])
        .status();
    if !has_kvm() || !allowed.is_ok_and(|status| status.success()) {
        say_skipped("no permission for KVM, for taps or for a network namespace");
        return false;
    }
    let ended = Command::new("unshare")
        .arg("-n")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}\n{errors}");
    assert!(
        said.contains("1 passed"),
        "no test is called {test}: {said}"
    );
    false
}

pub(crate) fn shell(script: &str) -> String {
    let ended = Command::new("sh").args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{script}: {errors}");
    String::from_utf8(ended.stdout).unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The bridge's port where the guest is.
fn port_of_guest() -> Option<String> {
    let known = shell("bridge fdb show br br0");
    let line = known.lines().find(|line| line.starts_with(MAC))?;
    Some(line.split(' ').nth(2)?.to_owned())
}

/// Moves the guest behind `socket` to a new process with the tap `tap`; returns that and the receipt.
fn move_to(
    dir: &Path,
    socket: &str,
    name: &str,
    net: Option<&str>,
) -> (Running, serde_json::Value) {
    let (token, next) = (format!("{name}.token"), format!("{name}.sock"));
    let mut args = vec!["receive", "--listen", "127.0.0.1:0"];
    args.extend(["--token-file", &token, "--socket", &next]);
    args.extend(net.iter().flat_map(|net| ["--net", *net]));
    let target = Running::start(dir, &args);
    wait_until("a token", || dir.join(&token).exists());
    let text = std::fs::read_to_string(dir.join(&token)).unwrap();
    let (to, token) = text.trim().split_once('\n').unwrap();
    let moved = godwit(
        dir,
        &[
            "migrate", "--from", socket, "--to", to, "--token", token, "--json",
        ],
    );
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    (target, serde_json::from_str(&moved.stdout[0]).unwrap())
}

/// Sends `text` to the guest until it comes back.
fn echo(socket: &UdpSocket, text: &str) {
    wait_until("an answer", || {
        // Refused or unreachable is no answer either.
        let _ = socket.send_to(text.as_bytes(), "10.66.0.2:7");
        let mut answer = [0; 64];
        matches!(socket.recv(&mut answer), Ok(len) if &answer[..len] == text.as_bytes())
    });
}

#[test]
fn a_moved_guest_is_reached_where_it_is_and_the_receipt_tells_when_it_was_heard() {
    let name =
        "reach::a_moved_guest_is_reached_where_it_is_and_the_receipt_tells_when_it_was_heard";
    if !in_own_network(name) {
        return;
    }
    shell(
        "ip link set lo up
         ip link add br0 type bridge
         ip addr add 10.66.0.1/24 dev br0
         ip link set br0 up
         for tap in gwa gwb; do
             ip tuntap add $tap mode tap
             ip link set $tap master br0 up
         done",
    );
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let net = format!("tap=gwa,mac={MAC}");
    let mut guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            "0.sock",
            "--memory",
            "64M",
            "--net",
            &net,
            "--cmdline",
            "net=ip:10.66.0.2/24 heartbeat=100",
        ],
    );
    guest.line("net ip=");
    let socket = UdpSocket::bind("10.66.0.1:0").unwrap();
    let wait = Some(Duration::from_millis(100));
    socket.set_read_timeout(wait).unwrap();
    echo(&socket, "before");
    assert_eq!(port_of_guest().as_deref(), Some("gwa"));

    // To and fro: each time the bridge learns without being asked for the guest.
    let mut from = "0.sock".to_owned();
    for (number, tap) in [(1, "gwb"), (2, "gwa"), (3, "gwb")] {
        let name = number.to_string();
        let (target, receipt) = move_to(dir, &from, &name, Some(&format!("net0={tap}")));
        guest = target;
        let blackout = &receipt["blackout"];
        let (total, outside) = (&blackout["total_ms"], &blackout["outside_ms"]);
        assert!(
            outside.as_f64().unwrap() >= total.as_f64().unwrap(),
            "{receipt}"
        );
        wait_until("the bridge knows where the guest is", || {
            port_of_guest().as_deref() == Some(tap)
        });
        let counts = guest.line("net received=");
        assert!(field(&counts, "announced") > 0, "{counts}");
        echo(&socket, &format!("after move {number}"));
        from = format!("{number}.sock");
    }
}

#[test]
fn the_receipt_of_a_guest_without_a_network_does_not_pretend_to_know() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cmdline = "heartbeat=100";
    let run = [
        "run",
        "--socket",
        "0.sock",
        "--memory",
        "64M",
        "--cmdline",
        cmdline,
    ];
    let mut guest = Running::start(dir, &run);
    guest.line("heartbeat ");
    let (mut guest, receipt) = move_to(dir, "0.sock", "1", None);
    guest.line("heartbeat ");
    assert!(receipt["blackout"]["total_ms"].is_f64(), "{receipt}");
    assert!(receipt["blackout"]["outside_ms"].is_null(), "{receipt}");
}
