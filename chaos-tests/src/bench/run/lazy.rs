//! From the start of `godwit restore` to the restored guest's first output.
//!
//! Every page of the snapshot is full, and its files are not in the page cache. The
//! time includes the start of the process and, on average, half of the guest's
//! heartbeat period (5 ms), so the first instruction comes before it. QEMU beside
//! it reads a file that it wrote itself, all of it before the guest runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::super::guests::QemuMachine;
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::PATIENCE;
use super::snapshot::{GodwitGuest, QemuGuest, full_guest, remove, remove_dir};

const SIZES_MIB: [u64; 3] = [64, 1024, 4096];
const LIMIT: Duration = Duration::from_secs(60);
const OPTIONS: &str = "heartbeat=5";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    // Filling the largest takes longer than a quick run has.
    let count = bench.repeats(2, SIZES_MIB.len());
    for memory_mib in SIZES_MIB.into_iter().take(count) {
        rows.push(of_size(bench, memory_mib)?);
    }
    Ok(rows)
}

fn of_size(bench: &Bench, memory_mib: u64) -> Result<Row, BenchError> {
    let snapshot = bench.file(&format!("lazy-{memory_mib}"));
    GodwitGuest::start(bench, memory_mib, OPTIONS)?.snapshot(&snapshot)?;
    // Gigabytes through QEMU take long and tell nothing new.
    let with_peer = memory_mib <= 1024;
    let state = bench.file(&format!("lazy-{memory_mib}.qemu"));
    let peer = match with_peer {
        true => QemuGuest::start(bench, memory_mib, OPTIONS)?,
        false => None,
    };
    if let Some(peer) = peer {
        peer.leave(&state)?;
    }
    let (mut godwit, mut qemu) = (Samples::new(), Samples::new());
    rounds(bench.repeats(5, 15), LIMIT, || {
        let files = ["memory", "state"].map(|name| snapshot.join(name));
        forget(&files)?;
        let mut command = Command::new(&bench.godwit);
        command.arg("restore").arg(&snapshot);
        godwit.push_ms(Program::start("godwit", &mut command)?.first_byte(PATIENCE)?);
        if let (Some(peer), true) = (&bench.peer, with_peer) {
            forget(std::slice::from_ref(&state))?;
            let guest = full_guest(bench, memory_mib, OPTIONS)?;
            let mut command = guest.qemu(peer, QemuMachine::Microvm, "threads");
            let incoming = format!("file:{}", state.display());
            command.args(["-incoming", &incoming]);
            qemu.push_ms(Program::start("QEMU", &mut command)?.first_byte(PATIENCE)?);
        }
        Ok(())
    })?;
    remove_dir(&snapshot)?;
    if qemu.count() > 0 {
        remove(&state)?;
    }
    let what = format!("lazy restore to first output, {memory_mib} MiB, cold cache");
    let row = Row::new(what, "ms", &godwit, Aim::AtMost(30.0));
    Ok(row.beside("QEMU microvm, -incoming file", &qemu))
}

/// Has the kernel drop what it holds of `files`, which are on disk already.
fn forget(files: &[PathBuf]) -> Result<(), BenchError> {
    for file in files {
        drop_cache(file).map_err(|source| BenchError::System {
            doing: format!("drop {} from the page cache", file.display()),
            source,
        })?;
    }
    Ok(())
}

fn drop_cache(file: &Path) -> std::io::Result<()> {
    fadvise(File::open(file)?, 0, None, Advice::DontNeed)?;
    Ok(())
}
