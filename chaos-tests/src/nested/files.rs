//! The files of one boot of the emulated host, and the logs that outlive a failure.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::assets;
use super::host::HostError;

const FOLDER_PREFIX: &str = "host-";
/// A file in the folder, locked by the test that uses it.
const IN_USE: &str = "in-use";

/// Removes the folders of tests that were killed: nobody holds their lock. What
/// cannot be removed now is tried again next time.
fn remove_abandoned(nested: &Path) {
    let Ok(entries) = fs::read_dir(nested) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry
            .file_name()
            .to_string_lossy()
            .starts_with(FOLDER_PREFIX);
        let unused = || File::open(entry.path().join(IN_USE)).is_ok_and(|it| it.try_lock().is_ok());
        if ours && unused() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The files of one boot, and the logs that outlive a failure.
#[derive(Debug)]
pub(super) struct Files {
    name: String,
    folder: TempDir,
    logs: PathBuf,
    failed: AtomicBool,
    /// Locked as long as the folder has a user.
    _in_use: File,
}

impl Files {
    pub(super) fn create(name: &str) -> Result<Self, HostError> {
        let nested = assets::nested_folder()?;
        let _one_at_a_time = assets::lock(&nested)?;
        remove_abandoned(&nested);
        let system = |source| HostError::System {
            doing: format!("create a folder in {}", nested.display()),
            source,
        };
        let folder = tempfile::Builder::new()
            .prefix(FOLDER_PREFIX)
            .tempdir_in(&nested)
            .map_err(system)?;
        let in_use = File::create(folder.path().join(IN_USE)).map_err(system)?;
        in_use.lock().map_err(system)?;
        Ok(Self {
            name: name.to_owned(),
            folder,
            logs: nested.join("logs"),
            failed: false.into(),
            _in_use: in_use,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn create_scratch(&self, mib: u64) -> Result<(), HostError> {
        File::create(self.path("scratch"))
            .and_then(|file| file.set_len(mib << 20))
            .map_err(|source| HostError::System {
                doing: "create the scratch disk".to_owned(),
                source,
            })
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Adds to the transcript. A transcript that cannot be written must not fail
    /// what it describes.
    pub(super) fn note(&self, title: &str, bytes: &[u8]) {
        let text = [title.as_bytes(), b"\n", bytes, b"\n"].concat();
        let _ = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("transcript.log"))
            .and_then(|mut file| file.write_all(&text));
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.failed.load(Ordering::Relaxed) {
            return;
        }
        let folder = self
            .logs
            .join(format!("{}-{}", self.name, std::process::id()));
        for log in ["console.log", "qemu.log", "transcript.log"] {
            let kept = fs::create_dir_all(&folder)
                .and_then(|()| fs::copy(self.path(log), folder.join(log)));
            if let Err(error) = kept {
                eprintln!("nested: {log} was not kept: {error}");
            }
        }
        eprintln!("nested: the logs are in {}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_dead_tests_are_removed() {
        let nested = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = nested.path().join(name);
            fs::create_dir(&folder).unwrap();
            (File::create(folder.join(IN_USE)).unwrap(), folder)
        };
        let (held, alive) = make("host-alive");
        held.lock().unwrap();
        let (_, dead) = make("host-dead");
        let (_, other) = make("assets-v1");
        remove_abandoned(nested.path());
        assert!(alive.exists() && other.exists() && !dead.exists());
    }
}
