//! Which vCPU is slowed when a guest writes too much.

use std::time::{Duration, Instant};

use godwit_node::guest_process::client::Client;
use godwit_proto::migrate::Mode;
use serde_json::Value;

use crate::moving::{receive, report, request, wait_for};
use crate::support::{PATIENCE, Running, field, has_kvm};

/// Starts a guest whose second vCPU writes more than the link takes, moves it until it is slowed by 95 %,
/// and returns the median of the gaps that its first vCPU, which writes next to nothing, sees in its clock.
fn gap_of_the_idle_vcpu(dirty_log: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cmdline = "heartbeat=300 every=100 dirty=2M,cpu:1,rate:5000,entropy:100";
    let words = [
        "run", "--socket", "a.sock", "--memory", "64M", "--cpus", "2",
    ];
    let more = ["--dirty-log", dirty_log, "--cmdline", cmdline];
    let mut source = Running::start(dir, &[&words[..], &more].concat());
    wait_for(&dir.join("a.sock"));
    report(&mut source, "dirty id=", "rate");
    let (_target, to, token) = receive(dir, "token", &[]);
    let slow = godwit_proto::process::MigrateRequest {
        mode: Some(Mode::PreCopy),
        bandwidth_cap: Some(1 << 20),
        downtime_limit_ms: Some(1),
        throttle_start: Some(95),
        throttle_step: Some(1),
        throttle_max: Some(95),
        ..request(&to, &token)
    };
    let socket = dir.join("a.sock");
    let mover = {
        let socket = socket.clone();
        std::thread::spawn(move || Client::connect(&socket).unwrap().migrate(slow))
    };
    let mut client = Client::connect(&socket).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let progress = client.migration_progress().unwrap().unwrap_or_default();
        let progress: Value = serde_json::from_str(&progress).unwrap_or_default();
        if progress["throttle_percent"] == 95 {
            break;
        }
        assert!(Instant::now() < deadline, "it is not throttled: {progress}");
        std::thread::sleep(Duration::from_millis(10));
    }
    source.lines_so_far();
    source.line("heartbeat ");
    let gaps = (0..7).map(|_| field(&source.line("heartbeat "), "gap_max_ns"));
    let mut gaps: Vec<u64> = gaps.collect();
    gaps.sort_unstable();
    client.cancel_migration().unwrap();
    assert!(!mover.join().unwrap().unwrap().moved);
    Duration::from_nanos(gaps[3])
}

#[test]
fn a_vcpu_that_writes_nothing_is_not_slowed_where_the_log_tells_who_does() {
    if !has_kvm() {
        return;
    }
    // At 95 % a vCPU sleeps 190 ms after each 10 ms that it ran.
    let asleep = Duration::from_millis(150);
    let alike = gap_of_the_idle_vcpu("bitmap");
    assert!(alike >= asleep, "a bitmap tells nothing: {alike:?}");
    let own = gap_of_the_idle_vcpu("ring");
    assert!(own < asleep, "it was slowed for another one: {own:?}");
}
