//! What a guest process answers.

use rkyv::{Archive, Deserialize, Serialize};

use super::mandate::Standing;
use crate::codes::CodedError;
use crate::id::MigrationId;

/// An answer of a guest process.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Done.
    Ok,
    /// Counters.
    Stats(GuestStats),
    /// The guest's state: a [sequence of records](crate::record::RecordWriter).
    Saved(Vec<u8>),
    /// A snapshot was written.
    Snapshot(SnapshotReport),
    /// The guest ended. Sent unasked too; nothing follows.
    Exited(ExitReason),
    /// The request failed and changed nothing.
    Error(CodedError),
    /// A migration is over: its receipt, which tells whether the guest was moved. When it was,
    /// [`Response::Exited`] follows.
    Migrated {
        /// Whether the guest runs at the target now.
        moved: bool,
        /// The receipt as JSON.
        receipt: String,
        /// The receipt for people.
        table: String,
    },
    /// The progress of the migration under way as JSON; `None` when there is none.
    Migrating(Option<String>),
    /// The files of the guest follow on the stream, after a byte from the client: one message each of a
    /// zero byte with the descriptor (`SCM_RIGHTS`), first guest memory, then the queues of each tap.
    HandedOver {
        /// The network cards in the order in which their taps follow.
        taps: Vec<HandedTap>,
        /// Memory is that of a guest which left by this migration; `None` of a guest that is here.
        left_by: Option<MigrationId>,
    },
    /// What became of the mandate.
    Standing(Standing),
    /// A guest may be moved here.
    Awaiting {
        /// The address and port that a source connects to.
        address: String,
        /// The permission that it needs.
        token: String,
    },
    /// What a migration would be like.
    Forecast {
        /// As JSON.
        forecast: String,
        /// For people.
        table: String,
    },
}

/// A tap whose queues are handed over.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HandedTap {
    /// The [`NetSpec::id`](crate::guest::NetSpec::id) of the card.
    pub id: String,
    /// How many queues follow.
    pub queues: u16,
}

/// A snapshot that was written.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    /// Bytes written: state, and memory without its holes.
    pub bytes_written: u64,
    /// How long the vCPUs stood still, in nanoseconds; 0 when the guest was paused before.
    pub pause_ns: u64,
    /// From request to the last byte on disk, in nanoseconds.
    pub total_ns: u64,
}

/// What a guest does.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// Built, never ran.
    Created,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs stand still and its devices are quiet.
    Paused,
    /// It ended and does not run again.
    Stopped,
}

/// Counters of a guest process.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GuestStats {
    /// What the guest does.
    pub state: GuestState,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// Bytes of guest memory that the host has put pages behind.
    pub resident_bytes: u64,
    /// Pages of 4 KiB dirtied since the dirty log was last read; `None` when it is off.
    pub dirty_pages: Option<u64>,
    /// Since the guest was started or restored, in nanoseconds, pauses included.
    pub uptime_ns: u64,
    /// Each vCPU, by its number.
    pub vcpus: Vec<VcpuStats>,
    /// Each device.
    pub devices: Vec<DeviceStats>,
}

/// Counters of a vCPU.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuStats {
    /// Exits to user space.
    pub exits: u64,
}

/// Counters of a device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeviceStats {
    /// The device: an id from the spec, or `serial`, `rng`, `console`.
    pub id: String,
    /// Its counters.
    pub counters: Vec<NamedCounter>,
}

/// A counter that only grows while the process lives.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NamedCounter {
    /// What is counted, with its unit: `read_bytes`.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// Why a guest ended.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset, and the process was told not to do it.
    Reset,
    /// A vCPU met a triple fault.
    TripleFault {
        /// The vCPU.
        vcpu: u32,
        /// Its registers, as text.
        registers: String,
    },
    /// KVM gave up on a vCPU.
    KvmError {
        /// The vCPU.
        vcpu: u32,
        /// What KVM said.
        message: String,
        /// The vCPU's registers, as text.
        registers: String,
    },
    /// The guest was stopped as asked.
    Stopped,
    /// The guest process failed.
    Failed(CodedError),
    /// The guest runs elsewhere now.
    Migrated,
}

impl ExitReason {
    /// The exit code of a program that ends with the guest; see the [table](crate::codes).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use crate::codes::ErrorCode;
        match self {
            Self::PowerOff | Self::Reset | Self::Stopped | Self::Migrated => 0,
            Self::TripleFault { .. } => ErrorCode::GuestCrashed.exit_code(),
            Self::KvmError { .. } => ErrorCode::KvmInternal.exit_code(),
            Self::Failed(error) => error.exit_code(),
        }
    }
}
