//! Three members of etcd, seen from the measurement.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::system;
use super::voters::free_ports;
use crate::bench::BenchError;
use crate::nested::etcd::Etcd;

const LONG: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Three members, killed when this goes.
pub(super) struct Members {
    children: Vec<Child>,
    client_ports: [u16; 3],
    pub(super) version: String,
}

impl Members {
    /// Starts them, or says why there are none.
    pub(super) fn start(folder: &Path) -> Result<Self, String> {
        let etcd = Etcd::fetch().map_err(|error| super::super::chain(&error))?;
        let version = etcd.version().ok_or("it does not run here")?;
        let started = Self::spawn(&etcd, folder, version);
        started.map_err(|error| super::super::chain(&error))
    }

    fn spawn(etcd: &Etcd, folder: &Path, version: String) -> Result<Self, BenchError> {
        let ports: [u16; 6] = free_ports()?;
        let [client_ports, peer_ports] = [0, 3].map(|at| [ports[at], ports[at + 1], ports[at + 2]]);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (1..)
            .zip(peer_ports)
            .map(|(number, port)| format!("m{number}={}", url(port)))
            .collect();
        let mut members = Self {
            children: Vec::new(),
            client_ports,
            version,
        };
        for (number, (client, peer)) in (1..).zip(client_ports.into_iter().zip(peer_ports)) {
            let child = etcd
                .command()
                .args(["--name", &format!("m{number}")])
                .arg("--data-dir")
                .arg(folder.join(format!("etcd-{number}")))
                .args(["--listen-client-urls", &url(client)])
                .args(["--advertise-client-urls", &url(client)])
                .args(["--listen-peer-urls", &url(peer)])
                .args(["--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            members.children.push(child.map_err(system("start etcd"))?);
        }
        members.leader()?;
        Ok(members)
    }

    /// The address of the member that leads.
    pub(super) fn leader(&self) -> Result<String, BenchError> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            for port in self.client_ports {
                let address = format!("127.0.0.1:{port}");
                if leads(&address) == Some(true) {
                    return Ok(address);
                }
            }
            std::thread::sleep(POLL);
        }
        Err(BenchError::NotSeen {
            program: "etcd".into(),
            expected: "a leader".into(),
            said: String::new(),
        })
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the member there leads, by its JSON gateway.
fn leads(address: &str) -> Option<bool> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = "POST /v3/maintenance/status HTTP/1.1\r\nHost: localhost\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\
                   Connection: close\r\n\r\n{}";
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let body = &reply[reply.find('{')?..=reply.rfind('}')?];
    let status: Value = serde_json::from_str(body).ok()?;
    let leader = status["leader"].as_str()?;
    Some(leader != "0" && Some(leader) == status["header"]["member_id"].as_str())
}
