//! The same guest as a command line of either VMM.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Bench;
use super::peer::Peer;

/// A machine of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QemuMachine {
    /// The smallest, with the smallest firmware: QEMU at its fastest.
    Microvm,
    /// A PC with PCI Express and the smallest firmware, which does not set up every PCI device.
    Q35,
    /// A PC with PCI Express and the default firmware.
    Q35SeaBios,
}

impl QemuMachine {
    /// For a row's peer.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Microvm => "QEMU microvm, qboot",
            Self::Q35 => "QEMU q35, qboot",
            Self::Q35SeaBios => "QEMU q35, SeaBIOS",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Microvm => &[
                "-M",
                "microvm,rtc=off,auto-kernel-cmdline=off,x-option-roms=off,memory-backend=ram",
                "-bios",
                "qboot.rom",
            ],
            Self::Q35 => &["-M", "q35,memory-backend=ram", "-bios", "qboot.rom"],
            Self::Q35SeaBios => &["-M", "q35,memory-backend=ram"],
        }
    }
}

/// A guest; serial port on standard output.
#[derive(Debug, Clone)]
pub struct BenchGuest {
    /// An ELF with a PVH entry; the built-in guest's for Godwit's default.
    pub kernel: PathBuf,
    /// Its command line.
    pub cmdline: String,
    /// Virtual processors.
    pub cpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// A raw disk.
    pub disk: Option<PathBuf>,
    /// A tap.
    pub tap: Option<String>,
    /// What lies in its memory before it starts.
    pub content: Option<Content>,
}

/// A file that is put at the end of guest memory (below the hole for devices).
#[derive(Debug, Clone)]
pub struct Content {
    /// The file.
    pub file: PathBuf,
    /// Its length; a multiple of the page size.
    pub bytes: u64,
}

impl BenchGuest {
    /// One processor, 512 MiB, no devices.
    #[must_use]
    pub fn new(kernel: &Path, cmdline: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            cmdline: cmdline.to_owned(),
            cpus: 1,
            memory_mib: 512,
            disk: None,
            tap: None,
            content: None,
        }
    }

    /// Where the content begins in guest memory, which is smaller than 2 GiB.
    #[must_use]
    pub fn content_at(&self) -> u64 {
        let bytes = self.content.as_ref().map_or(0, |content| content.bytes);
        (self.memory_mib << 20) - bytes
    }

    /// Under Godwit. Devices that the guest does not need are left out, as QEMU's are.
    #[must_use]
    pub fn godwit(&self, bench: &Bench) -> Command {
        let mut command = Command::new(&bench.godwit);
        command
            .args(["run", "--no-rng", "--kernel"])
            .arg(&self.kernel)
            .args(["--cmdline", &self.cmdline])
            .args(["--cpus", &self.cpus.to_string()])
            .args(["--memory", &format!("{}M", self.memory_mib)]);
        if let Some(content) = &self.content {
            command.arg("--initrd").arg(&content.file);
        }
        if let Some(disk) = &self.disk {
            command.arg("--disk").arg(disk);
        }
        if let Some(tap) = &self.tap {
            command.args(["--net", &format!("tap={tap}")]);
        }
        command
    }

    /// Under QEMU. Memory is a memfd there too, so that it can be told from the rest.
    /// `disk_aio` is how it does disk I/O (`threads`, `io_uring`).
    #[must_use]
    pub fn qemu(&self, peer: &Peer, machine: QemuMachine, disk_aio: &str) -> Command {
        self.qemu_with(peer, machine, disk_aio, "kvm")
    }

    /// As [`BenchGuest::qemu`], with properties of the accelerator (`kvm,dirty-ring-size=4096`).
    #[must_use]
    pub fn qemu_with(
        &self,
        peer: &Peer,
        machine: QemuMachine,
        disk_aio: &str,
        accelerator: &str,
    ) -> Command {
        let mut command = peer.command();
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-serial", "stdio", "-no-reboot"])
            .args(["-accel", accelerator])
            .args(["-cpu", "host,-arch-capabilities"])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-smp", &self.cpus.to_string()])
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=ram,size={}M,share=on",
                self.memory_mib
            ))
            .args(machine.arguments())
            .arg("-kernel")
            .arg(&self.kernel)
            .args(["-append", &self.cmdline]);
        if let Some(content) = &self.content {
            let (file, at) = (content.file.display(), self.content_at());
            let loader = format!("loader,file={file},addr={at:#x},force-raw=on");
            command.args(["-device", &loader]);
        }
        if let Some(disk) = &self.disk {
            let disk = disk.display();
            let drive =
                format!("if=none,id=disk,format=raw,cache=writeback,aio={disk_aio},file={disk}");
            command.args(["-drive", &drive, "-object", "iothread,id=io"]);
            command.args(["-device", "virtio-blk-pci,drive=disk,iothread=io"]);
        }
        if let Some(tap) = &self.tap {
            let netdev = format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost=off");
            command.args(["-netdev", &netdev]);
            command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        command
    }
}
