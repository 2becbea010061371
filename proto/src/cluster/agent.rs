//! What a node and the leader tell each other, and what a node pledges on its own disk.
//!
//! ```text
//!  node                                       leader
//!   | Heartbeat: the lease to renew, ---------> |
//!   |   the newest desired state it has         |
//!   | <------- HeartbeatAnswer: renewed or not, |
//!   |   the desired state if it is a newer one  |
//! ```

use rkyv::{Archive, Deserialize, Serialize};

use super::{CpuFeatures, CpuLevel, ObservedState, RunIntent, Window};
use crate::guest::{BootSpec, HugePages};
use crate::id::{Epoch, Generation, GuestId, Incarnation, MigrationId, NodeId, Revision, VolumeId};
use crate::record;
use crate::record::Kind;

/// What a node tells the leader: every so often, and as soon as it has a newer desired state.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// Counts the node's heartbeats, so that it knows when it asked for what is answered.
    pub sequence: u64,
    /// The lease to renew; 0 when it knows of none.
    pub incarnation: Incarnation,
    /// The desired state that it obeys; 0 when it has none.
    pub seen: Revision,
}
record!(Heartbeat, Kind::Heartbeat, version = 1);

/// What the leader answers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// That of the heartbeat.
    pub sequence: u64,
    /// What became of the lease.
    pub lease: LeaseAnswer,
    /// When to ask again, in milliseconds.
    pub renew_ms: u32,
    /// What the node is to do, if that is newer than what it has seen.
    pub desired: Option<DesiredState>,
    /// Migrations away from the node whose window is open, and whose target has seen that: if the
    /// guest is handed over now, the target waits for nothing.
    pub informed: Vec<MigrationId>,
}
record!(HeartbeatAnswer, Kind::HeartbeatAnswer, version = 1);

/// What became of a lease.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It is renewed.
    Renewed {
        /// The lease.
        incarnation: Incarnation,
        /// For how long from the heartbeat on, in milliseconds, before the node takes off what
        /// clocks may be apart.
        valid_for_ms: u32,
    },
    /// The node does not hold that lease. The desired state says whether it holds another.
    NotHeld,
    /// The leader has not heard from a quorum for too long: it may be none.
    Unconfirmed,
    /// The node is no member.
    NotMember,
}

/// All that one node is to do, as of a revision.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// The node.
    pub node: NodeId,
    /// The state's revision that it was made of. An older one than what was seen is not obeyed.
    pub revision: Revision,
    /// The lease that the node holds as of then. Who runs what below is proven by this lease and by
    /// no other.
    pub incarnation: Option<Incarnation>,
    /// Its guests, and those that are coming, by id.
    pub guests: Vec<DesiredGuest>,
}

/// A guest that a node has, or is to get.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DesiredGuest {
    /// The guest.
    pub id: GuestId,
    /// Its name.
    pub name: String,
    /// Which generation of it this is.
    pub generation: Generation,
    /// The node's epoch.
    pub epoch: Epoch,
    /// The epoch of a copy that may go on under `epoch`, see
    /// [`Ownership::revives`](super::Ownership::revives).
    pub revives: Option<Epoch>,
    /// What the node has to do with it.
    pub role: Role,
    /// Whether it is to run.
    pub intent: RunIntent,
    /// Whether it could be started elsewhere, and so runs on a proof only.
    pub leased: bool,
    /// The directory of the shared pool that its lease on a disk is kept in, if it has a disk in one.
    /// It is taken before the guest is started, whether the guest needs a lease to run or not: who had
    /// it when it did may run it still.
    pub lease_pool: Option<String>,
    /// What was last committed of what it does.
    pub observed: ObservedState,
    /// The generation that was last committed as real.
    pub observed_generation: Generation,
    /// What it is made of.
    pub machine: GuestMachine,
}

/// What a node has to do with a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It owns it.
    Owner,
    /// It owns it, and gives it away.
    Source(Move),
    /// It takes it over.
    Target(Move),
}

/// A migration, as one of its ends has to know it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The migration.
    pub migration: MigrationId,
    /// The other end.
    pub peer: NodeId,
    /// The epoch of the other end.
    pub peer_epoch: Epoch,
    /// Whether the guest may be handed over yet.
    pub window: Window,
    /// What the source needs to reach the target's guest process, once there is one.
    pub token: Option<String>,
}

/// What a guest is made of, with everything that its template names looked up.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GuestMachine {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What backs its memory.
    pub huge_pages: HugePages,
    /// The processor it sees.
    pub cpu: MachineCpu,
    /// What it boots.
    pub boot: BootSpec,
    /// Its disks, in the order of their PCI slots.
    pub disks: Vec<MachineDisk>,
    /// Its network devices, in the order of their PCI slots.
    pub nets: Vec<MachineNet>,
    /// Whether it has a virtio entropy device.
    pub rng: bool,
}

/// The processor a guest sees.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MachineCpu {
    /// All of the node's.
    Host,
    /// A named level.
    Level(CpuLevel),
    /// What it was promised.
    Features(CpuFeatures),
}

/// A disk of a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MachineDisk {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// The volume.
    pub volume: VolumeId,
    /// The directory of its pool on this node; the file in it is named after the volume.
    pub pool: String,
    /// Whether other nodes see the same file.
    pub shared: bool,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A network device of a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MachineNet {
    /// Name of the device, unique in the guest.
    pub id: String,
    /// The bridge on this node.
    pub bridge: String,
    /// Its address.
    pub mac: [u8; 6],
}

/// What a node has on its disk of its own: what it can never take back, whatever becomes of its
/// processes and of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The desired state on which this was decided; an older one is not obeyed.
    pub seen: Revision,
    /// One for each guest that the node has or had of late, by guest.
    pub pledges: Vec<Pledge>,
}
record!(Ledger, Kind::Ledger, version = 1);

/// What a node can never take back about a guest.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pledge {
    /// The guest.
    pub guest: GuestId,
    /// The highest epoch for which this node made a process, or was about to. It makes one for an
    /// epoch once.
    pub begun: Epoch,
    /// It makes no process for this epoch or an earlier one.
    pub spent: Epoch,
}
