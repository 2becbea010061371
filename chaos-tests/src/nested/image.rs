//! The initramfs of the emulated host and of its guests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::assets::{Assets, AssetsError};
use super::cpio::Cpio;
use super::external::ExternalError;
use super::libraries;
use super::load::Load;
use super::modules::{ModuleTree, ModulesError};

const HOST_INIT: &str = include_str!("../../nested/host-init.sh");
const BACKGROUND: &str = include_str!("../../nested/background.sh");
const QEMU: &str = include_str!("../../nested/qemu.sh");
const QEMU_SNAPSHOT: &str = include_str!("../../nested/qemu-snapshot.sh");
const STRESS_NG: &str = include_str!("../../nested/stress-ng.sh");
const GUEST_INIT: &str = include_str!("../../nested/guest-init.sh");

/// What the host needs: its own devices, KVM, and links for guests.
const HOST_MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "kvm_amd",
    "tun",
    "bridge",
    "veth",
];
/// What a guest needs.
const GUEST_MODULES: [&str; 5] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
];

/// Where the host has the guests' kernel.
pub const GUEST_KERNEL: &str = "/guest/vmlinuz";
/// Where the host has the guests' initramfs.
pub const GUEST_INITRD: &str = "/guest/initrd";
/// Where the host has the initramfs of guests that work under load.
pub const LOADED_GUEST_INITRD: &str = "/guest/initrd-load";
/// Where the host and guests under load have the program `numbered`.
pub const NUMBERED: &str = "/opt/godwit/numbered";

/// Why an initramfs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file to be carried could not be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The image could not be written.
    #[error("could not write an initramfs")]
    Write(#[from] io::Error),
    /// The kernel package lacks a module.
    #[error("could not collect the kernel's modules")]
    Modules(#[from] ModulesError),
    /// The libraries of a carried program are not known.
    #[error("could not find the libraries of {program}")]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        #[source]
        source: ExternalError,
    },
    /// Its libraries are missing.
    #[error("could not carry stress-ng")]
    Stress(#[source] AssetsError),
    /// The assets do not hold a working QEMU.
    #[error("could not carry QEMU")]
    Qemu(#[source] AssetsError),
}

/// A program of this machine to be carried into the host, libraries included.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Where it is here.
    pub from: PathBuf,
    /// Its absolute path in the host.
    pub to: String,
}

/// What the host's initramfs holds beyond the always needed.
#[derive(Debug, Clone, Default)]
pub struct HostContent {
    /// Programs of this machine.
    pub programs: Vec<Carried>,
    /// Whether `qemu` can be run in the host (30 MiB).
    pub qemu: bool,
    /// What guests need to work under load.
    pub load: Option<Load>,
}

/// Writes an initramfs for guests, with `load` if they are to work under it, to `path`.
///
/// # Errors
/// When something to be put in is missing or `path` cannot be written.
pub fn write_guest(assets: &Assets, load: Option<&Load>, path: &Path) -> Result<(), ImageError> {
    let mut image = Image::create(path)?;
    image.base(assets, GUEST_INIT, &GUEST_MODULES)?;
    if let Some(load) = load {
        image.load(load)?;
    }
    image.finish()
}

/// Writes the host's initramfs, with the guests' kernel and `guest_initrds` (from here, to there), to
/// `path`.
///
/// # Errors
/// When something to be put in is missing or `path` cannot be written.
pub fn write_host(
    assets: &Assets,
    content: &HostContent,
    guest_initrds: &[(PathBuf, &str)],
    path: &Path,
) -> Result<(), ImageError> {
    let mut image = Image::create(path)?;
    image.base(assets, HOST_INIT, &HOST_MODULES)?;
    image
        .cpio
        .file("bin/background", 0o755, BACKGROUND.as_bytes())?;
    image.copy(assets.kernel(), GUEST_KERNEL)?;
    for (from, to) in guest_initrds {
        image.copy(from, to)?;
    }
    if let Some(load) = &content.load {
        image.numbered(load)?;
    }
    for program in &content.programs {
        image.program(program)?;
    }
    if content.qemu {
        image.qemu(assets)?;
    }
    image.finish()
}

struct Image {
    cpio: Cpio<BufWriter<File>>,
    /// Library paths in the image; two programs share most of theirs.
    libraries: Vec<String>,
}

impl Image {
    fn create(path: &Path) -> Result<Self, ImageError> {
        Ok(Self {
            cpio: Cpio::new(BufWriter::new(File::create(path)?)),
            libraries: Vec::new(),
        })
    }

    fn base(&mut self, assets: &Assets, init: &str, modules: &[&str]) -> Result<(), ImageError> {
        self.copy(&assets.busybox(), "/bin/busybox")?;
        self.cpio.symlink("bin/sh", "busybox")?;
        self.cpio.file("init", 0o755, init.as_bytes())?;
        let modules = ModuleTree::scan(&assets.modules())?.in_loading_order(modules)?;
        let mut order = String::new();
        for module in &modules {
            let path = format!("modules/{}", module.file);
            self.cpio.file(&path, 0o644, &module.data)?;
            order.push_str(&module.file);
            order.push('\n');
        }
        self.cpio.file("modules/order", 0o644, order.as_bytes())?;
        Ok(())
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<(), ImageError> {
        let read = |source| ImageError::Read {
            path: from.to_owned(),
            source,
        };
        let permissions = fs::metadata(from).map_err(read)?.permissions();
        let data = fs::read(from).map_err(read)?;
        Ok(self.cpio.file(to, permissions.mode(), &data)?)
    }

    /// A program with its libraries at the very paths that its loader looks in.
    fn program(&mut self, program: &Carried) -> Result<(), ImageError> {
        self.copy(&program.from, &program.to)?;
        let libraries = libraries::of_machine_program(&program.from).map_err(|source| {
            ImageError::Libraries {
                program: program.from.clone(),
                source,
            }
        })?;
        for library in libraries {
            let to = library.path.display().to_string();
            if !self.libraries.contains(&to) {
                self.copy(&library.path, &to)?;
                self.libraries.push(to);
            }
        }
        Ok(())
    }

    fn numbered(&mut self, load: &Load) -> Result<(), ImageError> {
        self.program(&Carried {
            from: load.numbered.clone(),
            to: NUMBERED.to_owned(),
        })
    }

    fn load(&mut self, load: &Load) -> Result<(), ImageError> {
        self.numbered(load)?;
        let stress = &load.stress;
        self.cpio
            .file("bin/stress-ng", 0o755, STRESS_NG.as_bytes())?;
        self.copy(&stress.program(), "/opt/stress-ng/stress-ng")?;
        self.copy(&stress.loader(), "/opt/stress-ng/ld-linux-x86-64.so.2")?;
        for library in stress.libraries().map_err(ImageError::Stress)? {
            let to = format!("/opt/stress-ng/lib/{}", library.name);
            self.copy(&library.path, &to)?;
        }
        Ok(())
    }

    fn qemu(&mut self, assets: &Assets) -> Result<(), ImageError> {
        self.cpio.file("bin/qemu", 0o755, QEMU.as_bytes())?;
        self.cpio
            .file("bin/qemu-snapshot", 0o755, QEMU_SNAPSHOT.as_bytes())?;
        self.copy(&assets.qemu_program(), "/opt/qemu/qemu-system-x86_64")?;
        self.copy(&assets.loader(), "/opt/qemu/ld-linux-x86-64.so.2")?;
        for library in assets.qemu_libraries().map_err(ImageError::Qemu)? {
            self.copy(&library.path, &format!("/opt/qemu/lib/{}", library.name))?;
        }
        for file in assets.firmware() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            self.copy(&file, &format!("/opt/qemu/share/{name}"))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ImageError> {
        self.cpio.finish()?.flush()?;
        Ok(())
    }
}
