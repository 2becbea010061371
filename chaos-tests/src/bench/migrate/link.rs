//! Two hosts on one machine: network namespaces, joined by a pair of virtual interfaces.
//!
//! Each namespace belongs to a sleeping process and goes with it, whatever becomes of
//! the benchmark. A token bucket (tbf) at either end makes the link as fast as asked;
//! its count of sent bytes is that of the wire: every packet with its headers, however
//! large the pieces were that the sender handed over.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::super::{BenchError, Program};
use crate::nested::external;

const SETUP: Duration = Duration::from_secs(10);
/// Longer than any part of the benchmark takes.
const NAMESPACE_SECONDS: &str = "3600";
const INTERFACE: &str = "bench0";
/// The buffer of the link: 10 ms, as a switch with a shallow one.
const SHAPE: &str = "burst 64kb latency 10ms";
/// 1 Gb/s, bytes a second.
const GIGABIT: f64 = 125e6;

/// How fast the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    /// 1 Gb/s, packets of 1,500 bytes.
    Gigabit,
    /// As fast as the machine, packets of 9,000 bytes.
    Unshaped,
}

impl Speed {
    /// Bytes a second, when it is limited.
    pub(super) fn bytes_per_second(self) -> Option<f64> {
        (self == Self::Gigabit).then_some(GIGABIT)
    }

    fn mtu(self) -> &'static str {
        match self {
            Self::Gigabit => "1500",
            Self::Unshaped => "9000",
        }
    }
}

/// One end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Where guests start.
    Source,
    /// Where they move to.
    Target,
}

impl End {
    /// Its address.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1 + self as u8)
    }
}

/// Both hosts. They are gone when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    owners: [Program; 2],
    pub(super) speed: Speed,
}

impl Link {
    /// Makes both; needs the right to.
    pub(super) fn new(speed: Speed) -> Result<Self, BenchError> {
        let link = Self {
            owners: [namespace()?, namespace()?],
            speed,
        };
        let [source, target] = [&link.owners[0], &link.owners[1]].map(Program::pid);
        let pair = format!(
            "link add {INTERFACE} netns {source} type veth peer name {INTERFACE} netns {target}"
        );
        external::run(Command::new("ip").args(pair.split(' ')), SETUP)?;
        for end in [End::Source, End::Target] {
            link.set_up(end)?;
        }
        Ok(link)
    }

    fn set_up(&self, end: End) -> Result<(), BenchError> {
        let (address, mtu) = (end.address(), self.speed.mtu());
        let mut commands = vec![
            "ip link set lo up".to_owned(),
            format!("ip address add {address}/30 dev {INTERFACE}"),
            format!("ip link set {INTERFACE} mtu {mtu} up"),
        ];
        if let Some(rate) = self.speed.bytes_per_second() {
            let bits = rate * 8.0;
            commands.push(format!(
                "tc qdisc add dev {INTERFACE} root tbf rate {bits:.0}bit {SHAPE}"
            ));
        }
        for command in commands {
            let (program, arguments) = command.split_once(' ').expect("has arguments");
            let mut command = Command::new(program);
            self.run(end, command.args(arguments.split(' ')))?;
        }
        Ok(())
    }

    /// `command`, to be run on the host at `end`.
    pub(super) fn at(&self, end: End, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--net={}", self.namespace_of(end).display()))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// The file of the host's network namespace.
    pub(super) fn namespace_of(&self, end: End) -> PathBuf {
        let pid = self.owners[end as usize].pid();
        PathBuf::from(format!("/proc/{pid}/ns/net"))
    }

    /// Bytes that `end` has put on the wire of a shaped link, with all headers.
    pub(super) fn wire_bytes(&self, end: End) -> Result<u64, BenchError> {
        let mut command = Command::new("tc");
        command.args(["-s", "-j", "qdisc", "show", "dev", INTERFACE]);
        let answer = self.run(end, &mut command)?;
        let qdiscs: Value = serde_json::from_str(&answer).unwrap_or_default();
        qdiscs[0]["bytes"].as_u64().ok_or(BenchError::Report {
            line: answer,
            key: "bytes".to_owned(),
        })
    }

    fn run(&self, end: End, command: &mut Command) -> Result<String, BenchError> {
        Ok(external::run(&mut self.at(end, command), SETUP)?)
    }
}

fn namespace() -> Result<Program, BenchError> {
    let mut sleep = Command::new("unshare");
    // It says something as soon as it is in its namespace.
    let script = format!("echo; exec sleep {NAMESPACE_SECONDS}");
    let mut owner = Program::start("unshare", sleep.args(["--net", "sh", "-c", &script]))?;
    owner.first_byte(SETUP)?;
    Ok(owner)
}
