//! The 256-byte configuration space of one function with a type 0 header (PCI Local Bus 3.0, 6.1).
//!
//! A register is bytes plus a mask of the bits that the guest may change; that is all a BAR needs to
//! answer a size probe. What a write *means* is decided by the function that owns the space, which
//! looks at the registers afterwards.

/// Bytes of configuration space. A function has no extended capabilities: ECAM reads of what
/// follows give zero.
pub const CONFIG_SIZE: usize = 256;

/// Offset of the command register.
const COMMAND: usize = 0x04;
/// Command register: the function answers memory accesses to its BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may access memory and send interrupts.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command register: legacy interrupts are off.
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// The bits of the command register that the guest may change.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;

/// Offset of the first BAR, which is 64 bits wide in every function here.
pub const BAR0: usize = 0x10;
/// Offset of the interrupt line register, a byte of scratch for the guest.
pub const INTERRUPT_LINE: usize = 0x3c;

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
/// BAR attribute bits: memory, 64-bit, not prefetchable (6.2.5.1).
const BAR_MEMORY_64: u32 = 0b0100;
const BAR_ATTRIBUTES: u64 = 0xf;

/// What identifies a function to drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, assigned by the vendor.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface, `0xbbsspp`.
    pub class: u32,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Registers, and which of their bits the guest may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    registers: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    /// Where the next capability goes.
    next_capability: usize,
    /// The byte that will point to it.
    link: usize,
}

impl ConfigSpace {
    /// A type 0 header for one function.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            registers: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            next_capability: FIRST_CAPABILITY,
            link: CAPABILITIES_POINTER,
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        space.set(0x08, &[identity.revision]);
        space.set(0x09, &identity.class.to_le_bytes()[..3]);
        space.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2e, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR 0: `size` bytes (a power of two, at least 16) of 64-bit memory at `address`.
    pub fn add_bar(&mut self, address: u64, size: u64) {
        assert!(size.is_power_of_two() && size >= 16 && address.is_multiple_of(size));
        self.set(BAR0, &(address | u64::from(BAR_MEMORY_64)).to_le_bytes());
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
    }

    /// The address in BAR 0, whatever the guest has put there.
    pub fn bar(&self) -> u64 {
        u64::from_le_bytes(self.array(BAR0)) & !BAR_ATTRIBUTES
    }

    /// Appends a capability: its id, then `body` after the two bytes of its header. Returns the
    /// offset of the header.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let offset = self.next_capability;
        let end = offset + 2 + body.len();
        assert!(end <= CONFIG_SIZE, "capabilities are fixed when written");
        self.set(self.link, &[offset as u8]);
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.link = offset + 1;
        self.next_capability = end.next_multiple_of(4);
        offset
    }

    /// Lets the guest change the bits set in `mask`, from `offset` on.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Sets registers, whether the guest may change them or not.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.registers[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Two bytes at `offset`.
    pub fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    /// Four bytes at `offset`.
    pub fn dword(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    /// A read by the guest; what lies beyond the space is zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.registers.get(at).copied().unwrap_or(0);
        }
    }

    /// A write by the guest; bits that it may not change, and what lies beyond, stay.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            if let (Some(register), Some(&mask)) =
                (self.registers.get_mut(at), self.writable.get(at))
            {
                *register = (*register & !mask) | (byte & mask);
            }
        }
    }

    /// True when every bit that differs from this space's is one the guest may change.
    pub fn admits(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut changed = self.clone();
        changed.write(offset, bytes);
        changed.registers.get(offset..offset + bytes.len()) == Some(bytes)
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1042,
        });
        space.add_bar(0xc010_0000, 0x8000);
        space
    }

    #[test]
    fn the_header_names_the_function() {
        let space = space();
        assert_eq!(space.dword(0), 0x1042_1af4);
        assert_eq!(space.dword(8), 0x0180_0001);
        assert_eq!(space.dword(0x2c), 0x1042_1af4);
        assert_eq!(space.word(0x0e), 0, "a single-function type 0 header");
        assert_eq!(space.bar(), 0xc010_0000);
    }

    #[test]
    fn a_size_probe_reads_back_the_mask_and_a_new_address_sticks() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.dword(BAR0), 0xffff_8004);
        space.write(BAR0 + 4, &[0xff; 4]);
        assert_eq!(space.dword(BAR0 + 4), 0xffff_ffff);
        space.write(BAR0, &0xd000_1234u32.to_le_bytes());
        space.write(BAR0 + 4, &[0; 4]);
        assert_eq!(space.bar(), 0xd000_0000);
        assert_eq!(space.dword(BAR0 + 8), 0, "there is no other BAR");
    }

    #[test]
    fn capabilities_form_a_list_that_ends() {
        let mut space = space();
        assert_eq!(space.word(STATUS), 0);
        let first = space.add_capability(0x11, &[1; 10]);
        let second = space.add_capability(0x09, &[2; 13]);
        let third = space.add_capability(0x09, &[3; 1]);
        assert_eq!((first, second, third), (0x40, 0x4c, 0x5c));
        let mut walk = vec![space.registers[CAPABILITIES_POINTER]];
        while *walk.last().unwrap() != 0 {
            walk.push(space.registers[usize::from(*walk.last().unwrap()) + 1]);
        }
        assert_eq!(walk, [0x40, 0x4c, 0x5c, 0]);
        assert_eq!(space.word(STATUS), STATUS_CAPABILITIES);
    }

    proptest! {
        #[test]
        fn no_write_changes_a_bit_that_is_fixed(
            writes in proptest::collection::vec((0usize..300, proptest::collection::vec(any::<u8>(), 1..9)), 0..40)
        ) {
            let fresh = space();
            let mut space = fresh.clone();
            for (offset, data) in writes {
                space.write(offset, &data);
            }
            for at in 0..CONFIG_SIZE {
                let fixed = !space.writable[at];
                prop_assert_eq!(space.registers[at] & fixed, fresh.registers[at] & fixed);
            }
        }
    }
}
