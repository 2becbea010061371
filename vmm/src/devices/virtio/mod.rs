//! virtio 1.2 devices behind the PCI transport.

pub mod block;
pub mod chain;
pub mod console;
mod device;
pub mod log_gate;
#[cfg(test)]
pub(crate) mod mock;
pub mod net;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod used;
pub mod worker;

pub use device::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice, VirtioInterrupt,
};
