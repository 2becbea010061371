//! What the source offers to hand over.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{Epoch, GuestId, MigrationId};
use crate::state::vcpu::CpuidEntry;

/// A guest to be taken over: all the target needs to build it and to say no.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// This attempt.
    pub migration: MigrationId,
    /// The guest.
    pub guest: GuestId,
    /// Name for people.
    pub name: String,
    /// The epoch under which the source owns the guest; the target will own the next.
    pub epoch: Epoch,
    /// A [`GuestSpec`](crate::guest::GuestSpec) record.
    pub spec: Vec<u8>,
    /// A [`MemoryLayout`](crate::state::memory::MemoryLayout) record.
    pub layout: Vec<u8>,
    /// Pages of 4 KiB in that layout.
    pub pages: u64,
    /// What the guest's CPUs answer to CPUID.
    pub cpuid: Vec<CpuidEntry>,
    /// The guest's devices, in the order of their slots.
    pub devices: Vec<OfferedDevice>,
    /// How the guest is moved.
    pub mode: Mode,
    /// Whether memory is compared at the switch.
    pub digests: DigestMode,
    /// Bulk streams that the source will use, 1 to [`MAX_STREAMS`](super::MAX_STREAMS).
    pub streams: u16,
    /// The migration by which the source had this guest, if whoever gave it away then may have kept its
    /// memory as it was.
    pub retained: Option<Retained>,
    /// In [`Mode::Local`], the socket of the guest's process, where its memory is to be had
    /// ([`Request::HandOver`](crate::process::Request::HandOver)).
    pub local: Option<String>,
}

/// How the guest came to the source, for a target that may be where it came from.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// The migration.
    pub migration: MigrationId,
    /// The seed of the digests that the source has kept of it; both sides use it again.
    pub digest_seed: u64,
}

/// A device of the guest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct OfferedDevice {
    /// Its PCI slot.
    pub slot: u8,
    /// Its virtio device type (virtio 1.2, section 5).
    pub device_type: u32,
    /// Its id from the spec.
    pub id: String,
}

/// How a guest is moved.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All memory first, then the guest.
    PreCopy,
    /// The guest first, then its memory.
    PostCopy,
    /// Pre-copy that falls to post-copy when it cannot converge.
    Hybrid,
    /// Within a host: the memory file is handed over, no page is copied.
    Local,
}

/// Whether memory is compared at the switch.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestMode {
    /// Not compared; each batch of pages has its own checksum all the same.
    Off,
    /// Every page that the target has at the switch.
    Switch,
}
