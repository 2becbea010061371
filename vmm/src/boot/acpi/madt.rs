//! The interrupt controllers (ACPI 6.5, 5.2.12).

use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::{Aml, sdt::Sdt};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::memory::layout::{IOAPIC_START, LOCAL_APIC_START};

/// Header, local APIC address, flags.
const FIXED_LEN: u32 = 44;
/// Offset of the local APICs' address.
const LOCAL_APIC_OFFSET: usize = 36;
/// Table revision of ACPI 6.3 and later.
const REVISION: u8 = 5;
/// The largest id that a local APIC entry can name; 255 is the broadcast id.
const MAX_XAPIC_ID: u32 = 254;
/// Entry type and length of a processor local x2APIC (ACPI 6.5, 5.2.12.12).
const X2APIC: [u8; 4] = [9, 16, 0, 0];
/// Entry flag: the processor may be used.
const ENABLED: u32 = 1;

/// The MADT for `vcpus` processors. Processor UID and APIC id both are the vCPU's index. KVM's I/O
/// APIC takes id 0 and interrupts from 0; there is no 8259 to mention (flags 0).
pub(super) fn madt(vcpus: u32) -> Sdt {
    let mut table = Sdt::new(
        *b"APIC",
        FIXED_LEN,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.write_u32(LOCAL_APIC_OFFSET, LOCAL_APIC_START as u32);
    let mut entries = Vec::new();
    for vcpu in 0..vcpus {
        match u8::try_from(vcpu) {
            Ok(id) if vcpu <= MAX_XAPIC_ID => {
                ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut entries);
            }
            _ => {
                entries.extend_from_slice(&X2APIC);
                for word in [vcpu, ENABLED, vcpu] {
                    entries.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    IoApic::new(0, IOAPIC_START as u32, 0).to_aml_bytes(&mut entries);
    table.append_slice(&entries);
    table
}
