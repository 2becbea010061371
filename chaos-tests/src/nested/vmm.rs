//! Guests of the emulated host, under Godwit or, for comparison, under QEMU.
//!
//! Both run the same kernel, initramfs, disk and tap; a test or a benchmark that
//! takes a [`Vmm`] as an argument runs unchanged under either.

use std::fmt;
use std::time::Duration;

use godwit_proto::codes::ErrorCode;

use super::host::{Host, HostError, Output};
use super::image::{GUEST_INITRD, GUEST_KERNEL, LOADED_GUEST_INITRD};
use super::process::Process;

/// Where the host has the `godwit` that was carried in.
pub const GODWIT: &str = "/opt/godwit/godwit";
/// Ctrl-A x, which ends `godwit run`.
const QUIT_KEYS: &str = "\u{1}x";
const SETUP: Duration = Duration::from_secs(20);
const SNAPSHOT: Duration = Duration::from_secs(60);
const MIGRATION: Duration = Duration::from_secs(120);
const MIGRATION_ATTEMPTS: u32 = 4;

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
    /// stress-ng and a TCP connection to port 7003, until told `finish` on the console; needs
    /// [`HostContent::load`](super::HostContent).
    Load,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Shell => "shell",
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Counter => "counter",
            Self::Load => "load",
        }
    }
}

/// A guest to run. It has one disk (`disk()`) and a bridge in the host with two taps, of which it uses
/// `tap()` until it moves. Its network is 10.77.`index`.0/24 with the host at .1 and the guest at .2.
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

    /// The tap in the host with which it starts.
    #[must_use]
    pub fn tap(&self) -> String {
        self.tap_at(false)
    }

    /// One of the two taps on its bridge.
    fn tap_at(&self, other: bool) -> String {
        let end = if other { "b" } else { "a" };
        format!("tap{}{end}", self.index)
    }

    fn bridge(&self) -> String {
        format!("br{}", self.index)
    }

    fn initrd(&self) -> &'static str {
        match self.work {
            Work::Load => LOADED_GUEST_INITRD,
            _ => GUEST_INITRD,
        }
    }

    fn net(&self) -> String {
        format!("10.77.{}", self.index)
    }

    fn kernel_cmdline(&self) -> String {
        let (work, net) = (self.work.word(), self.net());
        format!("console=ttyS0 quiet l2={work} l2net={net}")
    }

    fn socket_after(&self, moves: u32) -> String {
        format!("/run/{}-{moves}.sock", self.name)
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

/// Makes an empty disk and a network for `spec`, replacing an earlier disk.
///
/// # Errors
/// When the host does not do it.
pub fn prepare(host: &Host, spec: &GuestSpec) -> Result<(), HostError> {
    let (disk, bridge, net) = (spec.disk(), spec.bridge(), spec.net());
    let (one, other) = (spec.tap_at(false), spec.tap_at(true));
    // With an address of its own, for else a bridge takes one from its ports.
    let command = format!(
        "set -e; rm -f {disk}; truncate -s 64M {disk}; \
         ifconfig {bridge} >/dev/null 2>&1 && exit 0; \
         brctl addbr {bridge}; ifconfig {bridge} hw ether 02:77:00:00:00:{index:02x}; \
         ifconfig {bridge} {net}.1 netmask 255.255.255.0 up; \
         for tap in {one} {other}; do \
         tunctl -t $tap; brctl addif {bridge} $tap; ifconfig $tap up; done",
        index = spec.index,
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
    /// How often it was moved.
    moves: u32,
    /// Whether it is on the other of its taps now.
    on_other_tap: bool,
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
            moves: 0,
            on_other_tap: false,
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
                let socket = self.spec.socket_after(self.moves);
                let ctl = format!("{GODWIT} vmm-ctl --socket {socket}");
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
    /// Moves a guest of Godwit to another process on the same host, with the mode and further `options` of
    /// `godwit migrate`: to the other tap on its bridge, or with its tap in the mode `local`. Returns the
    /// guest as the process had it that gave it away, as the new one has it, and the receipt.
    ///
    /// A peer that is silent for three seconds counts as dead, and a machine that is emulated on a busy
    /// one may be silent for so long. That leaves the guest where it was, so it is tried again.
    ///
    /// # Errors
    /// When it is not moved.
    pub fn migrate(mut self, mode: &str, options: &str) -> Result<(Self, Self, String), HostError> {
        assert_eq!(self.vmm, Vmm::Godwit, "only Godwit's guests are moved here");
        let options = format!("--mode {mode} {options}");
        let on_other_tap = self.on_other_tap ^ (mode != "local");
        let mut attempt = 1;
        loop {
            let (console, answer) = self.try_to_migrate(&options, on_other_tap, attempt)?;
            let receipt = answer.text();
            if answer.status == 0 {
                self.console.wait(SNAPSHOT)?;
                let moved = Self {
                    console,
                    host: self.host,
                    vmm: Vmm::Godwit,
                    spec: self.spec.clone(),
                    moves: self.moves + 1,
                    on_other_tap,
                };
                return Ok((self, moved, receipt));
            }
            let link_lost = answer.status == i32::from(ErrorCode::LinkLost.exit_code());
            let silent = link_lost || receipt.contains("peer is dead or unreachable");
            if !silent || attempt == MIGRATION_ATTEMPTS {
                self.host.fail();
                return Err(HostError::Command {
                    command: format!("godwit migrate {options}"),
                    status: answer.status,
                    output: receipt,
                });
            }
            eprintln!(
                "nested: the peer was silent, moving {} again",
                self.spec.name
            );
            attempt += 1;
        }
    }

    /// Returns the process that may have the guest now, and how the command ended.
    fn try_to_migrate(
        &self,
        options: &str,
        on_other_tap: bool,
        attempt: u32,
    ) -> Result<(Process<'host>, Output), HostError> {
        let (host, spec, moves) = (self.host, &self.spec, self.moves + 1);
        let token = format!("/run/{}-{moves}.token", spec.name);
        let (from, to) = (spec.socket_after(self.moves), spec.socket_after(moves));
        host.check(&format!("rm -f {token} {to}"), SETUP)?;
        let net = if on_other_tap == self.on_other_tap {
            String::new()
        } else {
            format!("--net net0={}", spec.tap_at(on_other_tap))
        };
        let receive = format!(
            "{GODWIT} receive --listen 127.0.0.1:0 --token-file {token} {net} --socket {to}"
        );
        let name = format!("{}-{moves}-{attempt}", spec.name);
        let console = Process::start(host, &name, &receive)?;
        let migrate = format!(
            "for i in $(seq 200); do test -f {token} && break; sleep 0.1; done; \
             {GODWIT} migrate --json {options} --from {from} --to $(head -n 1 {token}) \
             --token $(tail -n 1 {token})"
        );
        Ok((console, host.run(&migrate, MIGRATION)?))
    }
}

fn godwit_run(spec: &GuestSpec) -> String {
    format!(
        "{GODWIT} run --kernel {GUEST_KERNEL} --initrd {initrd} \
         --cmdline \"{cmdline}\" --disk {disk} --net tap={tap} \
         --cpus {cpus} --memory {memory}M --socket {socket}",
        initrd = spec.initrd(),
        cmdline = spec.kernel_cmdline(),
        disk = spec.disk(),
        tap = spec.tap(),
        cpus = spec.cpus,
        memory = spec.memory_mib,
        socket = spec.socket_after(0),
    )
}

fn qemu_run(spec: &GuestSpec) -> String {
    format!(
        "qemu -nodefaults -no-user-config -display none -accel kvm -cpu host -M q35 \
         -smp {cpus} -m {memory} -kernel {GUEST_KERNEL} -initrd {initrd} \
         -append \"{cmdline}\" -serial stdio \
         -chardev pipe,id=monitor,path={monitor} -mon chardev=monitor \
         -drive if=none,id=disk,format=raw,file={disk} -device virtio-blk-pci,drive=disk \
         -netdev tap,id=net,ifname={tap},script=no,downscript=no \
         -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci",
        initrd = spec.initrd(),
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
                "tap3a",
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
