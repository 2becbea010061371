//! The machine's devices. Each has a folder with the device and its save/restore contract.

pub mod pci;
pub mod power;
pub mod serial;
pub mod terminal;
pub mod virtio;
