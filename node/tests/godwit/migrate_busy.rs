//! A guest that writes a disk, answers a flood of datagrams and checks its memory, all at once, moved in
//! every mode. In a network namespace of its own.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::migrate_modes::{has_post_copy, migrate, phases};
use crate::moving::{assert_healthy, receive, wait_for};
use crate::reach::{in_own_network, shell};
use crate::support::{PATIENCE, Running, field};

const MAC: &str = "02:00:00:00:00:67";
/// Bytes of a datagram.
const SIZE: usize = 1024;

/// Sends numbered datagrams and looks at what comes back.
struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    answered: AtomicU64,
    wrong: AtomicU64,
}

impl Flood {
    fn start(to: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || flood(to, &shared))
        };
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until the guest has answered many more.
    fn await_answers(&self) {
        let (start, deadline) = (self.answered(), Instant::now() + PATIENCE);
        while self.answered() < start + 200 {
            assert!(Instant::now() < deadline, "the guest does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.shared.wrong.load(Ordering::SeqCst), 0);
    }

    fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The content of datagram `number`.
fn content(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((8..SIZE as u64).map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7)) as u8));
    bytes
}

fn flood(to: &str, shared: &Shared) {
    let socket = UdpSocket::bind("10.66.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let mut answer = [0; 2 * SIZE];
    let mut number = 0;
    while !shared.over.load(Ordering::SeqCst) {
        // Nobody may be there just now: datagrams are lost then, and that is all.
        let _ = socket.send_to(&content(number), to);
        number += 1;
        while let Ok(len) = socket.recv(&mut answer) {
            let found = answer[..8].try_into().map(u64::from_le_bytes).unwrap();
            let right = found < number && answer[..len] == content(found);
            let counter = if right {
                &shared.answered
            } else {
                &shared.wrong
            };
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn disk_network_and_memory_are_right_while_memory_follows() {
    if !in_own_network("migrate_busy::disk_network_and_memory_are_right_while_memory_follows")
        || !has_post_copy()
    {
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
    let disk = std::fs::File::create(dir.join("disk")).unwrap();
    disk.set_len(64 << 20).unwrap();
    let net = format!("tap=gwa,mac={MAC}");
    let mut guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            "0.sock",
            "--memory",
            "64M",
            "--cpus",
            "4",
            "--disk",
            "disk",
            "--net",
            &net,
            "--cmdline",
            "heartbeat=20 every=50 blk=size:8M,flush:7 net=ip:10.66.0.2/24 check=32M,rate:20000,verify:50000 regs",
        ],
    );
    wait_for(&dir.join("0.sock"));
    let flood = Flood::start("10.66.0.2:7");
    flood.await_answers();
    assert_healthy(&mut guest);
    for (turn, mode) in ["post-copy", "pre-copy", "hybrid", "post-copy"]
        .into_iter()
        .enumerate()
    {
        let tap = format!("net0={}", ["gwb", "gwa"][turn % 2]);
        let next = format!("{}.sock", turn + 1);
        let (target, to, token) = receive(
            dir,
            &format!("token{turn}"),
            &["--socket", &next, "--net", &tap],
        );
        // Slow enough for requests of the devices to meet missing pages.
        let wishes: &[&str] = match mode {
            "pre-copy" => &["--verify"],
            _ => &["--bandwidth=32M", "--downtime-limit=1"],
        };
        let options = [&["--mode", mode], wishes].concat();
        let (moved, receipt) = migrate(dir, &format!("{turn}.sock"), &to, &token, &options);
        assert_eq!(moved.code, Some(0), "{mode}: {}", moved.stderr);
        assert_eq!(phases(&receipt).contains(&"post-copy"), mode != "pre-copy");
        guest = target;
        flood.await_answers();
        for _ in 0..3 {
            let line = guest.line("blk writes=");
            for counter in ["lost", "repeated", "errors"] {
                assert_eq!(field(&line, counter), 0, "{mode}: {line}");
            }
        }
        assert_healthy(&mut guest);
    }
}
