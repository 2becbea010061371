//! The guest's physical address map. Every address that two parts of the machine agree on is here.
//!
//! ```text
//! 0x0000_0000_0000  RAM (low), up to 3 GiB
//! 0x0000_c000_0000  PCI MMIO window for BARs, 512 MiB
//! 0x0000_e000_0000  PCIe ECAM, 256 MiB (one bus is decoded)
//! 0x0000_fec0_0000  I/O APIC
//! 0x0000_fee0_0000  local APIC
//! 0x0000_fffb_c000  identity page table and TSS that KVM wants on Intel
//! 0x0001_0000_0000  RAM (high): what did not fit below
//! ```

/// Guest page size, bytes.
pub const PAGE_SIZE: u64 = 4096;
/// RAM below this stays below the PCI hole; the rest continues at [`HIGH_RAM_START`].
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM that does not fit below the PCI hole continues.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// First address of the window from which PCI BARs are assigned.
pub const PCI_MMIO_START: u64 = 0xc000_0000;
/// Length of the BAR window, bytes.
pub const PCI_MMIO_SIZE: u64 = 0x2000_0000;
/// First address of the PCIe configuration space (MCFG; PCI Firmware 3.2, 4.1.2).
pub const PCI_ECAM_START: u64 = 0xe000_0000;
/// Length of the configuration space that is decoded: one bus, bytes.
pub const PCI_ECAM_SIZE: u64 = 0x10_0000;

/// The I/O APIC's registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// One page for KVM's identity map; three more for its TSS follow (KVM API, `KVM_SET_TSS_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's TSS.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The first serial port's registers.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The first serial port's interrupt line.
pub const SERIAL_IRQ: u32 = 4;
/// The 8042 keyboard controller's command port; writing [`RESET_8042`] resets the machine.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// The 8042 command that pulses the reset line.
pub const RESET_8042: u8 = 0xfe;
/// PCI configuration mechanism #1: address at 0xcf8, data at 0xcfc.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// ACPI sleep control register (hardware-reduced ACPI 6.5, 4.8.3.7), one byte.
pub const ACPI_SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register, one byte.
pub const ACPI_SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register (ACPI 6.5, 4.8.3.6), one byte; writing [`ACPI_RESET_VALUE`] resets.
pub const ACPI_RESET_PORT: u16 = 0x602;
/// The value that resets the machine through [`ACPI_RESET_PORT`].
pub const ACPI_RESET_VALUE: u8 = 1;
/// Generic event device (ACPI 6.5, 5.6.9): one byte, which events are pending; reading clears.
pub const ACPI_GED_PORT: u16 = 0x603;
/// The event, a bit of [`ACPI_GED_PORT`], that the power button was pressed.
pub const ACPI_GED_POWER_BUTTON: u8 = 1 << 0;
/// The interrupt line of the generic event device.
pub const ACPI_GED_IRQ: u32 = 9;
/// The S5 (soft off) sleep type that the DSDT's `_S5` names.
pub const ACPI_S5_SLEEP_TYPE: u8 = 5;

/// Where the loader puts boot structures. All of it is low RAM that no kernel image covers.
pub mod boot {
    /// GDT for the 64-bit Linux entry.
    pub const GDT: u64 = 0x500;
    /// PVH `hvm_start_info` (Xen `public/arch-x86/hvm/start_info.h`).
    pub const PVH_START_INFO: u64 = 0x6000;
    /// PVH module list.
    pub const PVH_MODULES: u64 = 0x6100;
    /// PVH memory map.
    pub const PVH_MEMORY_MAP: u64 = 0x6200;
    /// Linux `boot_params`, the "zero page".
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Stack pointer at entry.
    pub const STACK: u64 = 0x8ff0;
    /// Identity-mapping page tables for the 64-bit Linux entry (PML4, then PDPT, then PDs).
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Kernel command line.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Longest command line, bytes, including its terminating zero (x86 `COMMAND_LINE_SIZE`).
    pub const CMDLINE_MAX: usize = 2048;
    /// End of conventional memory that is reported as RAM; the EBDA would start here.
    pub const LOW_MEMORY_END: u64 = 0x9_fc00;
    /// ACPI tables start here with the RSDP, below 1 MiB where every kernel looks for it.
    pub const RSDP: u64 = 0xe_0000;
    /// End of the area for ACPI tables.
    pub const ACPI_END: u64 = 0xf_f000;
    /// Where a processor of old began, and where an operating system jumps that wants the BIOS to
    /// restart the machine: `f000:fff0`.
    pub const RESET_VECTOR: u64 = 0xf_fff0;
    /// Kernel images load at or above this.
    pub const HIGH_MEMORY_START: u64 = 0x10_0000;
}

/// One contiguous piece of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest physical address.
    pub start: u64,
    /// Length, bytes.
    pub len: u64,
}

/// Where `size` bytes of RAM lie: all below the PCI hole, or split around it.
pub fn ram_ranges(size: u64) -> Vec<RamRange> {
    let low = size.min(LOW_RAM_END);
    let mut ranges = vec![RamRange { start: 0, len: low }];
    if size > low {
        ranges.push(RamRange {
            start: HIGH_RAM_START,
            len: size - low,
        });
    }
    ranges
}

/// The windows of the PCI hole do not touch each other or RAM.
const _: () = {
    assert!(PCI_MMIO_START >= LOW_RAM_END);
    assert!(PCI_MMIO_START + PCI_MMIO_SIZE <= PCI_ECAM_START);
    assert!(PCI_ECAM_START + PCI_ECAM_SIZE <= IOAPIC_START);
    assert!(KVM_TSS + 3 * PAGE_SIZE < HIGH_RAM_START);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_stays_out_of_the_pci_hole() {
        assert_eq!(
            ram_ranges(64 << 20),
            [RamRange {
                start: 0,
                len: 64 << 20
            }]
        );
        assert_eq!(
            ram_ranges(LOW_RAM_END),
            [RamRange {
                start: 0,
                len: LOW_RAM_END
            }]
        );
        assert_eq!(
            ram_ranges(4 << 30),
            [
                RamRange {
                    start: 0,
                    len: LOW_RAM_END
                },
                RamRange {
                    start: HIGH_RAM_START,
                    len: 1 << 30
                }
            ]
        );
    }
}
