//! A snapshot on disk: a directory with two files.
//!
//! `state` holds the records of [`super::save`] and one that describes `memory`, which holds the
//! guest's memory. A snapshot is written beside its place and moved there when all of it is on disk,
//! so a directory under the asked-for name is always whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use godwit_proto::process::SnapshotReport;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::GuestError;
use super::{Guest, Phase, save, wrong_state};
use crate::memory::image;

/// The records.
pub(super) const STATE_FILE: &str = "state";
/// The guest's memory, sparse.
pub(super) const MEMORY_FILE: &str = "memory";
/// Largest state file that is read, bytes: 64 vCPUs and 31 devices take less than a tenth.
const MAX_STATE_BYTES: u64 = 64 << 20;

pub(super) fn take(guest: &Guest, dir: &Path) -> Result<SnapshotReport, GuestError> {
    let begin = Instant::now();
    if dir.symlink_metadata().is_ok() {
        return Err(GuestError::SnapshotExists { path: dir.into() });
    }
    let partial = Partial::create(dir)?;
    let _turn = guest.turn();
    guest.has_all_memory("snapshot")?;
    let was_running = match guest.current() {
        Phase::Running => {
            guest.pause_in_turn()?;
            true
        }
        Phase::Paused | Phase::Created => false,
        other @ (Phase::Waiting | Phase::Lost) => return Err(wrong_state("snapshot", other)),
    };
    let paused = Instant::now();
    let written = guest.complete_memory().and_then(|()| partial.fill(guest));
    let pause = paused.elapsed();
    if was_running {
        guest.resume_in_turn()?;
    }
    let bytes_written = written?;
    partial.publish(dir)?;
    Ok(SnapshotReport {
        bytes_written,
        pause_ns: if was_running {
            pause.as_nanos() as u64
        } else {
            0
        },
        total_ns: begin.elapsed().as_nanos() as u64,
    })
}

/// A snapshot being written; removed unless it is published.
struct Partial {
    path: PathBuf,
    published: bool,
}

impl Partial {
    fn create(dir: &Path) -> Result<Self, GuestError> {
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let path = dir.with_file_name(name);
        fs::create_dir(&path).map_err(|source| write_error(&path, source))?;
        Ok(Self {
            path,
            published: false,
        })
    }

    /// Writes both files; returns the bytes. Memory is not made durable here, so that a running
    /// guest does not wait for the disk.
    fn fill(&self, guest: &Guest) -> Result<u64, GuestError> {
        let memory_path = self.path.join(MEMORY_FILE);
        let memory_file =
            File::create(&memory_path).map_err(|source| write_error(&memory_path, source))?;
        let (description, memory_bytes) = image::write(&guest.machine.ram, &memory_file)?;
        let mut records = save::records(guest)?;
        records.push(&description)?;
        let state = records.finish()?;
        let state_path = self.path.join(STATE_FILE);
        File::create(&state_path)
            .and_then(|mut file| file.write_all(&state))
            .map_err(|source| write_error(&state_path, source))?;
        Ok(memory_bytes + state.len() as u64)
    }

    /// Makes everything durable and gives it its name.
    fn publish(mut self, dir: &Path) -> Result<(), GuestError> {
        for name in [MEMORY_FILE, STATE_FILE] {
            sync(&self.path.join(name))?;
        }
        sync(&self.path)?;
        // Unlike rename(2) alone, this never takes the place of an empty directory that somebody made
        // meanwhile.
        renameat_with(CWD, &self.path, CWD, dir, RenameFlags::NOREPLACE)
            .map_err(|errno| write_error(dir, errno.into()))?;
        self.published = true;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
            _ => sync(Path::new(".")),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a partial snapshot is left behind");
        }
    }
}

fn sync(path: &Path) -> Result<(), GuestError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| write_error(path, source))
}

fn write_error(path: &Path, source: io::Error) -> GuestError {
    GuestError::SnapshotWrite {
        path: path.into(),
        source,
    }
}

/// The bytes of a snapshot's state file, bounded.
pub(super) fn read_state(dir: &Path) -> Result<Vec<u8>, GuestError> {
    let path = dir.join(STATE_FILE);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_STATE_BYTES).read_to_end(&mut bytes))
        .map_err(|source| GuestError::SnapshotRead { path, source })?;
    Ok(bytes)
}
