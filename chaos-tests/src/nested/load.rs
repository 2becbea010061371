//! What puts a guest under load: stress-ng, and a TCP connection with numbered records.

use std::path::{Path, PathBuf};

use super::apt::{Apt, AptError};
use super::assets::{self, AssetsError};
use super::libraries::{self, Library};

const PACKAGE: &str = "stress-ng";
/// Part of the folder's name; raise it when the folder's content changes.
const VERSION: u32 = 1;

/// Debian's stress-ng, unpacked with every library it is linked with.
#[derive(Debug, Clone)]
pub struct StressNg {
    folder: PathBuf,
}

impl StressNg {
    /// Finds it below the target directory of the running program, or fetches it there.
    ///
    /// # Errors
    /// [`AssetsError::Unavailable`] when this machine has no way to get it.
    pub fn fetch() -> Result<Self, AssetsError> {
        assets::fetched(&format!("{PACKAGE}-v{VERSION}"), unpack, Self::open)
    }

    fn open(folder: PathBuf) -> Result<Self, AssetsError> {
        let found = Self { folder };
        for path in [found.program(), found.loader()] {
            if !path.exists() {
                return Err(AssetsError::Content(path.display().to_string()));
            }
        }
        found.libraries()?;
        Ok(found)
    }

    /// The program; it runs by [`StressNg::loader`] only.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder.join("usr/bin/stress-ng")
    }

    /// The loader of the C library that it was fetched with.
    #[must_use]
    pub fn loader(&self) -> PathBuf {
        self.folder.join("lib64/ld-linux-x86-64.so.2")
    }

    /// Its libraries, without the loader.
    ///
    /// # Errors
    /// When it does not load.
    pub fn libraries(&self) -> Result<Vec<Library>, AssetsError> {
        let folders = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
            .map(|folder| self.folder.join(folder));
        let found = libraries::with_loader(&self.loader(), &folders, &self.program())?;
        Ok(found)
    }
}

fn unpack(apt: &Apt, folder: &Path) -> Result<(), AptError> {
    apt.unpack(&apt.release_closure(PACKAGE)?, folder)
}

/// What is carried into guests that work under load, and the other end of their connection.
#[derive(Debug, Clone)]
pub struct Load {
    /// Puts memory and processors under load.
    pub stress: StressNg,
    /// The program `numbered` of this package.
    pub numbered: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_program_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let error = StressNg::open(folder.path().to_owned()).unwrap_err();
        assert!(error.to_string().contains("stress-ng"), "{error}");
    }
}
