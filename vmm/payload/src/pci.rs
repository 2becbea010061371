//! PCI configuration space, by ECAM where the tables say where it is, else by
//! the ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3; PCI Express 5.0, 7.2.2).

use crate::gate;
use crate::logic::acpi::Ecam;
use crate::paging;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0c;
const BAR0: u16 = 0x10;
const SECONDARY_BUS: u16 = 0x18;
const SUBSYSTEM: u16 = 0x2c;
const CAPABILITIES: u16 = 0x34;

const MEMORY_BUS_MASTER_NO_INTX: u32 = 1 << 1 | 1 << 2 | 1 << 10;
const BRIDGE: u32 = 0x0604;
/// A configuration space has room for no more.
const MAX_CAPABILITIES: usize = 48;
const MAX_BUSES: usize = 64;

/// Access to the configuration space.
#[derive(Clone, Copy)]
pub struct Pci {
    ecam: Option<Ecam>,
}

/// One function.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Function {
    pci_ecam: Option<u64>,
    bdf: u32,
}

impl Pci {
    pub fn new(ecam: Option<Ecam>) -> Self {
        let ecam = ecam.filter(|ecam| {
            let buses = u64::from(ecam.buses.1) + 1;
            paging::map(ecam.base, buses << 20)
        });
        Self { ecam }
    }

    fn function(&self, bus: u8, device: u8, function: u8) -> Function {
        let bdf = u32::from(bus) << 8 | u32::from(device) << 3 | u32::from(function);
        let covered = self
            .ecam
            .filter(|ecam| (ecam.buses.0..=ecam.buses.1).contains(&bus));
        Function {
            pci_ecam: covered.map(|ecam| ecam.base + u64::from(bdf) * 4096),
            bdf,
        }
    }

    /// The `nth` function that `wanted` accepts by vendor and device id,
    /// counted over the buses in the order in which they are found.
    pub fn find(&self, nth: u32, wanted: impl Fn(Function, u32) -> bool) -> Option<Function> {
        let mut left = nth;
        let mut buses = [0u8; MAX_BUSES];
        let (mut bus, mut known) = (0, 1);
        while bus < known {
            for device in 0..32 {
                let mut functions = 1;
                let mut number = 0;
                while number < functions {
                    let function = self.function(buses[bus], device, number);
                    let id = function.read(0);
                    if id != u32::MAX && id != 0 {
                        let header = function.read(HEADER_TYPE) >> 16;
                        if number == 0 && header & 0x80 != 0 {
                            functions = 8;
                        }
                        let secondary = (function.read(SECONDARY_BUS) >> 8) as u8;
                        if header & 0x7f == 1
                            && function.read(CLASS) >> 16 == BRIDGE
                            && known < MAX_BUSES
                            && !buses[..known].contains(&secondary)
                        {
                            buses[known] = secondary;
                            known += 1;
                        }
                        if wanted(function, id) {
                            if left == 0 {
                                return Some(function);
                            }
                            left -= 1;
                        }
                    }
                    number += 1;
                }
            }
            bus += 1;
        }
        None
    }
}

impl Function {
    /// Four bytes at an aligned offset.
    pub fn read(&self, offset: u16) -> u32 {
        match self.pci_ecam {
            // SAFETY: the space of this function, mapped by `Pci::new`.
            Some(base) => unsafe { ((base + u64::from(offset)) as *const u32).read_volatile() },
            None => {
                gate::out32(ADDRESS_PORT, 1 << 31 | self.bdf << 8 | u32::from(offset));
                gate::in32(DATA_PORT)
            }
        }
    }

    pub fn write(&self, offset: u16, value: u32) {
        match self.pci_ecam {
            // SAFETY: as in `read`.
            Some(base) => unsafe { ((base + u64::from(offset)) as *mut u32).write_volatile(value) },
            None => {
                gate::out32(ADDRESS_PORT, 1 << 31 | self.bdf << 8 | u32::from(offset));
                gate::out32(DATA_PORT, value);
            }
        }
    }

    /// Subsystem device id.
    pub fn subsystem(&self) -> u16 {
        (self.read(SUBSYSTEM) >> 16) as u16
    }

    /// Lets the function answer in memory space and write to memory.
    pub fn enable(&self) {
        let command = self.read(COMMAND) & 0xffff;
        self.write(COMMAND, command | MEMORY_BUS_MASTER_NO_INTX);
    }

    /// Address of a memory BAR; `None` when it is not one or not placed.
    pub fn bar(&self, index: u8) -> Option<u64> {
        if index > 5 {
            return None;
        }
        let offset = BAR0 + 4 * u16::from(index);
        let low = self.read(offset);
        let high = match low >> 1 & 3 {
            _ if low & 1 != 0 => return None,
            2 if index < 5 => self.read(offset + 4),
            0 => 0,
            _ => return None,
        };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        (address != 0).then_some(address)
    }

    /// Calls `found` with the id and offset of each capability.
    pub fn capabilities(&self, mut found: impl FnMut(u8, u16)) {
        let mut offset = (self.read(CAPABILITIES) & 0xfc) as u16;
        for _ in 0..MAX_CAPABILITIES {
            if offset < 0x40 {
                return;
            }
            let head = self.read(offset);
            found(head as u8, offset);
            offset = (head >> 8 & 0xfc) as u16;
        }
    }
}
