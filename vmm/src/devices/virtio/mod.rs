//! virtio 1.2 devices behind the PCI transport.

mod device;
pub mod worker;

pub use device::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice, VirtioInterrupt,
};
