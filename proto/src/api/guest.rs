//! Guests.

use serde::{Deserialize, Serialize};

use super::{Failure, LabelMap, Named, Time, yes};
use crate::cluster::{CpuChoice, CpuLevel, FailoverPolicy, ObservedState, RunIntent};
use crate::guest;

/// `POST /v1/guests`: a guest to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGuest {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: LabelMap,
    /// Number of vCPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Bytes of memory.
    #[serde(default = "default_memory_bytes")]
    pub memory_bytes: u64,
    /// Host pages behind its memory.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// Which processor it sees.
    #[serde(default)]
    pub cpu: Cpu,
    /// What it boots.
    #[serde(default)]
    pub boot: Boot,
    /// Its disks, in the order of their PCI slots.
    #[serde(default)]
    pub disks: Vec<NewDisk>,
    /// Its network cards, in the order of their PCI slots.
    #[serde(default)]
    pub networks: Vec<NewNetworkCard>,
    /// Whether it has a virtio entropy device.
    #[serde(default = "yes")]
    pub rng: bool,
    /// Labels that a node must have to run it.
    #[serde(default)]
    pub node_selector: LabelMap,
    /// What happens when its node is lost.
    #[serde(default)]
    pub failover: Failover,
    /// Whether it is started as well.
    #[serde(default = "yes")]
    pub start: bool,
    /// The node it is started on, by name or id; chosen when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

const fn one() -> u32 {
    1
}

const fn default_memory_bytes() -> u64 {
    512 << 20
}

/// A disk of a guest to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDisk {
    /// The volume, by name or id.
    pub volume: String,
    /// Name of the device; `disk0` and so on when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// A network card of a guest to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewNetworkCard {
    /// The network, by name or id.
    pub network: String,
    /// Name of the device; `net0` and so on when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its address, as in `52:54:00:12:34:56`; drawn when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Host pages behind a guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// 4 KiB pages.
    #[default]
    None,
    /// 2 MiB pages where the host finds them.
    Transparent,
    /// 2 MiB pages from the host's reserve.
    #[serde(rename = "2m")]
    Huge2M,
}

/// Which processor a guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cpu {
    /// What all members have in common when the guest is made.
    #[default]
    #[serde(rename = "cluster")]
    Cluster,
    /// All of the node it is first started on.
    #[serde(rename = "host")]
    Host,
    /// A level of the x86-64 psABI.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// The next one.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// The highest one.
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// What a guest boots. Paths are absolute, and the same on every node that it may run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The kernel, an ELF or a bzImage; the built-in test guest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// The kernel's command line; its default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
}

/// What happens to a guest whose node is lost: `"never"`, or `{"restart": {"priority": 10}}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Failover {
    /// Nothing.
    #[default]
    Never,
    /// It is started elsewhere, those of higher priority first.
    Restart {
        /// Rank among guests; the higher goes first.
        #[serde(default)]
        priority: u8,
    },
}

/// `POST /v1/guests/{guest}/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartGuest {
    /// The node, by name or id; chosen when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// `POST /v1/guests/{guest}/migrate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateGuest {
    /// The node, by name or id; chosen when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: LabelMap,
    /// The state's revision when anything of it last changed.
    pub revision: u64,
    /// How often what is wanted of it changed.
    pub generation: u64,
    /// When it was made.
    pub created: Time,
    /// Whether it is to run.
    pub intent: Intent,
    /// What it does, as far as is known.
    pub state: GuestState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When its node last told of it.
    pub observed: Time,
    /// The node that owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    /// The epoch under which that node does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Where it is about to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// Pages of 4 KiB that it writes in a second, when that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_pages_per_second: Option<u64>,
    /// What happens when its node is lost.
    pub failover: Failover,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Host pages behind its memory.
    pub huge_pages: HugePages,
    /// Which processor it sees.
    pub cpu: Cpu,
    /// What it boots.
    pub boot: Boot,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub networks: Vec<NetworkCard>,
    /// Whether it has a virtio entropy device.
    pub rng: bool,
    /// Labels that a node must have to run it.
    pub node_selector: LabelMap,
}

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Name of the device.
    pub id: String,
    /// The volume.
    pub volume: Named,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A network card of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCard {
    /// Name of the device.
    pub id: String,
    /// The network.
    pub network: Named,
    /// Its address.
    pub mac: String,
}

/// A migration that a guest is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The migration's id.
    pub migration: String,
    /// Where the guest goes.
    pub target: Named,
    /// The epoch under which the target is to run it.
    pub successor: u64,
    /// Whether it may be handed over at any moment.
    pub window_open: bool,
}

/// Whether a guest is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// It is.
    Running,
    /// It is not.
    Stopped,
}

/// What a guest does, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Nothing: it was never started, or it ended.
    Stopped,
    /// Its node was told to start it and has not answered.
    Starting,
    /// It runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// It cannot be started, or crashed.
    Failed,
    /// Its node is lost.
    Unknown,
}

impl GuestState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Failed,
        Self::Unknown,
    ];

    /// Its name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl From<&ObservedState> for GuestState {
    fn from(state: &ObservedState) -> Self {
        match state {
            ObservedState::Stopped => Self::Stopped,
            ObservedState::Starting => Self::Starting,
            ObservedState::Running => Self::Running,
            ObservedState::Paused => Self::Paused,
            ObservedState::Failed(_) => Self::Failed,
            ObservedState::Unknown => Self::Unknown,
        }
    }
}

impl From<RunIntent> for Intent {
    fn from(intent: RunIntent) -> Self {
        match intent {
            RunIntent::Running => Self::Running,
            RunIntent::Stopped => Self::Stopped,
        }
    }
}

impl From<guest::HugePages> for HugePages {
    fn from(pages: guest::HugePages) -> Self {
        match pages {
            guest::HugePages::None => Self::None,
            guest::HugePages::Transparent => Self::Transparent,
            guest::HugePages::Huge2M => Self::Huge2M,
        }
    }
}

impl From<HugePages> for guest::HugePages {
    fn from(pages: HugePages) -> Self {
        match pages {
            HugePages::None => Self::None,
            HugePages::Transparent => Self::Transparent,
            HugePages::Huge2M => Self::Huge2M,
        }
    }
}

impl From<CpuChoice> for Cpu {
    fn from(choice: CpuChoice) -> Self {
        match choice {
            CpuChoice::Cluster => Self::Cluster,
            CpuChoice::Host => Self::Host,
            CpuChoice::Level(CpuLevel::V2) => Self::V2,
            CpuChoice::Level(CpuLevel::V3) => Self::V3,
            CpuChoice::Level(CpuLevel::V4) => Self::V4,
        }
    }
}

impl From<Cpu> for CpuChoice {
    fn from(cpu: Cpu) -> Self {
        match cpu {
            Cpu::Cluster => Self::Cluster,
            Cpu::Host => Self::Host,
            Cpu::V2 => Self::Level(CpuLevel::V2),
            Cpu::V3 => Self::Level(CpuLevel::V3),
            Cpu::V4 => Self::Level(CpuLevel::V4),
        }
    }
}

impl From<FailoverPolicy> for Failover {
    fn from(policy: FailoverPolicy) -> Self {
        match policy {
            FailoverPolicy::Never => Self::Never,
            FailoverPolicy::Restart { priority } => Self::Restart { priority },
        }
    }
}

impl From<Failover> for FailoverPolicy {
    fn from(failover: Failover) -> Self {
        match failover {
            Failover::Never => Self::Never,
            Failover::Restart { priority } => Self::Restart { priority },
        }
    }
}

impl From<guest::BootSpec> for Boot {
    fn from(boot: guest::BootSpec) -> Self {
        Self {
            kernel: match boot.kernel {
                guest::Kernel::BuiltIn => None,
                guest::Kernel::File(path) => Some(path),
            },
            initrd: boot.initrd,
            cmdline: boot.cmdline,
        }
    }
}

impl From<Boot> for guest::BootSpec {
    fn from(boot: Boot) -> Self {
        Self {
            kernel: boot
                .kernel
                .map_or(guest::Kernel::BuiltIn, guest::Kernel::File),
            initrd: boot.initrd,
            cmdline: boot.cmdline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough_for_a_guest_that_is_started() {
        let guest: CreateGuest = serde_json::from_str(r#"{"name": "a"}"#).unwrap();
        assert_eq!((guest.vcpus, guest.memory_bytes), (1, 512 << 20));
        assert!(guest.start && guest.rng && guest.node.is_none());
        assert_eq!(guest.failover, Failover::Never);
        let text = serde_json::to_string(&guest).unwrap();
        assert_eq!(serde_json::from_str::<CreateGuest>(&text).unwrap(), guest);
    }

    #[test]
    fn a_field_that_is_not_known_is_refused_wherever_it_is() {
        for text in [
            r#"{"name": "a", "vcpu": 2}"#,
            r#"{"name": "a", "boot": {"kernal": "k"}}"#,
            r#"{"name": "a", "disks": [{"volume": "v", "readonly": true}]}"#,
            r#"{"name": "a", "failover": {"restart": {"rank": 1}}}"#,
            r#"{"name": "a", "name": "b"}"#,
        ] {
            assert!(serde_json::from_str::<CreateGuest>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies_are_a_word_or_have_their_values() {
        let of = |text| serde_json::from_str::<Failover>(text).unwrap();
        assert_eq!(of(r#""never""#), Failover::Never);
        let restart = of(r#"{"restart": {"priority": 7}}"#);
        assert_eq!(restart, Failover::Restart { priority: 7 });
        assert_eq!(of(r#"{"restart": {}}"#), Failover::Restart { priority: 0 });
        assert_eq!(
            FailoverPolicy::from(restart),
            FailoverPolicy::Restart { priority: 7 }
        );
    }

    #[test]
    fn states_are_named_as_in_json() {
        for state in GuestState::ALL {
            let json = serde_json::to_value(state).unwrap();
            assert_eq!(json, state.name());
        }
    }
}
