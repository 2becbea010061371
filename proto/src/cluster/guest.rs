//! Guests as the cluster knows them.

use rkyv::{Archive, Deserialize, Serialize};

use super::{CpuLevel, Labels, Meta, Ownership};
use crate::codes::CodedError;
use crate::guest::{BootSpec, HugePages};
use crate::id::{BaselineId, Generation, GuestId, NetworkId, Timestamp, VolumeId};
use crate::record;
use crate::record::Kind;

/// A guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its id.
    pub id: GuestId,
    /// Name, labels, age.
    pub meta: Meta,
    /// What it is made of.
    pub template: GuestTemplate,
    /// Whether it is started elsewhere when its node is lost.
    pub failover: FailoverPolicy,
    /// The generation since which it needs a lease, if it needs one. Whoever runs it must have made
    /// this one real before it is taken from them: until then they run it without a lease.
    pub leased_from: Generation,
    /// Whether it is to run.
    pub intent: RunIntent,
    /// The CPU features it was promised, once it was.
    pub baseline: Option<BaselineId>,
    /// Who may run it.
    pub ownership: Ownership,
    /// What its owner last told.
    pub observed: Observed,
}
record!(Guest, Kind::Guest, version = 1);

/// What a guest is made of. Nothing in it names a place on a host.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GuestTemplate {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What backs its memory.
    pub huge_pages: HugePages,
    /// Which processor it sees.
    pub cpu: CpuChoice,
    /// What it boots; paths are the same on every node that it may run on.
    pub boot: BootSpec,
    /// Its disks, in the order of their PCI slots.
    pub volumes: Vec<VolumeAttachment>,
    /// Its network devices, in the order of their PCI slots.
    pub networks: Vec<NetworkAttachment>,
    /// Whether it has a virtio entropy device.
    pub rng: bool,
    /// Labels that a node must have to run it.
    pub node_selector: Labels,
}

/// Which processor a guest sees.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuChoice {
    /// What all members have in common when the guest is made.
    Cluster,
    /// A named level.
    Level(CpuLevel),
    /// All of the node it is first started on; it can move only to nodes that have as much.
    Host,
}

/// A disk of a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct VolumeAttachment {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// The volume.
    pub volume: VolumeId,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A network device of a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetworkAttachment {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// The network.
    pub network: NetworkId,
    /// Its address; it stays the same wherever the guest runs.
    pub mac: [u8; 6],
}

/// What happens to a guest whose node is lost.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverPolicy {
    /// Nothing. It needs no lease, and runs on whatever happens to the control plane.
    Never,
    /// It is started elsewhere, those of higher priority first.
    Restart {
        /// Rank among guests; the higher goes first.
        priority: u8,
    },
}

/// Whether a guest is to run.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunIntent {
    /// It is.
    Running,
    /// It is not.
    Stopped,
}

/// What the owner of a guest last told.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What the guest does.
    pub state: ObservedState,
    /// The generation that the owner had made real by then, or was given the guest with.
    pub generation: Generation,
    /// When.
    pub at: Timestamp,
    /// Pages of 4 KiB that it writes in a second, when that was measured.
    pub dirty_pages_per_second: Option<u64>,
}

/// What a guest does, as far as is known.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ObservedState {
    /// Nothing: it was never started, or it ended.
    Stopped,
    /// Its owner was told to start it and has not answered.
    Starting,
    /// It runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// It cannot be started, or crashed.
    Failed(CodedError),
    /// Its node is lost.
    Unknown,
}
