//! A guest's configuration, checked: whatever is in a [`GuestConfig`] can be built, as far as that
//! can be told without asking the host.

use std::collections::HashSet;
use std::path::PathBuf;

use godwit_proto::guest::{self as spec, GuestSpec, Kernel};
use xxhash_rust::xxh3::xxh3_64;

use crate::boot::{BootError, Cmdline};
use crate::cpu::{CpuError, CpuProfile};
use crate::devices::virtio::block::{BlockConfig, CacheMode, ID_BYTES};
use crate::devices::virtio::net::{MAX_QUEUE_PAIRS, NetConfig};
use crate::memory::ram::{MAX_BYTES, MIN_BYTES};
use crate::memory::{HugePages, MemoryError};

/// Most vCPUs of a guest.
pub const MAX_VCPUS: u32 = 64;
/// Longest name of a guest, bytes.
pub const MAX_NAME_BYTES: usize = 63;
/// PCI slots for devices; slot 0 is the host bridge.
pub const MAX_DEVICES: usize = 31;
/// What a kernel from a file is told unless the user says otherwise: console on the serial port,
/// reboot instead of hanging after a panic.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The name is empty, long, or has other characters.
    #[error(
        "guest name {name:?} is not possible; use 1 to 63 letters, digits, dots, dashes or \
         underscores"
    )]
    Name {
        /// As asked for.
        name: String,
    },
    /// No vCPU or too many.
    #[error("{vcpus} vCPUs are not possible; use 1 to {MAX_VCPUS}")]
    Vcpus {
        /// As asked for.
        vcpus: u32,
    },
    /// The memory size is not possible.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The CPU profile cannot be read.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The command line is not possible.
    #[error(transparent)]
    Cmdline(BootError),
    /// An initrd without a kernel that could use it.
    #[error("the built-in guest takes no initrd; give a kernel as well")]
    InitrdWithoutKernel,
    /// Two devices have the same id.
    #[error("two devices have the id {id:?}; give each its own")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// Two devices use the same file or interface.
    #[error("two devices use {resource:?}; give each its own")]
    DuplicateResource {
        /// A path, or the name of a tap.
        resource: String,
    },
    /// A device's id is not possible.
    #[error("device id {id:?} is not possible; use 1 to {ID_BYTES} bytes of printable ASCII")]
    Id {
        /// As asked for.
        id: String,
    },
    /// More devices than PCI slots.
    #[error("{count} devices do not fit the {MAX_DEVICES} PCI slots")]
    TooManyDevices {
        /// As asked for.
        count: usize,
    },
    /// No queue pair or too many.
    #[error("{pairs} queue pairs for {id:?} are not possible; use 1 to {MAX_QUEUE_PAIRS}")]
    QueuePairs {
        /// The device.
        id: String,
        /// As asked for.
        pairs: u16,
    },
    /// The address is a multicast address or all zeros.
    #[error("MAC address of {id:?} must be a unicast address that is not zero")]
    Mac {
        /// The device.
        id: String,
    },
}

/// What is booted.
#[derive(Clone, Debug)]
pub enum KernelConfig {
    /// The embedded test guest.
    BuiltIn,
    /// An image file, and perhaps its initrd.
    File {
        /// The image.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
    },
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Name for people and for what is derived from it.
    pub name: String,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What backs it.
    pub huge_pages: HugePages,
    /// Which CPU the guest sees.
    pub cpu: CpuProfile,
    /// What is booted.
    pub kernel: KernelConfig,
    /// What it is told.
    pub cmdline: Cmdline,
    /// Disks, by slot.
    pub disks: Vec<BlockConfig>,
    /// Network cards, by slot after the disks.
    pub nets: Vec<NetConfig>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Whether there is a virtio console.
    pub console: bool,
}

impl TryFrom<&GuestSpec> for GuestConfig {
    type Error = ConfigError;

    fn try_from(spec: &GuestSpec) -> Result<Self, ConfigError> {
        check_name(&spec.name)?;
        if !(1..=MAX_VCPUS).contains(&spec.vcpus) {
            return Err(ConfigError::Vcpus { vcpus: spec.vcpus });
        }
        let huge_pages = huge_pages(spec.memory.huge_pages);
        check_memory(spec.memory.size_bytes, huge_pages)?;
        let kernel = match (&spec.boot.kernel, &spec.boot.initrd) {
            (Kernel::BuiltIn, None) => KernelConfig::BuiltIn,
            (Kernel::BuiltIn, Some(_)) => return Err(ConfigError::InitrdWithoutKernel),
            (Kernel::File(kernel), initrd) => KernelConfig::File {
                kernel: kernel.into(),
                initrd: initrd.as_ref().map(PathBuf::from),
            },
        };
        let default_cmdline = match kernel {
            KernelConfig::BuiltIn => "",
            KernelConfig::File { .. } => DEFAULT_CMDLINE,
        };
        let cmdline = Cmdline::new(spec.boot.cmdline.as_deref().unwrap_or(default_cmdline))
            .map_err(ConfigError::Cmdline)?;
        check_devices(spec)?;
        Ok(Self {
            name: spec.name.clone(),
            vcpus: spec.vcpus,
            memory_bytes: spec.memory.size_bytes,
            huge_pages,
            cpu: spec.cpu_profile.parse()?,
            kernel,
            cmdline,
            disks: spec.disks.iter().map(disk).collect(),
            nets: spec.nets.iter().map(|n| net(&spec.name, n)).collect(),
            rng: spec.rng,
            console: spec.console.is_some(),
        })
    }
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(ConfigError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn check_memory(bytes: u64, huge_pages: HugePages) -> Result<(), ConfigError> {
    let page_bytes = huge_pages.page_bytes();
    if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) || !bytes.is_multiple_of(page_bytes) {
        return Err(MemoryError::Size { bytes, page_bytes }.into());
    }
    Ok(())
}

fn check_devices(spec: &GuestSpec) -> Result<(), ConfigError> {
    let count = spec.disks.len()
        + spec.nets.len()
        + usize::from(spec.rng)
        + usize::from(spec.console.is_some());
    if count > MAX_DEVICES {
        return Err(ConfigError::TooManyDevices { count });
    }
    let mut ids = HashSet::new();
    let mut resources = HashSet::new();
    let devices = spec
        .disks
        .iter()
        .map(|d| (&d.id, &d.path))
        .chain(spec.nets.iter().map(|n| (&n.id, &n.tap)));
    for (id, resource) in devices {
        if id.is_empty() || id.len() > ID_BYTES || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::Id { id: id.clone() });
        }
        if !ids.insert(id) {
            return Err(ConfigError::DuplicateId { id: id.clone() });
        }
        if !resources.insert(resource) {
            return Err(ConfigError::DuplicateResource {
                resource: resource.clone(),
            });
        }
    }
    for net in &spec.nets {
        if !(1..=MAX_QUEUE_PAIRS).contains(&net.queue_pairs) {
            return Err(ConfigError::QueuePairs {
                id: net.id.clone(),
                pairs: net.queue_pairs,
            });
        }
        if net.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
            return Err(ConfigError::Mac { id: net.id.clone() });
        }
    }
    Ok(())
}

fn huge_pages(asked: spec::HugePages) -> HugePages {
    match asked {
        spec::HugePages::None => HugePages::None,
        spec::HugePages::Transparent => HugePages::Transparent,
        spec::HugePages::Huge2M => HugePages::Huge2M,
    }
}

fn disk(disk: &spec::DiskSpec) -> BlockConfig {
    BlockConfig {
        id: disk.id.clone(),
        path: PathBuf::from(&disk.path),
        read_only: disk.read_only,
        discard: disk.discard,
        cache: if disk.direct {
            CacheMode::Direct
        } else {
            CacheMode::Host
        },
    }
}

fn net(guest: &str, net: &spec::NetSpec) -> NetConfig {
    NetConfig {
        id: net.id.clone(),
        tap: net.tap.clone(),
        mac: Some(net.mac.unwrap_or_else(|| derived_mac(guest, &net.id))),
        queue_pairs: net.queue_pairs,
        offload: net.offload,
    }
}

/// A locally administered unicast address that a guest keeps for life, wherever it runs.
fn derived_mac(guest: &str, id: &str) -> [u8; 6] {
    let hash = xxh3_64(format!("{guest}\0{id}").as_bytes()).to_le_bytes();
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::guest::{BootSpec, DiskSpec, MemorySpec, NetSpec, SerialSpec};

    fn good() -> GuestSpec {
        GuestSpec {
            name: "web-1".into(),
            vcpus: 2,
            memory: MemorySpec {
                size_bytes: 64 << 20,
                huge_pages: spec::HugePages::None,
            },
            cpu_profile: "host".into(),
            boot: BootSpec {
                kernel: Kernel::BuiltIn,
                initrd: None,
                cmdline: None,
            },
            serial: SerialSpec::Null,
            disks: vec![DiskSpec {
                id: "root".into(),
                path: "/d".into(),
                read_only: false,
                discard: true,
                direct: false,
            }],
            nets: vec![NetSpec {
                id: "net0".into(),
                tap: "tap0".into(),
                mac: None,
                queue_pairs: 1,
                offload: true,
            }],
            rng: true,
            console: None,
        }
    }

    fn refused(change: impl FnOnce(&mut GuestSpec)) -> String {
        let mut spec = good();
        change(&mut spec);
        GuestConfig::try_from(&spec)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn a_sensible_spec_is_taken() {
        let config = GuestConfig::try_from(&good()).unwrap();
        let mac = config.nets[0].mac.unwrap();
        assert_eq!(mac[0] & 3, 2, "locally administered, unicast");
        assert_eq!(mac, derived_mac("web-1", "net0"));
        assert_ne!(mac, derived_mac("web-2", "net0"));
    }

    #[test]
    fn whatever_cannot_be_built_is_refused_by_name() {
        assert!(refused(|s| s.vcpus = 0).contains("use 1 to 64"));
        assert!(refused(|s| s.vcpus = 65).contains("65 vCPUs"));
        assert!(refused(|s| s.memory.size_bytes = 1 << 20).contains("16 MiB to 1 TiB"));
        assert!(refused(|s| s.memory.size_bytes = u64::MAX).contains("16 MiB to 1 TiB"));
        assert!(refused(|s| s.name = "a b".into()).contains("\"a b\""));
        assert!(refused(|s| s.name = String::new()).contains("letters"));
        assert!(refused(|s| s.cpu_profile = "z80".into()).contains("z80"));
        assert!(refused(|s| s.boot.cmdline = Some("a\nb".into())).contains("command line"));
        assert!(refused(|s| s.boot.initrd = Some("i".into())).contains("initrd"));
        assert!(refused(|s| s.nets[0].id = "root".into()).contains("root"));
        assert!(refused(|s| s.disks.push(s.disks[0].clone())).contains("root"));
        assert!(refused(|s| s.disks[0].id = "x".repeat(21)).contains("1 to 20"));
        assert!(refused(|s| s.nets[0].queue_pairs = 0).contains("queue pairs"));
        assert!(refused(|s| s.nets[0].mac = Some([1, 0, 0, 0, 0, 0])).contains("unicast"));
        let many = |s: &mut GuestSpec| {
            s.disks = (0..31)
                .map(|n| DiskSpec {
                    id: format!("d{n}"),
                    path: format!("/{n}"),
                    ..s.disks[0].clone()
                })
                .collect();
        };
        assert!(refused(many).contains("PCI slots"));
    }

    #[test]
    fn two_devices_never_share_a_file_or_a_tap() {
        assert!(
            refused(|s| {
                let twin = DiskSpec {
                    id: "other".into(),
                    ..s.disks[0].clone()
                };
                s.disks.push(twin);
            })
            .contains("/d")
        );
    }
}
