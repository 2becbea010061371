//! The commands of a cluster against a real server over a cluster that is made up.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use godwit_node::api;
use godwit_node::api::{UnixSocket, router, serve};
use godwit_proto::cluster::{MigrationPhase, ObservedState, Owner, RunIntent};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::{GODWIT, PATIENCE, Running};
use fake::Fake;

#[allow(dead_code, reason = "the API's own tests use all of it")]
#[path = "../../src/api/tests/fake.rs"]
mod fake;

/// How long a made-up migration takes.
const MIGRATION: Duration = Duration::from_millis(400);
const RECEIPT: &str = r#"{"outcome":{"result":"completed"},"total_ms":361.1,"rounds_total":3,
    "memory_bytes":536870912,"mode":"hybrid","bytes":{"zero":1024,"raw":2048},
    "blackout":{"total_ms":6.25,"pause_ms":1.0},"phases":[{"phase":"copying","began_ms":1.5}]}"#;

/// A daemon that is made up: the API over a cluster whose nodes do at once what they are told.
struct Daemon {
    fake: Arc<Fake>,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    _runtime: Runtime,
    dir: TempDir,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("godwit.sock");
        let fake = Arc::new(Fake::with_nodes(&["a", "b"]));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let listener = {
            let _entered = runtime.enter();
            UnixSocket::bind(&socket).unwrap()
        };
        let router = router(fake.clone(), fake::options());
        runtime.spawn(serve(router, listener, stopped.clone()));
        runtime.spawn(obey(fake.clone(), stopped));
        Self {
            fake,
            socket,
            stop,
            _runtime: runtime,
            dir,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(GODWIT);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("GODWIT_SOCKET", &self.socket)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs a command that succeeds; answers what it wrote.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Runs a command that succeeds; answers the document that it wrote.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["-o", "json"]].concat();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// Runs a command that fails with `code`, in one line; answers the line.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}: {} {}", ran.stdout, ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        ran.stderr
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Does what nodes are told: guests run and stop, migrations come to their end.
async fn obey(fake: Arc<Fake>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() && stop.has_changed().is_ok() {
        let (reports, migrations) = {
            let state = fake.state();
            let mut reports = Vec::new();
            for guest in state.guests() {
                let owned = matches!(guest.ownership.owner, Owner::Node { .. });
                let told = match (guest.intent, &guest.observed.state) {
                    (RunIntent::Stopped, _) if owned => ObservedState::Stopped,
                    (RunIntent::Running, ObservedState::Starting) if owned => {
                        match guest.meta.name.starts_with("bad") {
                            true => ObservedState::Failed(godwit_proto::codes::CodedError::new(
                                godwit_proto::codes::ErrorCode::KernelImage,
                                "there is no kernel",
                            )),
                            false => ObservedState::Running,
                        }
                    }
                    _ => continue,
                };
                reports.push((guest.meta.name.clone(), told));
            }
            let prepared = state
                .migrations()
                .filter(|one| one.phase == MigrationPhase::Prepared);
            let migrations: Vec<_> = prepared.map(|one| one.id).collect();
            (reports, migrations)
        };
        for (name, told) in reports {
            fake.report(&name, told);
        }
        if !migrations.is_empty() {
            tokio::time::sleep(MIGRATION).await;
        }
        for id in migrations {
            let is_cancelled = fake.state().migration(id).unwrap().phase.is_finished();
            if !is_cancelled {
                fake.complete(id, RECEIPT);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_guest_is_made_shown_stopped_started_and_deleted_by_commands() {
    let daemon = Daemon::start();
    let made = daemon.ok(&[
        "vm", "create", "web", "--vcpus", "2", "--memory", "1G", "--label", "tier=web",
    ]);
    assert_eq!(made.trim(), "guest web is running on node a");
    let table = daemon.ok(&["vm", "list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("NAME  STATE    NODE  VCPUS  MEMORY"),
        "{table}"
    );
    assert!(
        lines[1].starts_with("web   running  a     2      1 GiB"),
        "{table}"
    );
    assert_eq!(
        daemon
            .ok(&["vm", "list", "--label", "tier=db"])
            .lines()
            .count(),
        1
    );
    assert_eq!(daemon.ok(&["vm", "list", "--node", "a"]).lines().count(), 2);
    let shown = daemon.ok(&["vm", "show", "web"]);
    assert!(shown.contains("labels    tier=web\n"), "{shown}");
    let json = daemon.json(&["vm", "show", "web"]);
    assert_eq!(
        (&json["name"], &json["memory_bytes"]),
        (&"web".into(), &(1 << 30).into())
    );
    assert_eq!(
        daemon.ok(&["vm", "stop", "web"]).trim(),
        "guest web has stopped"
    );
    let refused = daemon.fails(24, &["vm", "stop", "web"]);
    assert!(refused.contains("stopped"), "{refused}");
    assert_eq!(
        daemon.ok(&["vm", "start", "web", "--node", "b"]).trim(),
        "guest web is running on node b"
    );
    let refused = daemon.fails(24, &["vm", "delete", "web"]);
    assert!(refused.contains("(stop it first)"), "{refused}");
    daemon.ok(&["vm", "stop", "web"]);
    daemon.ok(&["vm", "delete", "web"]);
    let refused = daemon.fails(60, &["vm", "show", "web"]);
    assert_eq!(refused.trim(), "error: there is no guest \"web\"");
}

#[test]
fn a_guest_that_cannot_be_started_fails_its_command() {
    let daemon = Daemon::start();
    let refused = daemon.fails(11, &["vm", "create", "bad"]);
    assert!(refused.contains("there is no kernel"), "{refused}");
    let refused = daemon.fails(63, &["vm", "create", "big", "--memory", "64G"]);
    assert!(
        refused.contains("a: 65536 MiB of memory are needed"),
        "{refused}"
    );
    assert!(
        refused.contains("b: 65536 MiB of memory are needed"),
        "{refused}"
    );
    daemon.fails(65, &["vm", "create", "Web"]);
    daemon.ok(&["vm", "create", "web", "--no-start"]);
    daemon.fails(61, &["vm", "create", "web"]);
    let ran = daemon.run(&["vm", "create", "web", "--vcpus", "two"]);
    assert_eq!(ran.code, 2);
    let ran = daemon.run(&["-o", "json"]);
    assert_eq!(ran.code, 2);
    let ran = daemon.run(&["vm", "show", "nobody", "-o", "json"]);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(
        (ran.code, &error["code"], &error["name"]),
        (60, &60.into(), &"NotFound".into())
    );
}

#[test]
fn placement_is_explained_by_commands() {
    let daemon = Daemon::start();
    daemon.ok(&["node", "cordon", "b", "--reason", "fan"]);
    let nodes = daemon.ok(&["node", "list"]);
    assert!(nodes.contains("cordoned (fan)"), "{nodes}");
    let explained = daemon.ok(&[
        "vm",
        "create",
        "web",
        "--dry-run",
        "--node-selector",
        "zone=a",
    ]);
    assert!(
        explained.starts_with("guest web goes to node a\n"),
        "{explained}"
    );
    assert!(explained.contains("it is cordoned (fan)"), "{explained}");
    assert!(
        daemon.json(&["vm", "list"])["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    daemon.ok(&["vm", "create", "web"]);
    let explained = daemon.ok(&["vm", "explain", "web"]);
    assert!(
        explained.starts_with("guest web goes nowhere\n"),
        "{explained}"
    );
    assert!(
        explained.contains("would help: uncordon node b"),
        "{explained}"
    );
    daemon.ok(&["node", "uncordon", "b"]);
    let shown = daemon.ok(&["node", "show", "b"]);
    assert!(shown.contains("placement    enabled"), "{shown}");
    let explained = daemon.ok(&["vm", "explain", "web"]);
    assert!(
        explained.starts_with("guest web goes to node b\n"),
        "{explained}"
    );
}

#[test]
fn a_node_is_emptied_and_removed_by_commands() {
    let daemon = Daemon::start();
    daemon.ok(&["vm", "create", "web", "--node", "a"]);
    let begun = daemon.ok(&["node", "drain", "a", "--no-wait"]);
    assert_eq!(begun.trim(), "node a is being emptied");
    let shown = daemon.ok(&["node", "show", "a"]);
    assert!(shown.contains("placement    draining"), "{shown}");
    let refused = daemon.fails(66, &["node", "remove", "a"]);
    assert!(refused.contains("guest web"), "{refused}");
    let done = daemon.ok(&["node", "drain", "b"]);
    assert_eq!(done.trim(), "node b is empty");
    daemon.ok(&["node", "remove", "b"]);
    daemon.fails(60, &["node", "show", "b"]);
}

#[test]
fn a_guest_is_migrated_by_a_command_that_waits_and_leaves_a_receipt() {
    let daemon = Daemon::start();
    daemon.ok(&["vm", "create", "web", "--node", "a"]);
    let moved = daemon.ok(&["vm", "migrate", "web"]);
    for part in [
        "guest web runs on node b",
        "completed in 361.1 ms",
        "blackout 6.25 ms",
        "copying at 1.5 ms",
    ] {
        assert!(moved.contains(part), "{part}: {moved}");
    }
    let table = daemon.ok(&["migration", "list"]);
    assert!(
        table.contains("web-2  web    a     b   completed"),
        "{table}"
    );
    let receipt = daemon.json(&["migration", "receipt", "web-2"]);
    assert_eq!(receipt["rounds_total"], 3);
    let back = daemon.json(&["vm", "migrate", "web", "--to", "a"]);
    assert_eq!(back["migration"]["phase"], "completed");
    assert_eq!(back["receipt"]["mode"], "hybrid");
    let begun = daemon.ok(&["vm", "migrate", "web", "--no-wait"]);
    assert!(
        begun.contains("guest web moves from node a to node b"),
        "{begun}"
    );
    let cancelled = daemon.ok(&["migration", "cancel", "web-4"]);
    assert!(cancelled.contains("web-4"), "{cancelled}");
    let failed = daemon.fails(43, &["migration", "watch", "web-4"]);
    assert!(
        failed.contains("guest web was not moved: somebody cancelled it"),
        "{failed}"
    );
    let forecast = daemon.ok(&["vm", "forecast", "web"]);
    assert!(forecast.contains("converges    yes"), "{forecast}");
    daemon.fails(60, &["migration", "receipt", "web-9"]);
}

#[test]
fn resources_and_rules_are_made_listed_and_deleted_by_commands() {
    let daemon = Daemon::start();
    daemon.ok(&[
        "pool", "create", "fast", "--path", "pool", "--kind", "shared",
    ]);
    let path = daemon.dir.path().join("pool");
    let pools = daemon.json(&["pool", "list"]);
    let pools = pools["items"].as_array().unwrap();
    let fast = pools.iter().find(|pool| pool["name"] == "fast").unwrap();
    assert_eq!(fast["path"], path.to_str().unwrap());
    daemon.ok(&["volume", "create", "root", "--pool", "fast", "--size", "1G"]);
    daemon.ok(&["network", "create", "dmz", "--bridge", "br1"]);
    daemon.ok(&[
        "rule", "create", "apart", "--guests", "app=db", "--apart", "node",
    ]);
    daemon.ok(&[
        "rule", "create", "near", "--guests", "app=db", "--on", "zone=a", "--prefer", "7",
    ]);
    let rules = daemon.ok(&["rule", "list"]);
    assert!(rules.contains("app=db  apart, node  required"), "{rules}");
    assert!(
        rules.contains("app=db  on zone=a    preferred=7"),
        "{rules}"
    );
    daemon.ok(&[
        "vm",
        "create",
        "db",
        "--no-start",
        "--disk",
        "root,readonly",
        "--net",
        "dmz",
        "--label",
        "app=db",
    ]);
    let volumes = daemon.ok(&["volume", "list"]);
    assert!(volumes.contains("root  fast  -     1 GiB  db"), "{volumes}");
    daemon.fails(66, &["volume", "delete", "root"]);
    daemon.ok(&["vm", "delete", "db"]);
    for (kind, name) in [
        ("volume", "root"),
        ("network", "dmz"),
        ("pool", "fast"),
        ("rule", "near"),
    ] {
        daemon.ok(&[kind, "delete", name]);
        daemon.fails(60, &[kind, "delete", name]);
    }
    assert!(
        daemon
            .ok(&["network", "list"])
            .contains("lan   br0     a,b")
    );
}

#[test]
fn without_a_majority_commands_say_so_and_read_old_news_when_asked() {
    let daemon = Daemon::start();
    daemon.fake.quorum.store(false, Ordering::SeqCst);
    let refused = daemon.fails(71, &["vm", "list"]);
    assert!(refused.contains("1 of 3 voters"), "{refused}");
    daemon.fails(71, &["vm", "create", "web"]);
    let ran = daemon.run(&["node", "list", "--stale"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("may be old"), "{}", ran.stderr);
    let status = daemon.ok(&["cluster", "status"]);
    assert!(status.contains("majority    NOT reachable"), "{status}");
    assert_eq!(daemon.json(&["cluster", "status"])["quorum"], false);
}

#[test]
fn a_daemon_that_is_not_there_is_told_with_what_would_help() {
    let daemon = Daemon::start();
    let nowhere = daemon.dir.path().join("no.sock");
    let refused = daemon.fails(74, &["vm", "list", "--socket", nowhere.to_str().unwrap()]);
    assert!(
        refused.contains("no.sock") && refused.contains("godwit node"),
        "{refused}"
    );
    std::fs::write(&nowhere, "no socket").unwrap();
    daemon.fails(74, &["vm", "list", "--socket", nowhere.to_str().unwrap()]);
}

#[test]
fn events_are_told_as_they_happen() {
    let daemon = Daemon::start();
    let mut watching = Running::spawn(
        daemon.dir.path(),
        &mut daemon.command(&["event", "watch", "--from", "0"]),
    );
    let joined = watching.line("1970-01-01T00:00:00.00");
    assert!(joined.contains("pool shared was made"), "{joined}");
    daemon.ok(&["vm", "create", "web"]);
    loop {
        if watching
            .line("1970")
            .contains("guest web is started on node a")
        {
            break;
        }
    }
    let mut documents = Running::spawn(
        daemon.dir.path(),
        &mut daemon.command(&["event", "watch", "-o", "json"]),
    );
    let first: Value = serde_json::from_str(&documents.line("{")).unwrap();
    assert_eq!(first["type"], "heartbeat");
}

#[test]
fn a_console_carries_bytes_both_ways() {
    let daemon = Daemon::start();
    daemon.ok(&["vm", "create", "web"]);
    let mut command = daemon.command(&["vm", "console", "web"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    // The other end leaves at this letter.
    let quits = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        stdin.write_all(b"q").unwrap();
        stdin
    });
    let waited = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if waited.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the console does not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
    drop(quits.join().unwrap());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "Serial console\r\nhello\n"),
        "{}",
        ran.stderr
    );
    daemon.ok(&["vm", "stop", "web"]);
    daemon.fails(24, &["vm", "console", "web"]);
}

#[test]
fn a_console_on_a_terminal_is_left_by_keys_or_a_signal_and_leaves_it_as_it_was() {
    use rustix::process::{Pid, Signal, kill_process};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    let daemon = Daemon::start();
    daemon.ok(&["vm", "create", "web"]);
    for by_keys in [true, false] {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let name = ptsname(&control, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(rustix::fs::open(name, flags, Mode::empty()).unwrap());
        let before = tcgetattr(&terminal).unwrap().local_modes;
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = daemon.command(&["vm", "console", "web"]);
        let mut child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut control = File::from(control);
        let mut shown = String::new();
        while !shown.contains("Serial console") {
            let mut chunk = [0; 4096];
            let length = control.read(&mut chunk).unwrap();
            shown.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
        let raw = tcgetattr(&terminal).unwrap().local_modes;
        assert!(!raw.intersects(LocalModes::ICANON | LocalModes::ISIG));
        match by_keys {
            true => control.write_all(b"\x01x").unwrap(),
            false => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
        }
        let waited = std::time::Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if waited.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("it does not end, by keys: {by_keys}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "by keys: {by_keys}");
        assert_eq!(tcgetattr(&terminal).unwrap().local_modes, before);
    }
}
