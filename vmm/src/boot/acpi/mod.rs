//! The ACPI tables: what a kernel cannot find out by probing.
//!
//! ```text
//! RSDP ──> XSDT ──> FADT ──> DSDT   PCI root, COM1, event device, power button, processors
//!               ├─> MADT            local APICs, I/O APIC
//!               └─> MCFG            PCIe configuration space
//! ```
//!
//! The platform is hardware-reduced (ACPI 6.5, 4.1): no fixed event hardware, no SMI, no legacy
//! interrupt controller. Power-off goes through the sleep control register, reset through the reset
//! register, the power button arrives as an interrupt of the generic event device. PCI devices
//! have no interrupt lines, only MSI-X, so there is no `_PRT`.
//!
//! The bytes depend on nothing but the number of vCPUs, so a guest finds the same tables wherever
//! it is moved.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, sdt::Sdt};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;
use crate::memory::layout::{
    ACPI_RESET_PORT, ACPI_RESET_VALUE, ACPI_SLEEP_CONTROL_PORT, ACPI_SLEEP_STATUS_PORT,
    PCI_ECAM_START, boot,
};

mod dsdt;
mod madt;
#[cfg(test)]
mod tests;

const OEM_ID: [u8; 6] = *b"GODWIT";
const OEM_TABLE_ID: [u8; 8] = *b"GODWIT  ";
const OEM_REVISION: u32 = 1;

/// Most processors that the DSDT has names for: three hexadecimal digits.
pub const MAX_VCPUS: u32 = 0x1000;
/// Tables start at multiples of this.
const TABLE_ALIGNMENT: u64 = 64;

/// FADT `IAPC_BOOT_ARCH` (ACPI 6.5, 5.2.9.3): no VGA, no CMOS clock; and by silence no 8042.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Why the tables could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// No processor, or more than there are names for.
    #[error("cannot describe {vcpus} vCPUs in ACPI; use 1 to {MAX_VCPUS}")]
    Vcpus {
        /// How many were asked for.
        vcpus: u32,
    },
    /// The area below 1 MiB is full.
    #[error(
        "the ACPI tables for {vcpus} vCPUs end at {end:#x}, beyond their area, which ends at {:#x}",
        boot::ACPI_END
    )]
    TooLarge {
        /// How many were asked for.
        vcpus: u32,
        /// Where the last table would end.
        end: u64,
    },
    /// The guest has no RAM at the tables' place.
    #[error("cannot write an ACPI table at {address:#x}")]
    Write {
        /// Guest physical address.
        address: u64,
        /// What memory said.
        #[source]
        source: GuestMemoryError,
    },
}

/// Writes the tables for `vcpus` processors, whose APIC ids count from 0, and returns the address
/// of the RSDP.
///
/// # Errors
/// [`AcpiError`]; memory may then hold some of the tables.
pub fn build(memory: &GuestMemory, vcpus: u32) -> Result<u64, AcpiError> {
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(AcpiError::Vcpus { vcpus });
    }
    let mut area = Area {
        memory,
        vcpus,
        next: boot::RSDP + Rsdp::len() as u64,
    };
    let dsdt = area.write(&dsdt(vcpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(area.write(&fadt(dsdt))?);
    xsdt.add_entry(area.write(&madt::madt(vcpus))?);
    xsdt.add_entry(area.write(&mcfg())?);
    let xsdt = area.write(&xsdt)?;
    area.write_at(boot::RSDP, &Rsdp::new(OEM_ID, xsdt))?;
    Ok(boot::RSDP)
}

/// The area for tables, filled from its start.
struct Area<'a> {
    memory: &'a GuestMemory,
    vcpus: u32,
    next: u64,
}

impl Area<'_> {
    /// Writes `table` behind the last one and returns its address.
    fn write(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let address = self.next.next_multiple_of(TABLE_ALIGNMENT);
        self.next = self.write_at(address, table)?;
        Ok(address)
    }

    /// Writes `table` and returns where it ends.
    fn write_at(&self, address: u64, table: &dyn Aml) -> Result<u64, AcpiError> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let end = address + bytes.len() as u64;
        if end > boot::ACPI_END {
            return Err(AcpiError::TooLarge {
                vcpus: self.vcpus,
                end,
            });
        }
        self.memory
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| AcpiError::Write { address, source })?;
        Ok(end)
    }
}

/// The DSDT around its AML (ACPI 6.5, 5.2.11.1). Revision 2 makes AML integers 64 bits wide.
fn dsdt(vcpus: u32) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&dsdt::aml(vcpus));
    table
}

/// The fixed description (ACPI 6.5, 5.2.9).
fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means: not a fixed feature, so look in the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = io_byte(ACPI_RESET_PORT);
    fadt.reset_value = ACPI_RESET_VALUE;
    fadt.sleep_control_reg = io_byte(ACPI_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = io_byte(ACPI_SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    fadt.finalize()
}

/// Where PCIe configuration space is (PCI Firmware 3.2, 4.1.2): segment 0, bus 0.
fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(PCI_ECAM_START, 0, 0, 0);
    mcfg
}

fn io_byte(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}
