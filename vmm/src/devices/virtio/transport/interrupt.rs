//! What workers and vCPU threads share without a lock: device status, ISR, configuration
//! generation, and which MSI-X vector stands for what.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use crate::devices::pci::Vector;
use crate::devices::virtio::{DeviceType, VirtioInterrupt};
use crate::interrupt::InterruptError;

use super::{NO_VECTOR, status};

/// ISR status bits (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Interrupts of one device, and the registers that raising one touches.
pub(super) struct Interrupt {
    device: DeviceType,
    slot: u8,
    vectors: Arc<[Vector]>,
    /// Whether MSI-X is enabled; without it the ISR tells a polling driver what happened.
    pub(super) msix_enabled: AtomicBool,
    pub(super) status: AtomicU8,
    pub(super) isr: AtomicU8,
    pub(super) generation: AtomicU8,
    pub(super) config_vector: AtomicU16,
    pub(super) queue_vectors: Box<[AtomicU16]>,
    /// How often the driver broke the rules; what is logged thins out with it.
    offences: AtomicU64,
}

impl Interrupt {
    pub(super) fn new(device: DeviceType, slot: u8, vectors: Arc<[Vector]>, queues: usize) -> Self {
        Self {
            device,
            slot,
            vectors,
            msix_enabled: AtomicBool::new(false),
            status: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            offences: AtomicU64::new(0),
        }
    }

    /// Back to the values after a device reset (virtio 1.2, 4.1.4.3.1). The generation goes on.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.isr.store(0, Ordering::Release);
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }

    /// The vector number to take over for what the driver wrote: none when it does not exist.
    pub(super) fn checked_vector(&self, vector: u16) -> u16 {
        match self.vectors.get(usize::from(vector)) {
            Some(_) => vector,
            None => NO_VECTOR,
        }
    }

    /// Gives the device up until the driver resets it.
    pub(super) fn fail(&self, cause: &dyn std::fmt::Display) {
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
        let offences = self.offences.fetch_add(1, Ordering::Relaxed) + 1;
        if offences.is_power_of_two() {
            let (device, slot) = (self.device, self.slot);
            tracing::warn!(?device, slot, %cause, offences, "virtio device needs a reset");
        }
        // 2.1.2: the driver is told only once it works.
        if before & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
            && let Err(error) = self.config_changed()
        {
            tracing::warn!(%error, "cannot tell the driver that its device needs a reset");
        }
    }

    fn raise(&self, vector: &AtomicU16, isr: u8) -> Result<(), InterruptError> {
        if !self.msix_enabled.load(Ordering::Relaxed) {
            self.isr.fetch_or(isr, Ordering::AcqRel);
            return Ok(());
        }
        match self
            .vectors
            .get(usize::from(vector.load(Ordering::Acquire)))
        {
            Some(vector) => vector.raise(),
            None => Ok(()),
        }
    }
}

impl VirtioInterrupt for Interrupt {
    fn used(&self, queue: u16) -> Result<(), InterruptError> {
        match self.queue_vectors.get(usize::from(queue)) {
            Some(vector) => self.raise(vector, ISR_QUEUE),
            None => Ok(()),
        }
    }

    fn config_changed(&self) -> Result<(), InterruptError> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(&self.config_vector, ISR_CONFIG)
    }

    fn needs_reset(&self, cause: &str) {
        self.fail(&cause);
    }
}
