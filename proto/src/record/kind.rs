//! The numbers of record kinds.

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a record holds. A number, once in a release, is never given to another kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, by rising number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind of this number; `None` when this build does not know it.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The number written in a record header.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }
        }
    };
}

kinds! {
    /// Ends a sequence: [`super::RecordWriter::finish`].
    End = 0x0001,
    /// [`crate::guest::GuestSpec`].
    GuestSpec = 0x0002,
    /// [`crate::state::memory::MemoryLayout`].
    MemoryLayout = 0x0010,
    /// [`crate::state::memory::SnapshotMemory`].
    SnapshotMemory = 0x0011,
    /// [`crate::state::vcpu::VcpuState`].
    Vcpu = 0x0020,
    /// [`crate::state::irqchip::IrqchipState`].
    Irqchip = 0x0021,
    /// [`crate::state::clock::ClockState`].
    Clock = 0x0022,
    /// [`crate::state::serial::SerialState`].
    Serial = 0x0030,
    /// [`crate::state::power::GedState`].
    Ged = 0x0031,
    /// [`crate::state::pci::PciRootState`].
    PciRoot = 0x0040,
    /// [`crate::state::pci::PciDeviceState`].
    PciDevice = 0x0041,
    /// [`crate::state::block::BlockState`].
    VirtioBlock = 0x0051,
    /// [`crate::state::net::NetState`].
    VirtioNet = 0x0052,
    /// A virtio entropy device's own state.
    VirtioRng = 0x0053,
    /// [`crate::state::console::ConsoleState`].
    VirtioConsole = 0x0054,
    /// [`crate::cluster::EntryHeader`].
    ClusterEntry = 0x0100,
    /// [`crate::cluster::NodeCommand`].
    NodeCommand = 0x0101,
    /// [`crate::cluster::GuestCommand`].
    GuestCommand = 0x0102,
    /// [`crate::cluster::MigrationCommand`].
    MigrationCommand = 0x0103,
    /// [`crate::cluster::ResourceCommand`].
    ResourceCommand = 0x0104,
    /// [`crate::cluster::ClusterCommand`].
    ClusterCommand = 0x0105,
    /// [`crate::cluster::Response`].
    ClusterResponse = 0x010f,
    /// [`crate::cluster::Node`].
    Node = 0x0110,
    /// [`crate::cluster::Guest`].
    Guest = 0x0111,
    /// [`crate::cluster::Migration`].
    Migration = 0x0112,
    /// [`crate::cluster::Pool`].
    Pool = 0x0113,
    /// [`crate::cluster::Volume`].
    Volume = 0x0114,
    /// [`crate::cluster::Network`].
    Network = 0x0115,
    /// [`crate::cluster::PlacementRule`].
    PlacementRule = 0x0116,
    /// [`crate::cluster::Lease`].
    Lease = 0x0117,
    /// [`crate::cluster::Operation`].
    Operation = 0x0118,
    /// [`crate::cluster::Event`].
    Event = 0x0119,
    /// [`crate::cluster::CpuBaseline`].
    CpuBaseline = 0x011a,
    /// [`crate::cluster::Settings`].
    Settings = 0x011b,
    /// [`crate::cluster::StateHeader`].
    ClusterState = 0x011c,
    /// [`crate::cluster::DoneRequest`].
    DoneRequest = 0x011d,
    /// [`crate::cluster::Change`].
    Change = 0x011e,
    /// [`crate::cluster::DiskLease`].
    DiskLease = 0x0120,
    /// [`crate::cluster::DiskRequest`].
    DiskRequest = 0x0121,
    /// [`crate::cluster::Heartbeat`].
    Heartbeat = 0x0130,
    /// [`crate::cluster::HeartbeatAnswer`].
    HeartbeatAnswer = 0x0131,
    /// [`crate::cluster::Ledger`].
    Ledger = 0x0132,
    /// [`crate::raft::StoreIdentity`].
    RaftIdentity = 0x0140,
    /// [`crate::raft::Vote`].
    RaftVote = 0x0141,
    /// [`crate::raft::LogEntry`].
    RaftLogEntry = 0x0142,
    /// [`crate::raft::Marks`].
    RaftMarks = 0x0143,
    /// [`crate::raft::SnapshotHead`].
    RaftSnapshot = 0x0144,
    /// [`crate::raft::RaftRequest`].
    RaftRequest = 0x0148,
    /// [`crate::raft::RaftReply`].
    RaftReply = 0x0149,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({:#06x})", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_by_its_number_and_no_other_number_is_known() {
        let mut known = 0;
        for number in 0..=u16::MAX {
            if let Some(kind) = Kind::from_number(number) {
                assert_eq!(kind.number(), number);
                known += 1;
            }
        }
        assert_eq!(known, Kind::ALL.len());
        assert!(Kind::ALL.is_sorted());
    }
}
