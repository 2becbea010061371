//! How fast 1 GiB of guest memory gets to disk, beside `dd` and QEMU.
//!
//! Every page of the guest holds incompressible content. All three end with the
//! data on the disk (`fsync`), in files of the same folder. `dd` copies as many
//! incompressible bytes from a file in memory, a mebibyte at a time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::qmp::Qmp;
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::{PATIENCE, image};
use crate::nested::external;

const MIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(120);
const WRITE: Duration = Duration::from_secs(120);
/// Fills memory once, then leaves it nearly alone.
const FILL: &str = "dirty=entropy:100,rate:1";
const FILLED: &str = "dirty id=0";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let source = Scratch::random(MIB)?;
    let godwit = GodwitGuest::start(bench, MIB, "")?;
    let mut qemu = QemuGuest::start(bench, MIB, "")?;
    let (mut ours, mut dd, mut theirs) = (Samples::new(), Samples::new(), Samples::new());
    let rate = |time: Duration| MIB as f64 / time.as_secs_f64();
    rounds(bench.repeats(3, 7), LIMIT, || {
        let snapshot = bench.file("snapshot");
        ours.push(rate(godwit.snapshot(&snapshot)?));
        remove_dir(&snapshot)?;
        let copy = bench.file("copy");
        dd.push(rate(run_dd(&source.0, &copy)?));
        remove(&copy)?;
        if let Some(qemu) = &mut qemu {
            let state = bench.file("qemu-state");
            theirs.push(rate(qemu.snapshot(&state)?));
            remove(&state)?;
        }
        Ok(())
    })?;
    let what = "snapshot of 1 GiB, durable";
    Ok(vec![
        Row::new(what, "MiB/s", &ours, Aim::AtLeastOfPeer(0.8)).beside("dd bs=1M conv=fsync", &dd),
        Row::new(what, "MiB/s", &ours, Aim::Nothing)
            .beside("QEMU migrate to a file, then fsync", &theirs),
    ])
}

/// A guest whose second processor fills its memory; the first one's reports do not slow it down.
pub(super) fn full_guest(
    bench: &Bench,
    memory_mib: u64,
    options: &str,
) -> Result<BenchGuest, BenchError> {
    let cmdline = format!("{options} {FILL}");
    let mut guest = BenchGuest::new(&image::payload(bench)?, cmdline.trim());
    guest.cpus = 2;
    guest.memory_mib = memory_mib;
    Ok(guest)
}

/// A guest under `godwit run` whose memory is full.
pub(super) struct GodwitGuest<'bench> {
    bench: &'bench Bench,
    socket: PathBuf,
    _program: Program,
}

impl<'bench> GodwitGuest<'bench> {
    pub(super) fn start(
        bench: &'bench Bench,
        memory_mib: u64,
        options: &str,
    ) -> Result<Self, BenchError> {
        let socket = bench.file("godwit.sock");
        let guest = full_guest(bench, memory_mib, options)?;
        let mut command = guest.godwit(bench);
        let mut program = Program::start("godwit", command.arg("--socket").arg(&socket))?;
        program.line(FILLED, PATIENCE)?;
        Ok(Self {
            bench,
            socket,
            _program: program,
        })
    }

    /// Writes the running guest to the new folder `to`; returns how long that took.
    pub(super) fn snapshot(&self, to: &Path) -> Result<Duration, BenchError> {
        let mut command = Command::new(&self.bench.godwit);
        command.arg("vmm-ctl").arg("--socket").arg(&self.socket);
        let begin = Instant::now();
        external::run(command.arg("snapshot").arg(to), WRITE)?;
        Ok(begin.elapsed())
    }
}

/// A guest under QEMU whose memory is full.
pub(super) struct QemuGuest {
    qmp: Qmp,
    _program: Program,
}

impl QemuGuest {
    pub(super) fn start(
        bench: &Bench,
        memory_mib: u64,
        options: &str,
    ) -> Result<Option<Self>, BenchError> {
        let Some(peer) = &bench.peer else {
            return Ok(None);
        };
        let socket = bench.file("qemu.sock");
        let guest = full_guest(bench, memory_mib, options)?;
        let mut command = guest.qemu(peer, QemuMachine::Microvm, "threads");
        let server = format!("unix:{},server=on,wait=off", socket.display());
        let mut program = Program::start("QEMU", command.args(["-qmp", &server]))?;
        program.line(FILLED, PATIENCE)?;
        let mut qmp = Qmp::connect(&socket)?;
        // Otherwise 128 MiB/s.
        let unlimited = json!({ "max-bandwidth": 1u64 << 40 });
        qmp.run("migrate-set-parameters", &unlimited)?;
        Ok(Some(Self {
            qmp,
            _program: program,
        }))
    }

    /// As [`GodwitGuest::snapshot`], to the file `to`; the guest goes on.
    pub(super) fn snapshot(&mut self, to: &Path) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        self.qmp.run("stop", &json!({}))?;
        self.qmp.migrate_to_file(to, WRITE)?;
        sync(to)?;
        let time = begin.elapsed();
        self.qmp.run("cont", &json!({}))?;
        Ok(time)
    }

    /// Writes the guest to the file `to`, from which it will run, and ends it.
    pub(super) fn leave(mut self, to: &Path) -> Result<(), BenchError> {
        self.qmp.migrate_to_file(to, WRITE)?;
        sync(to)
    }
}

fn sync(path: &Path) -> Result<(), BenchError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| BenchError::System {
        doing: format!("sync {}", path.display()),
        source,
    })
}

/// A file of random bytes, removed when dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// In memory, where there is such a place.
    pub(super) fn random(mib: u64) -> Result<Self, BenchError> {
        let shared = Path::new("/dev/shm");
        match shared.is_dir() {
            true => Self::random_in(shared, mib),
            false => Self::random_in(&std::env::temp_dir(), mib),
        }
    }

    /// In `folder`.
    pub(super) fn random_in(folder: &Path, mib: u64) -> Result<Self, BenchError> {
        let scratch = Self(folder.join(format!("godwit-bench-{}-{mib}", std::process::id())));
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/urandom", "bs=1M", "conv=fsync"])
            .arg(format!("count={mib}"))
            .arg(format!("of={}", scratch.0.display()));
        external::run(&mut dd, WRITE)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run_dd(from: &Path, to: &Path) -> Result<Duration, BenchError> {
    let mut dd = Command::new("dd");
    dd.args(["bs=1M", "conv=fsync"])
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()));
    let begin = Instant::now();
    external::run(&mut dd, WRITE)?;
    Ok(begin.elapsed())
}

pub(super) fn remove(path: &Path) -> Result<(), BenchError> {
    fs::remove_file(path).map_err(|source| BenchError::System {
        doing: format!("remove {}", path.display()),
        source,
    })
}

pub(super) fn remove_dir(path: &Path) -> Result<(), BenchError> {
    fs::remove_dir_all(path).map_err(|source| BenchError::System {
        doing: format!("remove {}", path.display()),
        source,
    })
}
