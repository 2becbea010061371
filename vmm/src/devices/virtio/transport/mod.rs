//! The virtio-pci transport, modern only (virtio 1.2, section 4.1).
//!
//! ```text
//!                vCPU threads                                   worker threads
//!  config space, BAR  --->  VirtioPciDevice  -- activate -->  VirtioDevice
//!  doorbell (ioeventfd) -------------------------- kick ----->    |
//!  MSI-X  <---------------------------------- Interrupt <---------+
//! ```
//!
//! A device works while the driver set `DRIVER_OK` without `DEVICE_NEEDS_RESET`, bus mastering is
//! on, and the guest is not paused; [`VirtioPciDevice`] starts and quiesces it whenever that changes.
//! Its registers are behind one lock that no worker ever takes; doorbells and interrupts, the hot
//! path, take none.
//!
//! Refused: legacy and transitional drivers, legacy interrupts (a driver without MSI-X gets none and
//! may poll the ISR), packed rings, and queue set-up before `FEATURES_OK` or after `DRIVER_OK`.

mod capabilities;
mod doorbells;
mod interrupt;
mod pci_device;
mod persist;
mod queue;
mod registers;
#[cfg(test)]
mod tests;

pub use pci_device::VirtioPciDevice;
pub use queue::QueueError;

/// MSI-X vector number that stands for none.
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// Device status bits (virtio 1.2, 2.1).
pub(crate) mod status {
    /// The guest has seen the device.
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub(crate) const DRIVER: u8 = 2;
    /// The driver works.
    pub(crate) const DRIVER_OK: u8 = 4;
    /// Feature negotiation is over.
    pub(crate) const FEATURES_OK: u8 = 8;
    /// The device gave up until it is reset.
    pub(crate) const NEEDS_RESET: u8 = 0x40;
    /// The driver gave up.
    pub(crate) const FAILED: u8 = 0x80;
}

/// Feature bits that belong to the transport and the rings (virtio 1.2, 6).
pub(crate) mod feature {
    /// Chains may lead to a table of their own.
    pub(crate) const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by index.
    pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
    /// The device is not a legacy one. Must be accepted.
    pub(crate) const VERSION_1: u64 = 1 << 32;
    /// What the transport adds to what a device offers.
    pub(crate) const TRANSPORT: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;
}

/// Where the structures lie in BAR 0. Each has a page of its own.
pub(crate) mod bar {
    /// Common configuration.
    pub(crate) const COMMON: u64 = 0x0000;
    /// ISR status.
    pub(crate) const ISR: u64 = 0x1000;
    /// Device configuration.
    pub(crate) const DEVICE: u64 = 0x2000;
    /// Doorbells, one per queue.
    pub(crate) const NOTIFY: u64 = 0x3000;
    /// MSI-X table.
    pub(crate) const MSIX_TABLE: u64 = 0x4000;
    /// MSI-X pending bits.
    pub(crate) const MSIX_PENDING: u64 = 0x5000;
    /// Bytes per structure.
    pub(crate) const PAGE: u64 = 0x1000;
    /// Bytes of the BAR.
    pub(crate) const SIZE: u64 = 0x8000;
    /// Bytes between the doorbells of two queues.
    pub(crate) const NOTIFY_STRIDE: u64 = 4;
}

/// The most queues of a device: each has a vector, one more is for configuration changes, and the
/// table of 16-byte entries fits its page.
pub(crate) const MAX_QUEUES: usize = 255;
