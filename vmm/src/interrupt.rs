//! What a device needs of the interrupt controller and of doorbells, without naming KVM.
//!
//! [`crate::kvm`] implements these ports; device tests implement them with a recorder.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// Why an interrupt or a doorbell could not be set up or raised.
#[derive(Debug, thiserror::Error)]
pub enum InterruptError {
    /// Every interrupt route the kernel offers is in use.
    #[error("all {limit} interrupt routes are in use; use fewer devices or queues")]
    Exhausted {
        /// How many routes the kernel offers.
        limit: usize,
    },
    /// The kernel refused.
    #[error("cannot {operation}")]
    Kernel {
        /// What was attempted, for instance "register an irqfd for gsi 24".
        operation: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The address and data that a message-signalled interrupt writes (PCI Local Bus 3.0, 6.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the message is written; selects the destination vCPU.
    pub address: u64,
    /// What is written; carries the vector.
    pub data: u32,
}

/// One interrupt that a device raises as a message.
pub trait MsiVector: Send + Sync {
    /// Delivers this message from now on. Called again whenever the driver reprograms or unmasks.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when the kernel refuses the route.
    fn enable(&self, message: MsiMessage) -> Result<(), InterruptError>;
    /// Delivers nothing until enabled again (masked or disabled by the driver).
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when the kernel refuses.
    fn disable(&self) -> Result<(), InterruptError>;
    /// Raises the interrupt. Only called while enabled; cheap, callable from any thread.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when the eventfd cannot be written.
    fn trigger(&self) -> Result<(), InterruptError>;
}

/// Hands out message-signalled interrupts.
pub trait MsiController: Send + Sync {
    /// A new vector, disabled. Dropping it frees it.
    ///
    /// # Errors
    /// [`InterruptError`] when none is left.
    fn allocate(&self) -> Result<Arc<dyn MsiVector>, InterruptError>;
}

/// A level- or edge-triggered line into the I/O APIC.
pub trait IrqLine: Send + Sync {
    /// Raises an edge on the line.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when the eventfd cannot be written.
    fn trigger(&self) -> Result<(), InterruptError>;
}

/// Lets a guest's write to an address signal an eventfd without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// Signals `event` on each guest write of any size to the physical `address`.
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when the kernel refuses, for instance because it is registered.
    fn register(&self, address: u64, event: &EventFd) -> Result<(), InterruptError>;
    /// Undoes [`Doorbells::register`].
    ///
    /// # Errors
    /// [`InterruptError::Kernel`] when it was not registered.
    fn unregister(&self, address: u64, event: &EventFd) -> Result<(), InterruptError>;
}
