//! Clusters of real nodes on loopback, and what becomes of guests when nodes fail.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use godwit_node::guest_process::client::Client;
use godwit_proto::process::GuestState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{GODWIT, PATIENCE, has_kvm};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a command said.
struct Said {
    code: Option<i32>,
    document: Value,
    stderr: String,
}

struct Node {
    dir: PathBuf,
    daemon: Option<Child>,
}

/// Nodes with short leases. Everything of them ends with this.
struct Cluster {
    _dir: tempfile::TempDir,
    nodes: Vec<Node>,
}

impl Cluster {
    /// One of `count` nodes, all of which vote.
    fn of(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nodes = NAMES[..count].iter().map(|name| Node {
            dir: dir.path().join(name),
            daemon: None,
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            _dir: dir,
        };
        for (index, name) in NAMES.iter().enumerate().take(count) {
            let listen = free_address();
            let data = cluster.nodes[index].dir.clone();
            let token = (index > 0).then(|| cluster.token());
            let mut command = Command::new(GODWIT);
            match &token {
                None => command.args(["cluster", "init", "--fast-leases"]),
                Some(token) => command.args(["cluster", "join", token]),
            };
            command.args(["--name", name, "--listen", &listen, "--data-dir"]);
            let made = command.arg(&data).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            cluster.start(index);
        }
        cluster.until("all vote", |cluster| {
            let status = cluster.ask(0, &["cluster", "status"]).document;
            let voters = status["voters"].as_array().map_or(0, Vec::len);
            (voters == count && status["nodes"]["ready"] == count).then_some(())
        });
        cluster
    }

    fn token(&self) -> String {
        let token = Command::new(GODWIT)
            .args(["cluster", "token", "--data-dir"])
            .arg(&self.nodes[0].dir)
            .output()
            .unwrap();
        assert!(token.status.success(), "{token:?}");
        String::from_utf8(token.stdout).unwrap().trim().to_owned()
    }

    fn socket(&self, index: usize) -> PathBuf {
        self.nodes[index].dir.join("api.sock")
    }

    fn start(&mut self, index: usize) {
        let socket = self.socket(index);
        let node = &mut self.nodes[index];
        let log = File::options()
            .create(true)
            .append(true)
            .open(node.dir.join("log"))
            .unwrap();
        let daemon = Command::new(GODWIT)
            .args(["node", "--data-dir"])
            .arg(&node.dir)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        node.daemon = Some(daemon.unwrap());
        self.until("the daemon listens", |_| {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
    }

    fn kill(&mut self, index: usize) {
        let mut daemon = self.nodes[index].daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn signal(&self, index: usize, signal: Signal) {
        let daemon = self.nodes[index].daemon.as_ref().unwrap();
        let pid = Pid::from_raw(daemon.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// A command to the daemon of a node.
    fn ask(&self, index: usize, arguments: &[&str]) -> Said {
        let said = Command::new(GODWIT)
            .args(arguments)
            .args(["-o", "json", "--socket"])
            .arg(self.socket(index))
            .output()
            .unwrap();
        Said {
            code: said.status.code(),
            document: serde_json::from_slice(&said.stdout).unwrap_or_default(),
            stderr: String::from_utf8(said.stderr).unwrap(),
        }
    }

    fn create(&self, index: usize, name: &str, failover: &str) {
        let cmdline = "heartbeat=20 check=8M,rate:2000,verify:20000";
        let made = self.ask(
            index,
            &[
                "vm",
                "create",
                name,
                "--memory",
                "64M",
                "--failover",
                failover,
                "--cmdline",
                cmdline,
            ],
        );
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }

    /// Where a guest runs, as a node says; `None` while it does not.
    fn runs_on(&self, ask: usize, guest: &str) -> Option<usize> {
        let found = self.ask(ask, &["vm", "show", guest]).document;
        if found["state"] != "running" {
            return None;
        }
        NAMES.iter().position(|name| found["node"]["name"] == *name)
    }

    /// The states of the guest processes of a node.
    fn processes(&self, index: usize) -> Vec<GuestState> {
        let Ok(entries) = std::fs::read_dir(self.nodes[index].dir.join("guests")) else {
            return Vec::new();
        };
        let sockets = entries
            .flatten()
            .map(|entry| entry.path().join("guest.sock"));
        let clients = sockets.filter_map(|socket| Client::connect(&socket).ok());
        clients
            .filter_map(|mut client| client.stats().ok())
            .map(|stats| stats.state)
            .collect()
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "not in time: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(daemon) = &mut node.daemon {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            end_guests(&node.dir);
        }
    }
}

/// An address on loopback that nobody has just now.
fn free_address() -> String {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap().to_string()
}

fn end_guests(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir.join("guests")) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(client) = Client::connect(&entry.path().join("guest.sock")) {
            let _ = client.stop();
        }
    }
}

#[test]
fn a_node_whose_daemon_stands_still_stops_its_guest_before_another_one_starts_it() {
    if !has_kvm() {
        return;
    }
    let cluster = Cluster::of(3);
    cluster.create(0, "ha", "restart");
    let old = cluster.until("the guest runs", |cluster| cluster.runs_on(0, "ha"));
    let ask = (old + 1) % 3;
    // As when the machine is overloaded, or cut off from the others: its guest process lives on.
    cluster.signal(old, Signal::STOP);
    let new = cluster.until("the guest runs elsewhere", |cluster| {
        let node = cluster.runs_on(ask, "ha")?;
        (node != old).then_some(node)
    });
    assert_eq!(cluster.processes(old), [GuestState::Paused]);
    assert_eq!(cluster.processes(new), [GuestState::Running]);
    cluster.signal(old, Signal::CONT);
    cluster.until("the stale copy is destroyed", |cluster| {
        cluster.processes(old).is_empty().then_some(())
    });
    assert_eq!(cluster.runs_on(ask, "ha"), Some(new));
}

#[test]
fn without_a_majority_nothing_is_written_and_only_guests_that_could_be_started_elsewhere_stop() {
    if !has_kvm() {
        return;
    }
    let mut cluster = Cluster::of(3);
    cluster.create(0, "stays", "never");
    let home = cluster.until("the guest runs", |cluster| cluster.runs_on(0, "stays"));
    let others = [(home + 1) % 3, (home + 2) % 3];
    // The other guest is moved to the same node.
    cluster.create(home, "ha", "restart");
    let at = cluster.until("the guest runs", |cluster| cluster.runs_on(home, "ha"));
    if at != home {
        let moved = cluster.ask(home, &["vm", "migrate", "ha", "--target", NAMES[home]]);
        assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    }
    cluster.until("both run here", |cluster| {
        (cluster.processes(home) == [GuestState::Running; 2]).then_some(())
    });
    for other in others {
        cluster.kill(other);
    }
    let refused = cluster.ask(home, &["node", "cordon", NAMES[home]]);
    assert_eq!(refused.code, Some(71), "{}", refused.stderr);
    let refused = cluster.ask(home, &["vm", "list"]);
    assert_eq!(refused.code, Some(71), "{}", refused.stderr);
    let known = cluster.ask(home, &["vm", "list", "--stale"]);
    assert_eq!(known.code, Some(0), "{}", known.stderr);
    let stopped = |cluster: &Cluster| {
        let mut states = cluster.processes(home);
        states.sort_by_key(|state| *state == GuestState::Paused);
        (states == [GuestState::Running, GuestState::Paused]).then_some(())
    };
    cluster.until(
        "the one that could be started elsewhere stands still",
        stopped,
    );
    thread::sleep(Duration::from_secs(2));
    stopped(&cluster).expect("the other one runs on");
    for other in others {
        cluster.start(other);
    }
    cluster.until("both run again", |cluster| {
        (cluster.processes(home) == [GuestState::Running; 2]).then_some(())
    });
}

#[test]
fn writes_go_on_when_the_leader_is_killed() {
    if !has_kvm() {
        return;
    }
    let mut cluster = Cluster::of(3);
    for _ in 0..3 {
        let leader = cluster.until("somebody leads", |cluster| {
            let status = cluster.ask(0, &["cluster", "status"]).document;
            NAMES
                .iter()
                .position(|name| status["leader"]["name"] == *name)
        });
        let ask = (leader + 1) % 3;
        cluster.kill(leader);
        cluster.until("a write is committed", |cluster| {
            let said = cluster.ask(ask, &["node", "cordon", NAMES[ask]]);
            (said.code == Some(0)).then_some(())
        });
        cluster.start(leader);
        cluster.until("what was written is seen by who was away", |cluster| {
            let node = cluster.ask(leader, &["node", "show", NAMES[ask]]).document;
            (node["scheduling"] != "enabled").then_some(())
        });
        let said = cluster.ask(leader, &["node", "uncordon", NAMES[ask]]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
}

#[test]
fn a_cluster_of_one_keeps_its_lease_and_a_token_admits_once() {
    if !has_kvm() {
        return;
    }
    let cluster = Cluster::of(1);
    let token = cluster.token();
    let join = |dir: &str| {
        let listen = free_address();
        Command::new(GODWIT)
            .args(["cluster", "join", &token, "--listen", &listen, "--data-dir"])
            .arg(cluster.nodes[0].dir.join(dir))
            .output()
            .unwrap()
    };
    let joined = join("one");
    assert!(joined.status.success(), "{joined:?}");
    let again = join("two");
    assert_eq!(again.status.code(), Some(72), "{again:?}");
    // Longer than a lease.
    thread::sleep(Duration::from_secs(5));
    let node = cluster.ask(0, &["node", "show", NAMES[0]]).document;
    assert_eq!(node["lease"]["incarnation"], 1, "{node:#}");
    assert_eq!(node["state"], "ready");
}
