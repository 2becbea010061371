//! `godwit vm create`.

use std::path::Path;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use godwit_proto::api::{
    Boot, Cpu, CreateGuest, Failover, HugePages, LabelMap, NewDisk, NewNetworkCard,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::Method;

use super::guest_args::{Assignment, HugePagesArg, Size, split_commas};
use super::session::Session;
use super::vm::{Wait, explained, read_guest, tell_started};

const EXAMPLES: &str = "\
Examples:
  godwit vm create test --memory 256M
  godwit vm create web --vcpus 2 --memory 2G --failover restart \\
      --kernel /srv/vmlinuz --initrd /srv/initrd --disk web-root --net lan
  godwit vm create big --memory 512G --dry-run";

/// Make a guest and start it
///
/// The scheduler chooses a node. When none can take the guest, nothing is made, and every node's
/// reasons are told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Create {
    /// Name of the guest: a-z, 0-9 and dashes
    name: String,
    /// Number of vCPUs, 1 to 64
    #[arg(long, visible_alias = "cpus", value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// Memory: bytes, or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,
    /// Host pages behind the guest's memory
    #[arg(long, value_enum, default_value_t = HugePagesArg::None, value_name = "KIND")]
    huge_pages: HugePagesArg,
    /// CPU that the guest sees: what all nodes have in common, all of the first node, or a level
    #[arg(long, value_enum, default_value_t = CpuArg::Cluster, value_name = "CPU")]
    cpu: CpuArg,
    /// Kernel on every node: an x86-64 ELF or a bzImage [default: the built-in test guest]
    #[arg(long, value_name = "FILE")]
    kernel: Option<String>,
    /// Boot the built-in test guest, as without --kernel
    #[arg(long, conflicts_with_all = ["kernel", "initrd"])]
    payload: bool,
    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<String>,
    /// Command line for the kernel, or words for the test guest
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Disk: a volume by name or id; may be repeated
    #[arg(long = "disk", value_name = "VOLUME[,id=ID][,readonly]")]
    disks: Vec<DiskArg>,
    /// Network card on a network, by name or id; may be repeated
    #[arg(long = "net", value_name = "NETWORK[,mac=MAC][,id=ID]")]
    nets: Vec<NetArg>,
    /// No virtio entropy device
    #[arg(long)]
    no_rng: bool,
    /// Label of the guest, which placement rules find it by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Assignment>,
    /// Label that a node must have to run it; may be repeated
    #[arg(long = "node-selector", value_name = "KEY=VALUE")]
    node_selector: Vec<Assignment>,
    /// What happens when its node is lost: never, or restart[=PRIORITY], 0 to 255, the higher first
    #[arg(long, value_name = "POLICY", default_value = "never")]
    failover: FailoverArg,
    /// The node it is started on, by name or id; chosen by the scheduler unless it is given
    #[arg(long, value_name = "NODE", conflicts_with = "no_start")]
    node: Option<String>,
    /// Do not start it
    #[arg(long)]
    no_start: bool,
    /// Make nothing; say where it would go, and why not elsewhere
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Create {
    pub(super) fn run(&self, session: &mut Session) -> Result<(), CodedError> {
        let request = self.request()?;
        if self.dry_run {
            let path = "/v1/guests/explain";
            let document = session.client.change(&Method::POST, path, Some(&request))?;
            return session.write(document, explained);
        }
        let made = session
            .client
            .write(&Method::POST, "/v1/guests", Some(&request))?;
        if request.start {
            return tell_started(session, &made, self.wait);
        }
        let guest = read_guest(session, &made)?;
        session.done(&guest, &format!("guest {} is made", guest.name))
    }

    fn request(&self) -> Result<CreateGuest, CodedError> {
        let path = |path: &Option<String>| path.as_deref().map(absolute).transpose();
        Ok(CreateGuest {
            name: self.name.clone(),
            labels: map(&self.labels),
            vcpus: self.vcpus,
            memory_bytes: self.memory.0,
            huge_pages: HugePages::from(godwit_proto::guest::HugePages::from(self.huge_pages)),
            cpu: self.cpu.into(),
            boot: Boot {
                kernel: path(&self.kernel)?,
                initrd: path(&self.initrd)?,
                cmdline: self.cmdline.clone(),
            },
            disks: self.disks.iter().map(|disk| disk.0.clone()).collect(),
            networks: self.nets.iter().map(|net| net.0.clone()).collect(),
            rng: !self.no_rng,
            node_selector: map(&self.node_selector),
            failover: self.failover.0,
            start: !self.no_start,
            node: self.node.clone(),
        })
    }
}

/// A path as every node, with another working directory, can use it.
pub(super) fn absolute(path: &str) -> Result<String, CodedError> {
    let absolute = std::path::absolute(Path::new(path));
    let absolute = absolute.map_err(|error| CodedError::from_error(ErrorCode::Usage, &error))?;
    Ok(absolute.to_string_lossy().into_owned())
}

/// Labels as a map; of two values for a key the last counts.
pub(super) fn map(labels: &[Assignment]) -> LabelMap {
    let labels = labels.iter();
    labels
        .map(|label| (label.id.clone(), label.value.clone()))
        .collect()
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuArg {
    /// What all nodes have in common
    Cluster,
    /// All of the node that the guest is first started on
    Host,
    /// A level of the x86-64 psABI
    #[value(name = "x86-64-v2")]
    V2,
    /// The next one
    #[value(name = "x86-64-v3")]
    V3,
    /// The highest one
    #[value(name = "x86-64-v4")]
    V4,
}

impl From<CpuArg> for Cpu {
    fn from(cpu: CpuArg) -> Self {
        match cpu {
            CpuArg::Cluster => Self::Cluster,
            CpuArg::Host => Self::Host,
            CpuArg::V2 => Self::V2,
            CpuArg::V3 => Self::V3,
            CpuArg::V4 => Self::V4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FailoverArg(Failover);

impl FromStr for FailoverArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text.split_once('=') {
            None if text == "never" => Failover::Never,
            None if text == "restart" => Failover::Restart { priority: 0 },
            Some(("restart", priority)) => Failover::Restart {
                priority: priority
                    .parse()
                    .map_err(|_| format!("priority {priority:?} is not 0 to 255"))?,
            },
            _ => return Err("use never or restart[=PRIORITY]".into()),
        }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskArg(NewDisk);

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = split_commas(text).into_iter();
        let volume = parts.next().filter(|volume| !volume.is_empty());
        let mut disk = NewDisk {
            volume: volume.ok_or("the volume is missing")?,
            id: None,
            read_only: false,
        };
        for part in parts {
            match part.split_once('=').unwrap_or((&part, "")) {
                ("id", id) => disk.id = Some(id.into()),
                ("readonly", "") => disk.read_only = true,
                _ => return Err(format!("{part:?} is not id=ID or readonly")),
            }
        }
        Ok(Self(disk))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NetArg(NewNetworkCard);

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = split_commas(text).into_iter();
        let network = parts.next().filter(|network| !network.is_empty());
        let mut card = NewNetworkCard {
            network: network.ok_or("the network is missing")?,
            id: None,
            mac: None,
        };
        for part in parts {
            match part.split_once('=').unwrap_or((&part, "")) {
                ("id", id) => card.id = Some(id.into()),
                ("mac", mac) => card.mac = Some(mac.into()),
                _ => return Err(format!("{part:?} is not mac=MAC or id=ID")),
            }
        }
        Ok(Self(card))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_a_word_and_a_priority() {
        let of = |text: &str| text.parse::<FailoverArg>().map(|arg| arg.0);
        assert_eq!(of("never"), Ok(Failover::Never));
        assert_eq!(of("restart"), Ok(Failover::Restart { priority: 0 }));
        assert_eq!(of("restart=9"), Ok(Failover::Restart { priority: 9 }));
        for text in ["", "always", "restart=", "restart=256", "never=1"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_is_a_volume_and_options() {
        let disk: DiskArg = "root,id=boot,readonly".parse().unwrap();
        assert_eq!(
            (disk.0.volume.as_str(), disk.0.id.as_deref()),
            ("root", Some("boot"))
        );
        assert!(disk.0.read_only);
        for text in ["", ",readonly", "root,direct", "root,readonly=1"] {
            assert!(text.parse::<DiskArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_card_is_a_network_and_options() {
        let card: NetArg = "lan,mac=52:54:00:12:34:56".parse().unwrap();
        assert_eq!(card.0.network, "lan");
        assert_eq!(card.0.mac.as_deref(), Some("52:54:00:12:34:56"));
        for text in ["", "lan,queues=2"] {
            assert!(text.parse::<NetArg>().is_err(), "{text:?}");
        }
    }
}
