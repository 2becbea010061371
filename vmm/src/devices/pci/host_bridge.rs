//! The host bridge at 00:00.0. Guests look for one to believe that there is a PCI bus; it has no
//! BAR, and nothing in it can be changed, so it has no state.

use super::{ConfigSpace, Identity, PciFunction};

/// A generic PCIe host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// The bridge, with the identity that QEMU's generic PCIe host bridge has made known.
    pub fn new() -> Self {
        Self {
            config: ConfigSpace::new(&Identity {
                vendor: 0x1b36,
                device: 0x0008,
                revision: 0,
                class: 0x06_0000,
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
            }),
        }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&self, _offset: usize, _data: &[u8]) {}
}
