//! What the nested machines are made of: QEMU, a Debian kernel, a static busybox.
//!
//! Everything comes from Debian packages and stays in one folder below the target
//! directory; nothing is installed. The folder is filled under another name and
//! renamed when complete, so its presence means it is whole; a lock keeps two
//! processes from filling it at once.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::apt::{Apt, AptError};
use super::external::ExternalError;
use super::libraries::{self, Library};

/// QEMU 10 from the backports; the release's own 7.2 cannot run newer kernels.
const QEMU_PACKAGE: &str = "qemu-system-x86";
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Part of the folder's name; raise it when the folder's content changes.
const VERSION: u32 = 1;
/// Longer than any download may take (see `apt`).
const LOCK_LIMIT: Duration = Duration::from_secs(1800);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Firmware that QEMU's q35, pc and microvm load for a direct kernel boot.
const FIRMWARE: [&str; 7] = [
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios-microvm.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/multiboot_dma.bin",
];

/// Why there are no assets.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    /// This machine cannot get them: no Debian tools, no network. Tests skip.
    #[error("{0}")]
    Unavailable(String),
    /// No target directory was found above the running program.
    #[error("no cargo target directory above {0}")]
    NoTarget(PathBuf),
    /// The folder could not be read or written.
    #[error("could not use {path}")]
    Folder {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has been filling the folder for too long.
    #[error("waited {LOCK_LIMIT:?} for another process to finish with {0}")]
    Locked(PathBuf),
    /// The packages arrived but do not hold what is expected of them.
    #[error("the packages hold no {0}")]
    Content(String),
    /// The unpacked QEMU does not load.
    #[error("the unpacked QEMU does not load")]
    Loader(#[from] ExternalError),
}

/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Assets {
    folder: PathBuf,
    kernel: PathBuf,
}

impl Assets {
    /// Finds the assets below the target directory of the running program, or
    /// fetches them there.
    ///
    /// # Errors
    /// [`AssetsError::Unavailable`] when this machine has no way to get them.
    pub fn fetch() -> Result<Self, AssetsError> {
        let name = format!("assets-v{VERSION}");
        fetched(&name, fetch_packages, Self::open)
    }

    fn open(folder: PathBuf) -> Result<Self, AssetsError> {
        let kernel = find_kernel(&folder.join("kernel/boot"))?;
        let assets = Self { folder, kernel };
        let expected = [assets.busybox(), assets.modules(), assets.loader()];
        for path in expected.iter().chain([&assets.qemu_program()]) {
            if !path.exists() {
                return Err(AssetsError::Content(path.display().to_string()));
            }
        }
        Ok(assets)
    }

    /// The bzImage of Debian's cloud kernel.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The folder that holds the kernel's modules.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.folder.join("kernel/lib/modules")
    }

    /// The statically linked busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("busybox/bin/busybox")
    }

    /// The QEMU program; it runs by [`Assets::loader`] only.
    #[must_use]
    pub fn qemu_program(&self) -> PathBuf {
        self.folder.join("qemu/usr/bin/qemu-system-x86_64")
    }

    /// The loader of the fetched C library, which fits the fetched libraries
    /// whatever this machine's own libc is.
    #[must_use]
    pub fn loader(&self) -> PathBuf {
        self.folder.join("qemu/lib64/ld-linux-x86-64.so.2")
    }

    /// The firmware files of QEMU.
    #[must_use]
    pub fn firmware(&self) -> Vec<PathBuf> {
        let qemu = self.folder.join("qemu");
        FIRMWARE.iter().map(|file| qemu.join(file)).collect()
    }

    /// The libraries of QEMU, without the loader.
    ///
    /// # Errors
    /// When the unpacked QEMU does not load.
    pub fn qemu_libraries(&self) -> Result<Vec<Library>, AssetsError> {
        let program = self.qemu_program();
        let found = libraries::with_loader(&self.loader(), &self.library_folders(), &program)?;
        Ok(found)
    }

    /// A command that runs QEMU on this machine; arguments are the caller's.
    #[must_use]
    pub fn qemu(&self) -> Command {
        let mut command = Command::new(self.loader());
        command
            .arg("--library-path")
            .arg(libraries::search_path(&self.library_folders()))
            .arg(self.qemu_program());
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.folder.join("qemu").join(folder));
        }
        command
    }

    fn library_folders(&self) -> Vec<PathBuf> {
        let qemu = self.folder.join("qemu");
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
            .map(|folder| qemu.join(folder))
            .to_vec()
    }
}

/// The folder of everything nested below the target directory. Cargo marks the
/// target directory with `CACHEDIR.TAG`.
///
/// # Errors
/// When the running program is not inside a target directory.
pub fn nested_folder() -> Result<PathBuf, AssetsError> {
    let program = std::env::current_exe().map_err(|source| AssetsError::Folder {
        path: PathBuf::from("."),
        source,
    })?;
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .ok_or_else(|| AssetsError::NoTarget(program.clone()))?;
    let nested = target.join("nested");
    fs::create_dir_all(&nested).map_err(|source| AssetsError::Folder {
        path: nested.clone(),
        source,
    })?;
    Ok(nested)
}

/// Waits to be the only one who changes the folder `nested`; held until dropped.
pub(super) fn lock(nested: &Path) -> Result<File, AssetsError> {
    let path = nested.join("lock");
    let folder = |source| AssetsError::Folder {
        path: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(folder)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    while Instant::now() < deadline {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::Error(source)) => return Err(folder(source)),
        }
    }
    Err(AssetsError::Locked(path))
}

/// What is in the folder `name` below the target directory. What is missing is fetched into a folder
/// beside it, which is renamed when it can be opened.
pub(super) fn fetched<T>(
    name: &str,
    fetch: fn(&Apt, &Path) -> Result<(), AptError>,
    open: fn(PathBuf) -> Result<T, AssetsError>,
) -> Result<T, AssetsError> {
    let nested = nested_folder()?;
    let folder = nested.join(name);
    if folder.exists() {
        return open(folder);
    }
    let _lock = lock(&nested)?;
    // Another process may have been faster.
    if folder.exists() {
        return open(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(AssetsError::Unavailable(
            "this is not an x86-64 Linux machine".to_owned(),
        ));
    }
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| AssetsError::Folder { path, source }
    };
    // A folder that is not removed belongs to no one: its maker was killed.
    let staging = nested.join("assets.partial");
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(at(&staging))?;
    }
    let private = staging.join("apt");
    fs::create_dir_all(&private).map_err(at(&private))?;
    Apt::update(&private)
        .and_then(|apt| fetch(&apt, &staging))
        .map_err(|error| AssetsError::Unavailable(chain(&error)))?;
    fs::remove_dir_all(&private).map_err(at(&private))?;
    open(staging.clone())?;
    fs::rename(&staging, &folder).map_err(at(&folder))?;
    open(folder)
}

fn fetch_packages(apt: &Apt, staging: &Path) -> Result<(), AptError> {
    let into = |part: &str, packages: &[String]| {
        let part = staging.join(part);
        fs::create_dir_all(&part).map_err(|source| AptError::Folder {
            path: part.clone(),
            source,
        })?;
        apt.unpack(packages, &part)
    };
    into("qemu", &apt.backports_closure(QEMU_PACKAGE)?)?;
    into("kernel", &[apt.dependency_of(KERNEL_PACKAGE)?])?;
    into("busybox", &[BUSYBOX_PACKAGE.to_owned()])
}

fn find_kernel(boot: &Path) -> Result<PathBuf, AssetsError> {
    let folder = |source| AssetsError::Folder {
        path: boot.to_owned(),
        source,
    };
    for entry in fs::read_dir(boot).map_err(folder)? {
        let entry = entry.map_err(folder)?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    Err(AssetsError::Content(format!(
        "kernel in {}",
        boot.display()
    )))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_expected_pieces_is_no_asset() {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path().join("kernel/boot");
        fs::create_dir_all(&boot).unwrap();
        let error = Assets::open(folder.path().to_owned()).unwrap_err();
        assert!(matches!(error, AssetsError::Content(_)), "{error}");
        fs::write(boot.join("vmlinuz-6.1.0-cloud-amd64"), "").unwrap();
        let error = Assets::open(folder.path().to_owned()).unwrap_err();
        assert!(error.to_string().contains("busybox"), "{error}");
    }

    #[test]
    fn the_nested_folder_is_inside_the_target_directory() {
        let nested = nested_folder().unwrap();
        let target = nested.parent().unwrap();
        assert!(target.join("CACHEDIR.TAG").exists());
        assert!(std::env::current_exe().unwrap().starts_with(target));
    }

    #[test]
    fn a_reason_names_every_cause() {
        let error = AssetsError::Folder {
            path: PathBuf::from("/x"),
            source: io::Error::other("full"),
        };
        assert_eq!(chain(&error), "could not use /x: full");
    }
}
