//! Debian packages through the machine's own apt, without touching the machine.
//!
//! apt gets private lists, cache and an *empty* package status inside the given
//! folder. The empty status is what makes the result the same everywhere: the
//! whole dependency closure is fetched, libc and loader included, whatever the
//! machine has installed. The mirror is the one the machine is configured for;
//! what comes from it is verified by apt against Debian's archive keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::external::{self, ExternalError};

/// The release everything is taken from.
const RELEASE: &str = "bookworm";
/// Where the release keeps newer versions of some programs.
const BACKPORTS: &str = "bookworm-backports";
/// The keys that Debian signs its archive with (package `debian-archive-keyring`).
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// More packages than any closure asked for here has.
const MAX_PACKAGES: usize = 400;

const QUERY_LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Why no packages could be had.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// apt or dpkg failed.
    #[error("the package tools failed")]
    Tool(#[from] ExternalError),
    /// The machine's apt knows no Debian archive to derive the sources from.
    #[error("apt is not configured with a Debian archive")]
    NoArchive,
    /// The archive's keys are missing, so nothing could be verified.
    #[error("Debian's archive keys are missing at {KEYRING}")]
    NoKeys,
    /// A package has no candidate, or apt's answer was not understood.
    #[error("apt found no way to install {0}")]
    NoCandidate(String),
    /// The private folders could not be written.
    #[error("could not write apt's private folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A private apt: own sources, own lists, an empty package status.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes the sources into `folder` and fetches the package lists.
    ///
    /// # Errors
    /// When the machine is no Debian relative with a reachable archive.
    pub fn update(folder: &Path) -> Result<Self, AptError> {
        if !Path::new(KEYRING).exists() {
            return Err(AptError::NoKeys);
        }
        let archive = machine_archive()?;
        let apt = Self {
            folder: folder.to_owned(),
        };
        apt.write_configuration(&archive)
            .map_err(|source| AptError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        external::run(apt.command("apt-get").arg("update"), DOWNLOAD_LIMIT)?;
        Ok(apt)
    }

    fn write_configuration(&self, archive: &str) -> io::Result<()> {
        for folder in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        fs::write(self.folder.join("status"), "")?;
        fs::write(self.folder.join("sources.list"), sources(archive))
    }

    /// One of apt's programs, pointed at the private folders.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-q");
        for (option, file) in [
            ("Dir::State", "."),
            ("Dir::State::status", "status"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "parts"),
            ("Dir::Etc::preferences", "preferences"),
            ("Dir::Etc::preferencesparts", "parts"),
        ] {
            let path = self.folder.join(file);
            command.args(["-o", &format!("{option}={}", path.display())]);
        }
        for option in [
            "APT::Sandbox::User=root",
            "APT::Install-Recommends=false",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=20",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// `package` from the backports and everything it depends on, as
    /// `name=version` words for [`Apt::unpack`].
    ///
    /// # Errors
    /// When apt finds no complete set.
    pub fn backports_closure(&self, package: &str) -> Result<Vec<String>, AptError> {
        self.closure(package, BACKPORTS)
    }

    /// As [`Apt::backports_closure`], from the release itself.
    ///
    /// # Errors
    /// When apt finds no complete set.
    pub fn release_closure(&self, package: &str) -> Result<Vec<String>, AptError> {
        self.closure(package, RELEASE)
    }

    fn closure(&self, package: &str, suite: &str) -> Result<Vec<String>, AptError> {
        let plan = external::run(
            self.command("apt-get")
                .args(["--simulate", "-t", suite, "install", package]),
            QUERY_LIMIT,
        )?;
        let packages = planned_installs(&plan);
        if packages.is_empty() || packages.len() > MAX_PACKAGES {
            return Err(AptError::NoCandidate(package.to_owned()));
        }
        Ok(packages)
    }

    /// The first real package that the meta package `package` depends on.
    ///
    /// # Errors
    /// When the release has no such package.
    pub fn dependency_of(&self, package: &str) -> Result<String, AptError> {
        let versioned = format!("{package}/{RELEASE}");
        let answer = external::run(
            self.command("apt-cache").args(["depends", &versioned]),
            QUERY_LIMIT,
        )?;
        first_dependency(&answer).ok_or_else(|| AptError::NoCandidate(package.to_owned()))
    }

    /// Downloads `packages` (`name` or `name=version`) and unpacks them into `root`.
    ///
    /// # Errors
    /// When one of them cannot be fetched, verified or unpacked.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<(), AptError> {
        let folder = |source| AptError::Folder {
            path: self.folder.clone(),
            source,
        };
        let debs = tempfile::tempdir_in(&self.folder).map_err(folder)?;
        external::run(
            self.command("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(debs.path()),
            DOWNLOAD_LIMIT,
        )?;
        for entry in fs::read_dir(debs.path()).map_err(folder)? {
            let deb = entry.map_err(folder)?.path();
            external::run(
                Command::new("dpkg").arg("-x").args([&deb, root]),
                QUERY_LIMIT,
            )?;
        }
        Ok(())
    }
}

/// The archive that the machine itself installs Debian from.
fn machine_archive() -> Result<String, AptError> {
    let answer = external::run(
        Command::new("apt-get").env("LC_ALL", "C").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Label: Debian",
            "Component: main",
        ]),
        QUERY_LIMIT,
    )?;
    let archive = answer.lines().map(str::trim).find(|line| !line.is_empty());
    archive.map(str::to_owned).ok_or(AptError::NoArchive)
}

fn sources(archive: &str) -> String {
    [RELEASE, BACKPORTS]
        .map(|suite| format!("deb [arch=amd64 signed-by={KEYRING}] {archive} {suite} main\n"))
        .concat()
}

/// The `Inst NAME (VERSION …)` lines of a simulated installation.
fn planned_installs(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split_whitespace();
            let name = words.next()?;
            let version = words.next()?.strip_prefix('(')?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

fn first_dependency(answer: &str) -> Option<String> {
    let line = answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends:"))?;
    let name = line.trim();
    (!name.is_empty() && !name.starts_with('<')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_name_the_release_and_its_backports_on_the_machines_archive() {
        let list = sources("ARCHIVE/");
        let suites: Vec<_> = list
            .lines()
            .map(|line| line.split(' ').rev().take(3).collect::<Vec<_>>())
            .collect();
        assert_eq!(
            suites,
            [
                ["main", "bookworm", "ARCHIVE/"],
                ["main", "bookworm-backports", "ARCHIVE/"]
            ]
        );
    }

    #[test]
    fn a_simulated_installation_reads_as_pinned_packages() {
        let plan = "Reading package lists...\n\
                    Inst libc6 (2.36-9 Debian:12/oldstable [amd64])\n\
                    Inst qemu-system-x86 (1:10.0.2 Debian Backports [amd64]) []\n\
                    Conf libc6 (2.36-9 Debian:12/oldstable [amd64])\n";
        assert_eq!(
            planned_installs(plan),
            ["libc6=2.36-9", "qemu-system-x86=1:10.0.2"]
        );
    }

    #[test]
    fn a_meta_package_reads_as_the_package_it_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1-cloud-amd64\n";
        assert_eq!(
            first_dependency(answer).as_deref(),
            Some("linux-image-6.1-cloud-amd64")
        );
    }

    #[test]
    fn a_virtual_dependency_is_no_package() {
        assert_eq!(first_dependency("x\n  Depends: <virtual>\n"), None);
        assert_eq!(first_dependency("x\n"), None);
    }
}
