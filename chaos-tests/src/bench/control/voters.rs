//! Three voters, seen from the measurement.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::voter::node;
use super::{system, wire};
use crate::bench::BenchError;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Three voters, killed when this goes.
pub(super) struct Voters {
    program: PathBuf,
    folder: PathBuf,
    ports: [u16; 3],
    children: [Option<Child>; 3],
}

/// What a voter says it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    pub(super) am_leader: bool,
    pub(super) leader: u8,
    pub(super) voters: u8,
    pub(super) applied: u64,
}

/// Ports that nobody has just now.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N], BenchError> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(system("find a free port"))?;
        let address = listener.local_addr().map_err(system("find a free port"))?;
        *port = address.port();
        listeners.push(listener);
    }
    Ok(ports)
}

impl Voters {
    /// Starts three and makes them one cluster.
    pub(super) fn start(folder: &Path) -> Result<Self, BenchError> {
        let mut voters = Self {
            program: std::env::current_exe().map_err(system("find this program"))?,
            folder: folder.to_owned(),
            ports: free_ports()?,
            children: [None, None, None],
        };
        for number in [1, 2, 3] {
            voters.spawn(number)?;
        }
        voters.tell(1, wire::BEGIN, voters.address(1).as_bytes())?;
        for number in [2, 3] {
            let mut learner = node(number).as_bytes().to_vec();
            learner.extend_from_slice(voters.address(number).as_bytes());
            voters.tell(1, wire::LEARN, &learner)?;
        }
        let ids: Vec<u8> = [1, 2, 3]
            .iter()
            .flat_map(|n| *node(*n).as_bytes())
            .collect();
        voters.tell(1, wire::VOTERS, &ids)?;
        voters.wait("three voters", |status| {
            status.voters == 3 && status.leader != 0
        })?;
        Ok(voters)
    }

    pub(super) fn address(&self, number: u8) -> String {
        format!("127.0.0.1:{}", self.ports[usize::from(number) - 1])
    }

    /// Starts one, also again.
    pub(super) fn spawn(&mut self, number: u8) -> Result<(), BenchError> {
        let at = usize::from(number) - 1;
        let child = Command::new(&self.program)
            .args(["voter", &number.to_string(), &self.ports[at].to_string()])
            .arg(self.folder.join(format!("voter-{number}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.children[at] = Some(child.map_err(system("start a voter"))?);
        Ok(())
    }

    /// Kills one with SIGKILL.
    pub(super) fn kill(&mut self, number: u8) -> Result<(), BenchError> {
        match self.children[usize::from(number) - 1].take() {
            Some(mut child) => {
                child.kill().map_err(system("kill a voter"))?;
                child.wait().map_err(system("kill a voter"))?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn connect(&self, number: u8) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address(number))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LONG))?;
        Ok(stream)
    }

    pub(super) fn status(&self, number: u8) -> Option<Status> {
        let mut stream = self.connect(number).ok()?;
        let status = wire::ask(&mut stream, wire::STATUS, &[]).ok()?.ok()?;
        let ([am_leader, leader, voters], applied) = status.split_first_chunk::<3>()?;
        Some(Status {
            am_leader: *am_leader == 1,
            leader: *leader,
            voters: *voters,
            applied: u64::from_le_bytes(*applied.first_chunk()?),
        })
    }

    /// Who leads.
    pub(super) fn leader(&self) -> Result<u8, BenchError> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            let leads = |n: &u8| self.status(*n).is_some_and(|status| status.am_leader);
            if let Some(number) = [1, 2, 3].into_iter().find(leads) {
                return Ok(number);
            }
            std::thread::sleep(POLL);
        }
        Err(not_seen("a leader"))
    }

    /// Waits until every voter says so.
    pub(super) fn wait(
        &self,
        what: &str,
        is_so: impl Fn(Status) -> bool,
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if [1, 2, 3]
                .iter()
                .all(|n| self.status(*n).is_some_and(&is_so))
            {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(not_seen(what))
    }

    /// Asks until it is done.
    pub(super) fn tell(&self, number: u8, kind: u8, payload: &[u8]) -> Result<(), BenchError> {
        let deadline = Instant::now() + LONG;
        let mut why = "no connection".to_owned();
        while Instant::now() < deadline {
            if let Ok(mut stream) = self.connect(number) {
                match wire::ask(&mut stream, kind, payload) {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => why = error,
                    Err(error) => why = error.to_string(),
                }
            }
            std::thread::sleep(POLL);
        }
        Err(not_seen(&format!("request {kind} done ({why})")))
    }
}

impl Drop for Voters {
    fn drop(&mut self) {
        for number in [1, 2, 3] {
            // It may be gone already.
            let _ = self.kill(number);
        }
    }
}

fn not_seen(expected: &str) -> BenchError {
    BenchError::NotSeen {
        program: "voters".into(),
        expected: expected.into(),
        said: String::new(),
    }
}
