//! The virtio capabilities in configuration space (virtio 1.2, 4.1.4), and the window through which
//! a driver without mapped BARs reaches them (4.1.4.9).

use crate::devices::pci::ConfigSpace;

use super::bar;

/// PCI capability id for vendor-specific.
const VENDOR_SPECIFIC: u8 = 0x09;

/// `cfg_type` of `struct virtio_pci_cap`.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Type {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    Window = 5,
}

/// `struct virtio_pci_cap` after its first two bytes; `extra` follows it.
fn body(kind: Type, offset: u64, length: u64, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + extra.len() as u8, kind as u8, 0, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(length as u32).to_le_bytes());
    body.extend_from_slice(extra);
    body
}

/// Adds the capabilities of a device with `queues` queues.
pub(super) fn add(config: &mut ConfigSpace, queues: usize) -> Window {
    let doorbells = queues as u64 * bar::NOTIFY_STRIDE;
    let stride = (bar::NOTIFY_STRIDE as u32).to_le_bytes();
    for body in [
        body(Type::Common, bar::COMMON, super::registers::LENGTH, &[]),
        body(Type::Notify, bar::NOTIFY, doorbells, &stride),
        body(Type::Isr, bar::ISR, 1, &[]),
        body(Type::Device, bar::DEVICE, bar::PAGE, &[]),
    ] {
        config.add_capability(VENDOR_SPECIFIC, &body);
    }
    let header = config.add_capability(VENDOR_SPECIFIC, &body(Type::Window, 0, 0, &[0; 4]));
    config.allow(header + Window::BAR, &[0xff]);
    config.allow(header + Window::OFFSET, &[0xff; 8]);
    config.allow(header + Window::DATA, &[0xff; 4]);
    Window { header }
}

/// The configuration access capability: bytes of the BAR seen through `pci_cfg_data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    header: usize,
}

impl Window {
    const BAR: usize = 4;
    const OFFSET: usize = 8;
    const LENGTH: usize = 12;
    const DATA: usize = 16;

    /// Whether `len` bytes at `offset` of configuration space touch `pci_cfg_data`.
    pub(super) fn touched(self, offset: usize, len: usize) -> bool {
        let data = self.header + Self::DATA;
        offset < data + 4 && offset + len > data
    }

    /// Where in BAR 0 the window is, and how many bytes of it (1, 2 or 4) it shows; `None` when the
    /// driver pointed it elsewhere.
    pub(super) fn target(self, config: &ConfigSpace) -> Option<(u64, usize)> {
        let offset = u64::from(config.dword(self.header + Self::OFFSET));
        let length = config.dword(self.header + Self::LENGTH);
        let in_bar = config.word(self.header + Self::BAR) & 0xff == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(u64::from(length))
            && offset < bar::SIZE;
        in_bar.then_some((offset, length as usize))
    }

    /// `pci_cfg_data`.
    pub(super) fn data(self, config: &ConfigSpace) -> [u8; 4] {
        config.dword(self.header + Self::DATA).to_le_bytes()
    }

    /// Sets the first bytes of `pci_cfg_data`.
    pub(super) fn set_data(self, config: &mut ConfigSpace, data: &[u8]) {
        config.set(self.header + Self::DATA, data);
    }
}
