//! The PCI root, and PCI functions with a virtio device behind them.

use rkyv::{Archive, Deserialize, Serialize};

use super::queue::QueueState;
use crate::record;
use crate::record::Kind;

/// The PCI root: what is not a register of any function.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciRootState {
    /// The configuration address register at port 0xcf8.
    pub config_address: u32,
}
record!(PciRootState, Kind::PciRoot, version = 1);

/// One virtio-pci function.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PciDeviceState {
    /// Device number on bus 0, 1..=31.
    pub slot: u8,
    /// Configuration space: 256 or 4096 bytes, as the guest reads it.
    pub config: Vec<u8>,
    /// The MSI-X table.
    pub msix: MsixState,
    /// The virtio transport.
    pub transport: VirtioTransportState,
    /// The device's own encoded record: header and payload.
    pub device: Vec<u8>,
}
record!(PciDeviceState, Kind::PciDevice, version = 1);

/// MSI-X (PCI 3.0, section 6.8.2).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MsixState {
    /// Whether the driver enabled MSI-X.
    pub enabled: bool,
    /// Whether all vectors are masked.
    pub function_masked: bool,
    /// The table.
    pub entries: Vec<MsixEntry>,
    /// Pending bits: vector n is bit n % 64 of word n / 64.
    pub pending: Vec<u64>,
}

/// A vector of the MSI-X table.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixEntry {
    /// Message address, both halves.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// Whether the vector is masked.
    pub masked: bool,
}

/// The virtio-pci transport (virtio 1.2, section 4.1).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtioTransportState {
    /// Virtio device type (virtio 1.2, section 5).
    pub device_type: u16,
    /// Device status field (virtio 1.2, section 2.1).
    pub status: u8,
    /// Which 32 feature bits `device_feature` shows.
    pub device_feature_select: u32,
    /// Which 32 feature bits `driver_feature` sets.
    pub driver_feature_select: u32,
    /// Feature bits the driver accepted.
    pub negotiated_features: u64,
    /// Configuration atomicity value.
    pub config_generation: u8,
    /// MSI-X vector of configuration changes; 0xffff is none.
    pub config_vector: u16,
    /// MSI-X vector of each queue; 0xffff is none.
    pub queue_vectors: Vec<u16>,
    /// Every queue of the device.
    pub queues: Vec<QueueState>,
    /// The queue that the registers show.
    pub queue_select: u16,
    /// ISR status (virtio 1.2, section 4.1.4.5).
    pub isr: u8,
}
