//! Setting guests and targets up that move between processes.

use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_node::guest_process::client::{Client, ClientError, Moved};
use godwit_proto::process::MigrateRequest;

use crate::support::{Ended, GODWIT, PATIENCE, Running, field, godwit};

/// A guest that finds every wrong page and register.
pub(crate) const CHECK: &str = "heartbeat=20 every=50 check=48M,rate:20000,verify:100000 regs";

/// The number `key` of the next line that begins with `start` and has it.
pub(crate) fn report(guest: &mut Running, start: &str, key: &str) -> u64 {
    loop {
        let line = guest.line(start);
        if line.contains(&format!(" {key}=")) {
            return field(&line, key);
        }
    }
}

/// A guest of 128 MiB that can be moved.
pub(crate) fn run(dir: &Path, socket: &str, cpus: &str, cmdline: &str) -> Running {
    let guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            socket,
            "--memory",
            "128M",
            "--cpus",
            cpus,
            "--cmdline",
            cmdline,
        ],
    );
    wait_for(&dir.join(socket));
    guest
}

/// A process that waits for a guest, and where and with which token it does.
pub(crate) fn receive(dir: &Path, name: &str, more: &[&str]) -> (Running, String, String) {
    receive_by(dir, name, more, Command::new(GODWIT))
}

/// The same by way of `program`, which runs the arguments that it is given.
pub(crate) fn receive_by(
    dir: &Path,
    name: &str,
    more: &[&str],
    mut program: Command,
) -> (Running, String, String) {
    program.args(["receive", "--listen", "127.0.0.1:0", "--token-file", name]);
    let receiver = Running::spawn(dir, program.args(more));
    wait_for(&dir.join(name));
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    (receiver, lines.next().unwrap(), lines.next().unwrap())
}

pub(crate) fn wait_for(path: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} does not appear",
            path.display()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// `godwit migrate`, to its end.
pub(crate) fn migrate(dir: &Path, socket: &str, to: &str, token: &str) -> Ended {
    godwit(
        dir,
        &[
            "migrate", "--from", socket, "--to", to, "--token", token, "--json",
        ],
    )
}

/// A move without wishes.
pub(crate) fn request(to: &str, token: &str) -> MigrateRequest {
    MigrateRequest {
        to: to.into(),
        token: token.into(),
        asked_by: "a test".into(),
        why: "to see".into(),
        ..MigrateRequest::default()
    }
}

/// The guest goes on, and finds itself whole.
pub(crate) fn assert_healthy(guest: &mut Running) {
    for _ in 0..2 {
        assert_eq!(report(guest, "check id=", "wrong"), 0);
        assert_eq!(report(guest, "regs id=", "wrong"), 0);
    }
}

/// A guest of 64 MiB with the disk `disk`.
pub(crate) fn with_disk(dir: &Path, socket: &str, cmdline: &str) -> Running {
    std::fs::File::create(dir.join("disk"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let guest = Running::start(
        dir,
        &[
            "run",
            "--socket",
            socket,
            "--memory",
            "64M",
            "--cpus",
            "2",
            "--disk",
            "disk",
            "--cmdline",
            cmdline,
        ],
    );
    wait_for(&dir.join(socket));
    guest
}

/// A move so slow that it is under way until something is done about it.
pub(crate) fn move_slowly(
    dir: &Path,
    socket: &str,
    to: &str,
    token: &str,
) -> JoinHandle<Result<Moved, ClientError>> {
    let mut slow = request(to, token);
    slow.bandwidth_cap = Some(4 << 20);
    let socket = dir.join(socket);
    let mover = {
        let socket = socket.clone();
        thread::spawn(move || Client::connect(&socket).unwrap().migrate(slow))
    };
    let mut client = Client::connect(&socket).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.migration_progress().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the migration does not begin");
        thread::sleep(Duration::from_millis(10));
    }
    mover
}
