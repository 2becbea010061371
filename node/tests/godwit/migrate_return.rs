//! Guests that go back where they came from, whose memory was kept there.

use std::path::Path;
use std::time::Duration;

use godwit_node::guest_process::keeper;
use serde_json::Value;

use crate::moving::{assert_healthy, receive, run};
use crate::support::{Running, godwit, has_kvm};

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
