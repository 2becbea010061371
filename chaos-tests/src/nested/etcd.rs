//! etcd, the store that the control plane's commits are compared with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::apt::{Apt, AptError};
use super::assets::{self, AssetsError};
use super::external;

const PACKAGE: &str = "etcd-server";
/// Part of the folder's name; raise it when the folder's content changes.
const VERSION: u32 = 1;
const QUERY: Duration = Duration::from_secs(20);

/// Debian's etcd, unpacked.
#[derive(Debug, Clone)]
pub struct Etcd {
    folder: PathBuf,
}

impl Etcd {
    /// Finds it below the target directory of the running program, or fetches it there.
    ///
    /// # Errors
    /// [`AssetsError::Unavailable`] when this machine has no way to get it.
    pub fn fetch() -> Result<Self, AssetsError> {
        assets::fetched(&format!("{PACKAGE}-v{VERSION}"), unpack, Self::open)
    }

    fn open(folder: PathBuf) -> Result<Self, AssetsError> {
        let found = Self { folder };
        let program = found.program();
        match program.exists() {
            true => Ok(found),
            false => Err(AssetsError::Content(program.display().to_string())),
        }
    }

    fn program(&self) -> PathBuf {
        self.folder.join("usr/bin/etcd")
    }

    /// A command that runs it; arguments are the caller's.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::new(self.program())
    }

    /// What it says about itself; none when it does not run here.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let said = external::run(self.command().arg("--version"), QUERY).ok()?;
        Some(said.lines().next()?.to_owned())
    }
}

fn unpack(apt: &Apt, folder: &Path) -> Result<(), AptError> {
    // It is linked with the C library alone, which every machine with apt has.
    apt.unpack(&[PACKAGE.to_owned()], folder)
}
