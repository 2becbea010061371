//! A guest of QEMU that moves, with the settings that users tune.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::qmp::Qmp;
use super::super::{Bench, BenchError, Peer, Program};
use super::link::{End, Link};
use super::trip::{Asked, Mode};

const POLL: Duration = Duration::from_millis(3);
const PORT: u16 = 4444;
/// No limit; the default is 128 MiB/s.
const UNLIMITED: u64 = 1 << 40;
const PSK_FILE: &str = "keys.psk";
/// A name and a key of 32 bytes; both ends of the benchmark read it.
const PSK: &str = "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
/// TLS with the cipher that Godwit uses.
const PRIORITY: &str = "NORMAL:-CIPHER-ALL:+AES-128-GCM:+ECDHE-PSK:+DHE-PSK:+PSK";

/// How pages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// The one stream of old.
    One,
    /// `multifd`, so many channels, no compression.
    Multi(u8),
    /// `multifd` with zstd level 1.
    MultiZstd(u8),
}

/// How QEMU is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuning {
    pub(super) channels: Channels,
    pub(super) dirty_ring: bool,
    pub(super) tls: bool,
}

impl Tuning {
    /// Without a dirty ring and without TLS.
    pub(super) const fn of(channels: Channels) -> Self {
        Self {
            channels,
            dirty_ring: false,
            tls: false,
        }
    }

    /// With the dirty ring of KVM.
    pub(super) const fn with_ring(self) -> Self {
        Self {
            dirty_ring: true,
            ..self
        }
    }

    /// With TLS 1.3, AES-128-GCM.
    pub(super) const fn with_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// For a row's peer.
    pub(super) fn name(self) -> String {
        let mut name = match self.channels {
            Channels::One => "QEMU".to_owned(),
            Channels::Multi(count) => format!("QEMU multifd {count}"),
            Channels::MultiZstd(count) => format!("QEMU multifd {count} zstd"),
        };
        if self.dirty_ring {
            name += ", dirty ring";
        }
        if self.tls {
            name += ", TLS";
        }
        name
    }

    fn capabilities(self, mode: Mode) -> Value {
        let multifd = self.channels != Channels::One;
        let follows = mode != Mode::PreCopy;
        let states = [
            ("multifd", multifd),
            ("return-path", true),
            ("postcopy-ram", follows),
            ("postcopy-preempt", follows),
        ];
        let states = states.map(|(name, state)| json!({ "capability": name, "state": state }));
        json!({ "capabilities": states })
    }

    fn parameters(self, asked: &Asked) -> Value {
        let mut parameters = json!({ "max-bandwidth": UNLIMITED });
        if let Some(limit) = asked.downtime_limit_ms {
            parameters["downtime-limit"] = limit.into();
        }
        match self.channels {
            Channels::One => {}
            Channels::Multi(count) => parameters["multifd-channels"] = count.into(),
            Channels::MultiZstd(count) => {
                parameters["multifd-channels"] = count.into();
                parameters["multifd-compression"] = "zstd".into();
                parameters["multifd-zstd-level"] = 1.into();
            }
        }
        if self.tls {
            parameters["tls-creds"] = "tls".into();
        }
        parameters
    }
}

/// A QEMU with a guest, or one that waits for it.
#[derive(Debug)]
pub(super) struct QemuProcess {
    pub(super) program: Program,
    qmp: Qmp,
}

impl QemuProcess {
    /// Starts `guest` at the source.
    pub(super) fn run(
        bench: &Bench,
        peer: &Peer,
        link: &Link,
        guest: &BenchGuest,
        tuning: Tuning,
    ) -> Result<Self, BenchError> {
        Self::start(bench, peer, link, End::Source, guest, tuning)
    }

    /// Waits for `guest` at the target.
    pub(super) fn receive(
        bench: &Bench,
        peer: &Peer,
        link: &Link,
        guest: &BenchGuest,
        tuning: Tuning,
        asked: &Asked,
    ) -> Result<Self, BenchError> {
        let mut target = Self::start(bench, peer, link, End::Target, guest, tuning)?;
        target.set(tuning, asked)?;
        target.qmp.run("migrate-incoming", &uri())?;
        Ok(target)
    }

    fn start(
        bench: &Bench,
        peer: &Peer,
        link: &Link,
        end: End,
        guest: &BenchGuest,
        tuning: Tuning,
    ) -> Result<Self, BenchError> {
        let socket = bench.file(&format!("{end:?}.qmp"));
        // Left from the trip before.
        let _ = fs::remove_file(&socket);
        let accelerator = match tuning.dirty_ring {
            true => "kvm,dirty-ring-size=4096",
            false => "kvm",
        };
        let mut command = guest.qemu_with(peer, QemuMachine::Microvm, "threads", accelerator);
        let server = format!("unix:{},server=on,wait=off", socket.display());
        command.args(["-qmp", &server]);
        if end == End::Target {
            command.args(["-incoming", "defer"]);
        }
        if tuning.tls {
            command.args(["-object", &credentials(bench, end)?]);
        }
        let program = Program::start("QEMU", &mut link.at(end, &command))?;
        Ok(Self {
            program,
            qmp: Qmp::connect(&socket)?,
        })
    }

    fn set(&mut self, tuning: Tuning, asked: &Asked) -> Result<(), BenchError> {
        let capabilities = tuning.capabilities(asked.mode);
        self.qmp.run("migrate-set-capabilities", &capabilities)?;
        let parameters = tuning.parameters(asked);
        self.qmp.run("migrate-set-parameters", &parameters)?;
        Ok(())
    }

    /// Moves the guest to the target; returns how long that took, seen from outside, and what QEMU
    /// says of it.
    pub(super) fn migrate(
        &mut self,
        tuning: Tuning,
        asked: &Asked,
    ) -> Result<(Duration, Value), BenchError> {
        self.set(tuning, asked)?;
        let begin = Instant::now();
        self.qmp.run("migrate", &uri())?;
        let mut follows = asked.mode != Mode::PreCopy;
        loop {
            let info = self.qmp.run("query-migrate", &json!({}))?;
            match info["status"].as_str() {
                Some("active") if follows && goes_first(asked.mode, &info) => {
                    self.qmp.run("migrate-start-postcopy", &json!({}))?;
                    follows = false;
                }
                Some("completed") => return Ok((begin.elapsed(), info)),
                Some("failed" | "cancelled") => {
                    return Err(BenchError::Peer(format!("migrate: {info}")));
                }
                _ if begin.elapsed() > asked.patience => {
                    return Err(BenchError::Peer(format!("migrate takes too long: {info}")));
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }
}

/// Whether it is time that the guest goes before its memory.
fn goes_first(mode: Mode, info: &Value) -> bool {
    mode == Mode::PostCopy || info["ram"]["dirty-sync-count"].as_u64() > Some(1)
}

fn uri() -> Value {
    json!({ "uri": format!("tcp:{}:{PORT}", End::Target.address()) })
}

/// The object with the key that both ends share.
fn credentials(bench: &Bench, end: End) -> Result<String, BenchError> {
    let folder = bench.folder.path();
    fs::write(folder.join(PSK_FILE), PSK).map_err(|source| BenchError::System {
        doing: format!("write {PSK_FILE}"),
        source,
    })?;
    let endpoint = match end {
        End::Source => "client,username=qemu",
        End::Target => "server",
    };
    let folder = folder.display();
    Ok(format!(
        "tls-creds-psk,id=tls,dir={folder},priority={PRIORITY},endpoint={endpoint}"
    ))
}
