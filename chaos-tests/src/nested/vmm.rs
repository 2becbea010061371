//! Guests of the emulated host, under Godwit or, for comparison, under QEMU.
//!
//! Both run the same kernel, initramfs, disk and tap; a test or a benchmark that
//! takes a [`Vmm`] as an argument runs unchanged under either.

use std::fmt;
use std::time::Duration;

use super::host::{Host, HostError};
use super::image::{GUEST_INITRD, GUEST_KERNEL};
use super::process::Process;

/// Where the host has the `godwit` that was carried in.
pub const GODWIT: &str = "/opt/godwit/godwit";
/// Ctrl-A x, which ends `godwit run`.
const QUIT_KEYS: &str = "\u{1}x";
const SETUP: Duration = Duration::from_secs(20);
const SNAPSHOT: Duration = Duration::from_secs(60);
const MIGRATION: Duration = Duration::from_secs(120);

/// What runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// `godwit run`.
    Godwit,
    /// QEMU with KVM and the q35 machine.
    Qemu,
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Godwit => "godwit",
            Self::Qemu => "qemu",
        })
    }
}

/// What a guest does once it is up (see `nested/guest-init.sh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Checks disk and network, then powers off.
    Io,
    /// Gives a shell on the console, powers off when it ends.
    Shell,
    /// Reboots the first time, powers off the second; remembers on the disk.
    Reboot,
    /// Powers off.
    PowerOff,
    /// Counts, until told `poweroff` on the console; also takes `io`.
    Counter,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Shell => "shell",
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Counter => "counter",
        }
    }
}

/// A guest to run. It has one disk (`disk()`) and one tap (`tap()`), whose
/// network is 10.77.`index`.0/24 with the host at .1 and the guest at .2.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// Names its files and its process in the host.
    pub name: String,
    /// Distinguishes guests that run at the same time; 0..=255.
    pub index: u8,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What it does.
    pub work: Work,
}

impl GuestSpec {
    /// A guest with 256 MiB.
    #[must_use]
    pub fn new(name: &str, cpus: u32, work: Work) -> Self {
        Self {
            name: name.to_owned(),
            index: 0,
            cpus,
            memory_mib: 256,
            work,
        }
    }

    /// Its raw disk in the host, 64 MiB.
    #[must_use]
    pub fn disk(&self) -> String {
        format!("/scratch/{}.raw", self.name)
    }

    /// Its tap in the host.
    #[must_use]
    pub fn tap(&self) -> String {
        format!("tap{}", self.index)
    }

    fn net(&self) -> String {
        format!("10.77.{}", self.index)
    }

    fn kernel_cmdline(&self) -> String {
        let (work, net) = (self.work.word(), self.net());
        format!("console=ttyS0 quiet l2={work} l2net={net}")
    }

    fn socket(&self) -> String {
        format!("/run/{}.sock", self.name)
    }

    fn monitor(&self) -> String {
        format!("/run/{}.monitor", self.name)
    }
}

/// Makes the other end of the guests' network checks: a server that answers with
/// the checksum of what it is sent (port 7001) and a web server (port 7002).
///
/// # Errors
/// When the host does not do it.
pub fn start_peer_services(host: &Host) -> Result<(), HostError> {
    host.check(
        "dd if=/dev/urandom of=/srv/blob bs=64k count=32 && \
         md5sum </srv/blob | cut -d' ' -f1 >/srv/blob.md5 && \
         httpd -p 7002 -h /srv && \
         background sums 'nc -ll -p 7001 -e md5sum'",
        SETUP,
    )
    .map(|_| ())
}

/// Makes an empty disk and an up tap for `spec`, replacing earlier ones.
///
/// # Errors
/// When the host does not do it.
pub fn prepare(host: &Host, spec: &GuestSpec) -> Result<(), HostError> {
    let (disk, tap, net) = (spec.disk(), spec.tap(), spec.net());
    // A tap to which an earlier guest was moved has the same network.
    let command = format!(
        "ifconfig {tap}m 0.0.0.0 down 2>/dev/null; \
         rm -f {disk} && truncate -s 64M {disk} && \
         {{ ifconfig {tap} >/dev/null 2>&1 || tunctl -t {tap}; }} && \
         ifconfig {tap} {net}.1 netmask 255.255.255.0 up"
    );
    host.check(&command, SETUP).map(|_| ())
}

/// A guest that was started or restored; its process is [`Guest::console`].
#[derive(Debug)]
pub struct Guest<'host> {
    /// The VMM's process: the guest's serial console on its input and output.
    pub console: Process<'host>,
    host: &'host Host,
    vmm: Vmm,
    spec: GuestSpec,
}

impl Vmm {
    /// Starts `spec`, for which [`prepare`] was called.
    ///
    /// # Errors
    /// When the host does not do it; a VMM that fails is seen on the console.
    pub fn start<'host>(
        self,
        host: &'host Host,
        spec: &GuestSpec,
    ) -> Result<Guest<'host>, HostError> {
        let command = match self {
            Self::Godwit => godwit_run(spec),
            Self::Qemu => qemu_run(spec),
        };
        self.launch(host, spec, &spec.name, &command)
    }

    /// Restores the guest that [`Guest::snapshot_and_quit`] left in `folder`.
    ///
    /// # Errors
    /// When the host does not do it.
    pub fn restore<'host>(
        self,
        host: &'host Host,
        spec: &GuestSpec,
        folder: &str,
    ) -> Result<Guest<'host>, HostError> {
        let command = match self {
            Self::Godwit => format!("{GODWIT} restore {folder}"),
            Self::Qemu => format!("{} -incoming file:{folder}/state", qemu_run(spec)),
        };
        self.launch(host, spec, &format!("{}-restored", spec.name), &command)
    }

    fn launch<'host>(
        self,
        host: &'host Host,
        spec: &GuestSpec,
        name: &str,
        command: &str,
    ) -> Result<Guest<'host>, HostError> {
        if self == Self::Qemu {
            let fifos = spec.monitor();
            let make = format!("rm -f {fifos}.in {fifos}.out; mkfifo {fifos}.in {fifos}.out");
            host.check(&make, SETUP)?;
        }
        Ok(Guest {
            console: Process::start(host, name, command)?,
            host,
            vmm: self,
            spec: spec.clone(),
        })
    }
}

impl Guest<'_> {
    /// Writes the guest's state into the new folder `folder` and ends its VMM, so
    /// that the guest never runs past the saved moment on the same disk.
    ///
    /// # Errors
    /// When that fails, or the VMM does not end.
    pub fn snapshot_and_quit(&mut self, folder: &str) -> Result<(), HostError> {
        match self.vmm {
            Vmm::Godwit => {
                let ctl = format!("{GODWIT} vmm-ctl --socket {}", self.spec.socket());
                self.host.check(&format!("{ctl} pause"), SNAPSHOT)?;
                self.host
                    .check(&format!("{ctl} snapshot {folder}"), SNAPSHOT)?;
                self.console.type_text(QUIT_KEYS)?;
            }
            Vmm::Qemu => {
                let command = format!("qemu-snapshot {} {folder}", self.spec.monitor());
                self.host.check(&command, SNAPSHOT)?;
            }
        }
        self.console.wait(SNAPSHOT).map(|_| ())
    }
}

impl<'host> Guest<'host> {
    /// Moves a guest of Godwit to another process on the same host, with another tap, which takes over the
    /// host's end of the guest's network. Returns the guest as that process has it, and the receipt.
    ///
    /// # Errors
    /// When it is not moved.
    pub fn migrate(mut self) -> Result<(Self, Self, String), HostError> {
        assert_eq!(self.vmm, Vmm::Godwit, "only Godwit's guests are moved here");
        let (host, spec) = (self.host, self.spec.clone());
        let (old_tap, new_tap, net) = (spec.tap(), format!("{}m", spec.tap()), spec.net());
        let (token, socket) = (format!("/run/{}.token", spec.name), spec.socket());
        let setup = format!(
            "ifconfig lo up; rm -f {token}; \
             {{ ifconfig {new_tap} >/dev/null 2>&1 || tunctl -t {new_tap}; }}"
        );
        host.check(&setup, SETUP)?;
        let receive = format!(
            "{GODWIT} receive --listen 127.0.0.1:0 --token-file {token} \
             --net net0={new_tap} --socket {socket}.moved"
        );
        let console = Process::start(host, &format!("{}-moved", spec.name), &receive)?;
        let migrate = format!(
            "for i in $(seq 200); do test -f {token} && break; sleep 0.1; done; \
             {GODWIT} migrate --json --from {socket} --to $(head -n 1 {token}) \
             --token $(tail -n 1 {token})"
        );
        let receipt = host.check(&migrate, MIGRATION)?;
        let network = format!(
            "ifconfig {old_tap} 0.0.0.0 down; ifconfig {new_tap} {net}.1 netmask 255.255.255.0 up"
        );
        host.check(&network, SETUP)?;
        self.console.wait(SNAPSHOT)?;
        let moved = Self {
            console,
            host,
            vmm: Vmm::Godwit,
            spec,
        };
        Ok((self, moved, receipt))
    }
}

fn godwit_run(spec: &GuestSpec) -> String {
    format!(
        "{GODWIT} run --kernel {GUEST_KERNEL} --initrd {GUEST_INITRD} \
         --cmdline \"{cmdline}\" --disk {disk} --net tap={tap} \
         --cpus {cpus} --memory {memory}M --socket {socket}",
        cmdline = spec.kernel_cmdline(),
        disk = spec.disk(),
        tap = spec.tap(),
        cpus = spec.cpus,
        memory = spec.memory_mib,
        socket = spec.socket(),
    )
}

fn qemu_run(spec: &GuestSpec) -> String {
    format!(
        "qemu -nodefaults -no-user-config -display none -accel kvm -cpu host -M q35 \
         -smp {cpus} -m {memory} -kernel {GUEST_KERNEL} -initrd {GUEST_INITRD} \
         -append \"{cmdline}\" -serial stdio \
         -chardev pipe,id=monitor,path={monitor} -mon chardev=monitor \
         -drive if=none,id=disk,format=raw,file={disk} -device virtio-blk-pci,drive=disk \
         -netdev tap,id=net,ifname={tap},script=no,downscript=no \
         -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci",
        cmdline = spec.kernel_cmdline(),
        disk = spec.disk(),
        tap = spec.tap(),
        cpus = spec.cpus,
        memory = spec.memory_mib,
        monitor = spec.monitor(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vmms_get_the_same_guest() {
        let mut spec = GuestSpec::new("pair", 2, Work::Io);
        spec.index = 3;
        for command in [godwit_run(&spec), qemu_run(&spec)] {
            for part in [
                "/scratch/pair.raw",
                "tap3",
                "l2=io l2net=10.77.3\"",
                GUEST_KERNEL,
                GUEST_INITRD,
                "256",
            ] {
                assert!(command.contains(part), "{part} in {command}");
            }
        }
    }
}
