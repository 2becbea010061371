//! What a virtio device type provides. The transport does the rest: feature negotiation, queue
//! set-up, interrupts, configuration space, save and restore of all of that.
//!
//! ```text
//!            activate(Activation)
//!   Idle  ------------------------->  Active: worker threads own the queues
//!     ^                                 |
//!     +---------------------------------+
//!            quiesce() -> queues
//! ```
//!
//! Pausing a guest, resetting a device and saving it are all the same `quiesce`: the device finishes
//! or abandons nothing half-done, its workers stop and hand the queues back, and whoever holds the
//! queues decides what comes next. A queue has one owner at any time, so the hot path takes no lock.

use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptError;
use crate::memory::GuestMemory;

/// virtio device types (virtio 1.2, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card (5.1).
    Net = 1,
    /// Block device (5.2).
    Block = 2,
    /// Console (5.3).
    Console = 3,
    /// Entropy source (5.4).
    Rng = 4,
}

/// Why a device could not start. The transport answers the driver with `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A worker thread or its eventfds could not be made.
    #[error("cannot start the worker of a {device:?} device")]
    Worker {
        /// The device that did not start.
        device: DeviceType,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The driver enabled a set of queues the device cannot work with.
    #[error(
        "a {device:?} device was enabled with queues {enabled:?}; the driver must set up {need}"
    )]
    Queues {
        /// The device that did not start.
        device: DeviceType,
        /// Indices of the queues the driver enabled.
        enabled: Vec<u16>,
        /// What the device needs, in words.
        need: &'static str,
    },
}

/// Notifies the driver. Cheap to call from any worker.
pub trait VirtioInterrupt: Send + Sync {
    /// Used buffers are in queue `queue`.
    ///
    /// # Errors
    /// [`InterruptError`] when the interrupt cannot be raised.
    fn used(&self, queue: u16) -> Result<(), InterruptError>;
    /// The device configuration changed.
    ///
    /// # Errors
    /// [`InterruptError`] when the interrupt cannot be raised.
    fn config_changed(&self) -> Result<(), InterruptError>;
    /// The driver broke the rules (a ring loops, leaves memory, is overlong): sets
    /// `DEVICE_NEEDS_RESET` and tells the driver (virtio 1.2, 2.1.2). `cause` is for the log.
    fn needs_reset(&self, cause: &str);
}

/// A queue the driver enabled, and what makes the device look at it.
pub struct ActiveQueue {
    /// Its index in the device.
    pub index: u16,
    /// The ring.
    pub queue: Queue,
    /// Signalled by the driver's doorbell. The transport signals it once after a restore.
    pub kick: EventFd,
}

/// All a device needs to run.
pub struct Activation {
    /// Guest memory; writes through it are seen by the dirty log.
    pub memory: GuestMemory,
    /// What was negotiated: a subset of [`VirtioDevice::features`] and the transport's bits.
    pub features: u64,
    /// The queues that the driver enabled, by rising index.
    pub queues: Vec<ActiveQueue>,
    /// Tells the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
}

/// A virtio device type behind a transport.
pub trait VirtioDevice: Send {
    /// What kind of device the driver sees.
    fn device_type(&self) -> DeviceType;
    /// Feature bits the device offers besides the transport's own (`VERSION_1`, ring features).
    fn features(&self) -> u64;
    /// The largest size of each queue, a power of two <= 32768; its length is the queue count.
    fn queue_sizes(&self) -> &[u16];
    /// Reads device configuration space. Bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes device configuration space. What is read-only or beyond its end is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// Starts the device on `activation.queues`; only called while idle.
    ///
    /// # Errors
    /// [`ActivateError`]; the device is idle then.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Tells the workers to stop without waiting for them, so that the workers of all devices stop
    /// side by side. [`VirtioDevice::quiesce`] always follows and may also come without it.
    fn request_quiesce(&self) {}
    /// Stops the workers, with every request that was taken off a ring completed, and returns the
    /// queues as they stand, by rising index; an empty vector when idle.
    fn quiesce(&mut self) -> Vec<ActiveQueue>;
    /// The device's own state beyond configuration and rings, as an encoded record of
    /// `godwit_proto::state`; only called while idle.
    fn save(&self) -> Vec<u8>;
    /// Takes over what [`VirtioDevice::save`] gave, as untrusted input; only called while idle.
    ///
    /// # Errors
    /// What is wrong with the record; the device is unchanged then.
    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError>;
}

/// Why saved device state was refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot restore a {device:?} device")]
pub struct RestoreError {
    /// The device that refused.
    pub device: DeviceType,
    /// What is wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
