//! What a guest is made of, as options.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use godwit_proto::guest::{
    BootSpec, DiskSpec, GuestSpec, HugePages, Kernel, MemorySpec, NetSpec, SerialSpec,
};

/// The guest.
#[derive(Args, Clone, Debug)]
pub(super) struct GuestArgs {
    /// Kernel: an x86-64 ELF (PVH or 64-bit Linux entry) or a bzImage [default: the built-in test
    /// guest]
    #[arg(long, value_name = "FILE")]
    kernel: Option<String>,
    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    initrd: Option<String>,
    /// Command line for the kernel [default: `console=ttyS0 panic=-1` with --kernel, else empty]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Disk: a raw image or block device; may be repeated. A comma in PATH is written `,,`
    #[arg(
        long = "disk",
        value_name = "PATH[,id=ID][,readonly][,discard][,direct]"
    )]
    disks: Vec<DiskArg>,
    /// Network card on a tap interface; may be repeated
    #[arg(
        long = "net",
        value_name = "tap=NAME[,mac=MAC][,id=ID][,queues=N][,offload=off]"
    )]
    nets: Vec<NetArg>,
    /// Number of vCPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory, 16M to 1T: bytes, or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,
    /// Host pages behind the guest's memory
    #[arg(long, value_enum, default_value_t = HugePagesArg::None, value_name = "KIND")]
    huge_pages: HugePagesArg,
    /// CPU that the guest sees: host, x86-64-v2, x86-64-v3, x86-64-v4, or baseline:TEXT
    #[arg(long, value_name = "PROFILE", default_value = "host")]
    cpu_profile: String,
    /// Name of the guest
    #[arg(long, value_name = "NAME", default_value = "guest")]
    name: String,
    /// First serial port: stdio, null, file:PATH or socket:PATH
    #[arg(long, value_name = "END", default_value = "stdio")]
    serial: SerialArg,
    /// Adds a virtio console: stdio, null, file:PATH or socket:PATH
    #[arg(long, value_name = "END")]
    console: Option<SerialArg>,
    /// No virtio entropy device
    #[arg(long)]
    no_rng: bool,
}

impl GuestArgs {
    /// The guest as asked for. Devices without an id get `disk0`, `net0` and so on.
    pub(super) fn spec(&self) -> GuestSpec {
        let kernel = self.kernel.clone().map_or(Kernel::BuiltIn, Kernel::File);
        let disks = (0..).zip(&self.disks);
        let nets = (0..).zip(&self.nets);
        GuestSpec {
            name: self.name.clone(),
            vcpus: self.cpus,
            memory: MemorySpec {
                size_bytes: self.memory.0,
                huge_pages: self.huge_pages.into(),
            },
            cpu_profile: self.cpu_profile.clone(),
            boot: BootSpec {
                kernel,
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
            },
            serial: self.serial.0.clone(),
            disks: disks.map(|(index, disk)| disk.spec(index)).collect(),
            nets: nets.map(|(index, net)| net.spec(index)).collect(),
            rng: !self.no_rng,
            console: self.console.as_ref().map(|end| end.0.clone()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum HugePagesArg {
    /// 4 KiB pages
    None,
    /// 2 MiB pages where the host finds them
    Transparent,
    /// 2 MiB pages from the host's reserve
    #[value(name = "2m")]
    Huge2M,
}

impl From<HugePagesArg> for HugePages {
    fn from(arg: HugePagesArg) -> Self {
        match arg {
            HugePagesArg::None => Self::None,
            HugePagesArg::Transparent => Self::Transparent,
            HugePagesArg::Huge2M => Self::Huge2M,
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            unit => return Err(format!("unit {unit:?} is not known; use K, M, G or T")),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("{text:?} is not a size; write it as in 512M or 2G"))?;
        match number.checked_mul(1 << shift) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(format!(
                "{text:?} is more than any machine has; use at most 1T"
            )),
        }
    }
}

/// The host's end of a serial port or console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SerialArg(pub(super) SerialSpec);

impl FromStr for SerialArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text.split_once(':') {
            None if text == "stdio" => SerialSpec::Stdio,
            None if text == "null" => SerialSpec::Null,
            Some(("file", path)) if !path.is_empty() => SerialSpec::File(path.into()),
            Some(("socket", path)) if !path.is_empty() => SerialSpec::Socket(path.into()),
            _ => return Err("use stdio, null, file:PATH or socket:PATH".into()),
        }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskArg {
    path: String,
    id: Option<String>,
    read_only: bool,
    discard: bool,
    direct: bool,
}

impl DiskArg {
    fn spec(&self, index: usize) -> DiskSpec {
        DiskSpec {
            id: self.id.clone().unwrap_or_else(|| format!("disk{index}")),
            path: self.path.clone(),
            read_only: self.read_only,
            discard: self.discard,
            direct: self.direct,
        }
    }
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = split_commas(text).into_iter();
        let path = parts.next().filter(|path| !path.is_empty());
        let mut disk = Self {
            path: path.ok_or("the path is missing")?,
            id: None,
            read_only: false,
            discard: false,
            direct: false,
        };
        for part in parts {
            match part.split_once('=').unwrap_or((&part, "")) {
                ("id", id) => disk.id = Some(id.into()),
                ("readonly", "") => disk.read_only = true,
                ("discard", "") => disk.discard = true,
                ("direct", "") => disk.direct = true,
                _ => {
                    return Err(format!(
                        "{part:?} is not id=ID, readonly, discard or direct"
                    ));
                }
            }
        }
        Ok(disk)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NetArg {
    tap: String,
    id: Option<String>,
    mac: Option<[u8; 6]>,
    queues: u16,
    offload: bool,
}

impl NetArg {
    fn spec(&self, index: usize) -> NetSpec {
        NetSpec {
            id: self.id.clone().unwrap_or_else(|| format!("net{index}")),
            tap: self.tap.clone(),
            mac: self.mac,
            queue_pairs: self.queues,
            offload: self.offload,
        }
    }
}

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut net = Self {
            tap: String::new(),
            id: None,
            mac: None,
            queues: 1,
            offload: true,
        };
        for part in split_commas(text) {
            match part.split_once('=').unwrap_or((&part, "")) {
                ("tap", tap) => net.tap = tap.into(),
                ("id", id) => net.id = Some(id.into()),
                ("mac", mac) => net.mac = Some(parse_mac(mac)?),
                ("queues", count) => {
                    let bad = |_| format!("{count:?} is not a number of queues");
                    net.queues = count.parse().map_err(bad)?;
                }
                ("offload", "on") => net.offload = true,
                ("offload", "off") => net.offload = false,
                _ => {
                    return Err(format!(
                        "{part:?} is not tap=NAME, mac=MAC, id=ID, queues=N or offload=on|off"
                    ));
                }
            }
        }
        match net.tap.is_empty() {
            true => Err("the tap is missing; write tap=NAME".into()),
            false => Ok(net),
        }
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |part: &str| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{text:?} is not a MAC address; write it as in 52:54:00:12:34:56"))
}

/// Splits at commas; two of them are one that does not split.
pub(super) fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("there is always one");
        if c != ',' {
            last.push(c);
        } else if chars.next_if_eq(&',').is_some() {
            last.push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// `ID=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) id: String,
    pub(super) value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((id, value)) if !id.is_empty() && !value.is_empty() => Ok(Self {
                id: id.into(),
                value: value.into(),
            }),
            _ => Err("use ID=VALUE".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("1t", 1 << 40),
            ("16MiB", 16 << 20),
            ("1048576", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "12X", "99999999T", "é", "1é"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_is_a_path_and_options() {
        let disk: DiskArg = "a,,b.img,id=root,readonly,direct".parse().unwrap();
        assert_eq!(
            (disk.path.as_str(), disk.id.as_deref()),
            ("a,b.img", Some("root"))
        );
        assert!(disk.read_only && disk.direct && !disk.discard);
        for text in ["", ",readonly", "a,readonly=1", "a,cache=none", "a,"] {
            assert!(text.parse::<DiskArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_network_card_names_its_tap() {
        let text = "tap=tap0,mac=52:54:00:12:34:56,queues=2,offload=off";
        let net: NetArg = text.parse().unwrap();
        assert_eq!(net.mac, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(
            (net.tap.as_str(), net.queues, net.offload),
            ("tap0", 2, false)
        );
        for text in [
            "",
            "mac=52:54:00:12:34:56",
            "tap=t,mac=1:2",
            "tap=t,queues=-1",
            "tap0",
        ] {
            assert!(text.parse::<NetArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_serial_port_leads_somewhere() {
        let file: SerialArg = "file:/tmp/a:b".parse().unwrap();
        assert_eq!(file.0, SerialSpec::File("/tmp/a:b".into()));
        for text in ["", "file:", "socket", "pty"] {
            assert!(text.parse::<SerialArg>().is_err(), "{text:?}");
        }
    }
}
