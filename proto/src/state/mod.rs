//! The saved state of a guest: one plain, versioned record per part.
//!
//! A record holds what the hardware or the driver could tell apart, and nothing of the host: no
//! descriptors, no host addresses, no paths. KVM structures are byte images in the layout of the
//! kernel's uapi (x86-64), which the kernel never changes; their sizes are part of the record.
//!
//! To add a device: `state/<device>.rs` with a struct, the rkyv derives and one `record!` line (see
//! [`mod@crate::record`]); a number in [`Kind`]; an arm in [`check_payload`]; a sample in
//! `tests/wire/samples.rs`, from which the golden file is made.
//!
//! Every value is untrusted when it comes back: the owner of a device converts by `TryFrom` and
//! checks.

pub mod block;
pub mod clock;
pub mod console;
pub mod irqchip;
pub mod memory;
pub mod net;
pub mod pci;
pub mod power;
pub mod queue;
pub mod serial;
pub mod vcpu;

use crate::record::{Kind, RawRecord, RecordError};
use crate::{cluster, raft};

/// Reads the payload of a record of any kind and drops it: says whether this build can read it.
///
/// # Errors
/// What is wrong with the record.
pub fn check_payload(record: &RawRecord<'_>) -> Result<(), RecordError> {
    match record.kind {
        Kind::End => {
            // Only ever the last record of a sequence, where `RecordReader::new` consumes it.
            Err(RecordError::Unused { kind: Kind::End })
        }
        Kind::GuestSpec => record.decode::<crate::guest::GuestSpec>().map(drop),
        Kind::MemoryLayout => record.decode::<memory::MemoryLayout>().map(drop),
        Kind::SnapshotMemory => record.decode::<memory::SnapshotMemory>().map(drop),
        Kind::Vcpu => record.decode::<vcpu::VcpuState>().map(drop),
        Kind::Irqchip => record.decode::<irqchip::IrqchipState>().map(drop),
        Kind::Clock => record.decode::<clock::ClockState>().map(drop),
        Kind::Serial => record.decode::<serial::SerialState>().map(drop),
        Kind::Ged => record.decode::<power::GedState>().map(drop),
        Kind::PciRoot => record.decode::<pci::PciRootState>().map(drop),
        Kind::PciDevice => record.decode::<pci::PciDeviceState>().map(drop),
        Kind::VirtioBlock => record.decode::<block::BlockState>().map(drop),
        Kind::VirtioNet => record.decode::<net::NetState>().map(drop),
        Kind::VirtioRng => Err(unknown(record)),
        Kind::VirtioConsole => record.decode::<console::ConsoleState>().map(drop),
        Kind::ClusterEntry => record.decode::<cluster::EntryHeader>().map(drop),
        Kind::NodeCommand => record.decode::<cluster::NodeCommand>().map(drop),
        Kind::GuestCommand => record.decode::<cluster::GuestCommand>().map(drop),
        Kind::MigrationCommand => record.decode::<cluster::MigrationCommand>().map(drop),
        Kind::ResourceCommand => record.decode::<cluster::ResourceCommand>().map(drop),
        Kind::ClusterCommand => record.decode::<cluster::ClusterCommand>().map(drop),
        Kind::ClusterResponse => record.decode::<cluster::Response>().map(drop),
        Kind::Node => record.decode::<cluster::Node>().map(drop),
        Kind::Guest => record.decode::<cluster::Guest>().map(drop),
        Kind::Migration => record.decode::<cluster::Migration>().map(drop),
        Kind::Pool => record.decode::<cluster::Pool>().map(drop),
        Kind::Volume => record.decode::<cluster::Volume>().map(drop),
        Kind::Network => record.decode::<cluster::Network>().map(drop),
        Kind::PlacementRule => record.decode::<cluster::PlacementRule>().map(drop),
        Kind::Lease => record.decode::<cluster::Lease>().map(drop),
        Kind::Operation => record.decode::<cluster::Operation>().map(drop),
        Kind::Event => record.decode::<cluster::Event>().map(drop),
        Kind::CpuBaseline => record.decode::<cluster::CpuBaseline>().map(drop),
        Kind::Settings => record.decode::<cluster::Settings>().map(drop),
        Kind::ClusterState => record.decode::<cluster::StateHeader>().map(drop),
        Kind::DoneRequest => record.decode::<cluster::DoneRequest>().map(drop),
        Kind::Change => record.decode::<cluster::Change>().map(drop),
        Kind::DiskLease => record.decode::<cluster::DiskLease>().map(drop),
        Kind::DiskRequest => record.decode::<cluster::DiskRequest>().map(drop),
        Kind::Heartbeat => record.decode::<cluster::Heartbeat>().map(drop),
        Kind::HeartbeatAnswer => record.decode::<cluster::HeartbeatAnswer>().map(drop),
        Kind::Ledger => record.decode::<cluster::Ledger>().map(drop),
        Kind::RaftIdentity => record.decode::<raft::StoreIdentity>().map(drop),
        Kind::RaftVote => record.decode::<raft::Vote>().map(drop),
        Kind::RaftLogEntry => record.decode::<raft::LogEntry>().map(drop),
        Kind::RaftMarks => record.decode::<raft::Marks>().map(drop),
        Kind::RaftSnapshot => record.decode::<raft::SnapshotHead>().map(drop),
        Kind::RaftRequest => record.decode::<raft::RaftRequest>().map(drop),
        Kind::RaftReply => record.decode::<raft::RaftReply>().map(drop),
    }
}

/// The number is taken, but nothing writes such a record yet.
fn unknown(record: &RawRecord<'_>) -> RecordError {
    RecordError::UnknownMandatory {
        kind: record.kind.number(),
        version: record.version,
    }
}
