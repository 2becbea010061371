//! Three nodes on this machine.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use rustix::process::{Pid, Signal, kill_process};

use super::super::client::Client;
use crate::guest_process::spawn::GuestProcess;

/// The names of the nodes.
pub(super) const NODES: [&str; 3] = ["alpha", "bravo", "charlie"];
/// How long anything may take that should be quick.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);

/// A node of the lab.
struct Node {
    dir: PathBuf,
    listen: SocketAddr,
    daemon: Option<Child>,
}

/// Three nodes, and what is needed to clean up after them.
pub(super) struct Lab {
    program: PathBuf,
    dir: PathBuf,
    /// Whether the directory was there before.
    own: bool,
    nodes: Vec<Node>,
    /// The guests that are to run, by name.
    pub(super) guests: Vec<String>,
    kept: bool,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> CodedError {
    CodedError::new(ErrorCode::Other, format!("{what}: {error}"))
}

impl Lab {
    /// A directory, and three free ports.
    pub(super) fn new(dir: Option<&Path>) -> Result<Self, CodedError> {
        let program = std::env::current_exe().map_err(|error| failed("this program", &error))?;
        let own = dir.is_some_and(Path::exists);
        let dir = dir.map_or_else(
            || std::env::temp_dir().join(format!("godwit-demo-{}", std::process::id())),
            Path::to_path_buf,
        );
        fs::create_dir_all(&dir).map_err(|error| {
            failed("cannot make the directory", &error).with_fix("give another one with --dir")
        })?;
        let nodes = NODES.iter().map(|name| {
            let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
            Ok(Node {
                dir: dir.join(name),
                listen: port.map_err(|error| failed("no port on loopback", &error))?,
                daemon: None,
            })
        });
        Ok(Self {
            program,
            nodes: nodes.collect::<Result<_, CodedError>>()?,
            dir,
            own,
            guests: Vec::new(),
            kept: false,
        })
    }

    /// Where each node has its guest processes.
    pub(super) fn guest_directories(&self) -> Vec<PathBuf> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.dir.join("guests")).collect()
    }

    /// Makes the first node and its cluster, or has another one join.
    pub(super) fn make_node(&mut self, index: usize) -> Result<(), CodedError> {
        let (dir, listen) = (&self.nodes[index].dir, self.nodes[index].listen.to_string());
        let mut command = Command::new(&self.program);
        if index == 0 {
            command.args(["cluster", "init", "--fast-leases", "--cluster-name", "demo"]);
        } else {
            let token = Command::new(&self.program)
                .args(["cluster", "token", "--data-dir"])
                .arg(&self.nodes[0].dir)
                .output()
                .map_err(|error| failed("cluster token", &error))?;
            let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
            command.args(["cluster", "join", &token]);
        }
        command.args(["--name", NODES[index], "--listen", &listen, "--data-dir"]);
        let done = command
            .arg(dir)
            .output()
            .map_err(|error| failed("godwit cluster", &error))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(failed("a node was not made", &said.trim()));
        }
        self.start(index)
    }

    /// Starts the daemon of a node.
    pub(super) fn start(&mut self, index: usize) -> Result<(), CodedError> {
        let node = &mut self.nodes[index];
        let log = File::options()
            .create(true)
            .append(true)
            .open(node.dir.join("daemon.log"))
            .map_err(|error| failed("cannot log", &error))?;
        let daemon = Command::new(&self.program)
            .arg("node")
            .arg("--data-dir")
            .arg(&node.dir)
            .arg("--socket")
            .arg(node.dir.join("api.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| failed("cannot start a daemon", &error))?;
        node.daemon = Some(daemon);
        let socket = node.dir.join("api.sock");
        self.until("a daemon listens", |_| {
            Ok(std::os::unix::net::UnixStream::connect(&socket)
                .is_ok()
                .then_some(()))
        })
    }

    /// A client of a node's API.
    pub(super) fn client(&self, index: usize) -> Result<Client, CodedError> {
        Client::new(&self.nodes[index].dir.join("api.sock"))
    }

    /// A node whose daemon runs, other than `not`.
    pub(super) fn other(&self, not: usize) -> usize {
        let runs = |&index: &usize| index != not && self.nodes[index].daemon.is_some();
        (0..NODES.len()).find(runs).unwrap_or(0)
    }

    /// Kills the daemon of a node, and nothing else.
    pub(super) fn kill_daemon(&mut self, index: usize) {
        if let Some(mut daemon) = self.nodes[index].daemon.take() {
            // It is our child: nobody else has its number until it is waited for.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Kills everything of a node, as when its power fails.
    pub(super) fn kill_node(&mut self, index: usize) {
        let guests = self.guest_processes(index);
        self.kill_daemon(index);
        for guest in guests {
            let _ = kill_process(guest, Signal::KILL);
        }
    }

    /// The guest processes of a node.
    pub(super) fn guest_processes(&self, index: usize) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir(self.nodes[index].dir.join("guests")) else {
            return Vec::new();
        };
        let sockets = entries
            .flatten()
            .map(|entry| entry.path().join("guest.sock"));
        let found = sockets.filter_map(|socket| GuestProcess::adopt(&socket).ok());
        found
            .filter_map(|process| Pid::from_raw(process.pid()))
            .collect()
    }

    /// Looks until `look` finds something.
    pub(super) fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<Option<T>, CodedError>,
    ) -> Result<T, CodedError> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            match look(self) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                // A cluster without a leader answers when it has one again.
                Err(error) => last = Some(error),
            }
            thread::sleep(LOOK);
        }
        let why = last.map_or(String::new(), |error| format!(" ({error})"));
        let text = format!(
            "waited {} s and it did not come to be that {what}{why}",
            PATIENCE.as_secs()
        );
        Err(CodedError::new(ErrorCode::TimedOut, text).with_fix("see daemon.log of the nodes"))
    }

    /// Guests that are to run and do not.
    pub(super) fn missing(&self) -> Vec<String> {
        let index = self.other(usize::MAX);
        let found = self
            .client(index)
            .and_then(|mut client| client.get("/v1/guests?stale=true"));
        let Ok(found) = found else {
            return self.guests.clone();
        };
        let runs = |name: &String| {
            let items = found["items"].as_array();
            let mut guests = items.into_iter().flatten();
            guests.any(|guest| guest["name"] == **name && guest["state"] == "running")
        };
        let guests = self.guests.iter();
        guests.filter(|name| !runs(name)).cloned().collect()
    }

    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    pub(super) fn say_how_to_go_on(&self) {
        let index = self.other(usize::MAX);
        let socket = self.nodes[index].dir.join("api.sock");
        println!("\nThe cluster runs on. Go on with it:");
        println!("  export GODWIT_SOCKET={}", socket.display());
        for command in ["cluster status", "vm list", "node list", "event watch"] {
            println!("  {} {command}", self.program.display());
        }
        println!("Its processes and files are below {}.", self.dir.display());
    }

    /// Ends every process of the lab and removes its files, unless they are `needed` to see what went wrong.
    pub(super) fn clean_up(&mut self, needed: bool) {
        for index in 0..self.nodes.len() {
            let guests = self.guest_processes(index);
            if let Some(mut daemon) = self.nodes[index].daemon.take() {
                if let Some(pid) = Pid::from_raw(daemon.id().cast_signed()) {
                    let _ = kill_process(pid, Signal::TERM);
                }
                end(&mut daemon);
            }
            for guest in guests {
                let _ = kill_process(guest, Signal::KILL);
            }
        }
        self.kept = true;
        if needed {
            eprintln!("the nodes' files are left in {}", self.dir.display());
            return;
        }
        let removed = match self.own {
            true => {
                let dirs = self.nodes.iter().map(|node| fs::remove_dir_all(&node.dir));
                dirs.collect::<Result<Vec<_>, _>>().map(drop)
            }
            false => fs::remove_dir_all(&self.dir),
        };
        if let Err(error) = removed {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// Waits for a daemon that was asked to end, and insists after a while.
fn end(daemon: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Ok(Some(_)) = daemon.try_wait() {
            return;
        }
        thread::sleep(LOOK);
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept {
            self.clean_up(false);
        }
    }
}
