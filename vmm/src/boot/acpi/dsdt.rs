//! The DSDT's AML: the devices that cannot be enumerated.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, Name, Notify,
    OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store, ZERO,
};

use crate::memory::layout::{
    ACPI_GED_IRQ, ACPI_GED_PORT, ACPI_GED_POWER_BUTTON, ACPI_S5_SLEEP_TYPE,
    ACPI_SLEEP_CONTROL_PORT, PCI_CONFIG_PORT, PCI_ECAM_SIZE, PCI_ECAM_START, PCI_MMIO_SIZE,
    PCI_MMIO_START, SERIAL_IRQ, SERIAL_PORT,
};

/// Ports from [`PCI_CONFIG_PORT`].
const PCI_CONFIG_PORTS: u8 = 8;
/// First port of the window from which a kernel may place BARs; below are the fixed devices.
const PCI_PORTS_FIRST: u16 = 0xd00;
/// Ports of the serial port.
const SERIAL_PORTS: u8 = 8;
/// Ports from [`ACPI_SLEEP_CONTROL_PORT`] to [`ACPI_GED_PORT`].
const ACPI_PORTS: u8 = (ACPI_GED_PORT - ACPI_SLEEP_CONTROL_PORT + 1) as u8;
/// What a power button notifies when it is pressed (ACPI 6.5, 5.6.6 table 5.4).
const BUTTON_PRESSED: u8 = 0x80;

/// The AML for `vcpus` processors.
pub(super) fn aml(vcpus: u32) -> Vec<u8> {
    let mut aml = Vec::new();
    soft_off(&mut aml);
    pci_root(&mut aml);
    motherboard(&mut aml);
    serial(&mut aml);
    power_button(&mut aml);
    event_device(&mut aml);
    processors(vcpus, &mut aml);
    aml
}

/// `\_S5`: what to write into the sleep control register to power off (ACPI 6.5, 7.4.2.6).
fn soft_off(aml: &mut Vec<u8>) {
    Name::new(
        Path::new("\\_S5_"),
        &Package::new(vec![&ACPI_S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO]),
    )
    .to_aml_bytes(aml);
}

/// The PCIe root: one bus, the legacy configuration ports, and one window each of ports and memory
/// for what the kernel wants to place itself.
fn pci_root(aml: &mut Vec<u8>) {
    let pci_memory_last = PCI_MMIO_START + PCI_MMIO_SIZE - 1;
    Device::new(
        Path::new("\\_SB_.PCI0"),
        vec![
            &hardware_id("PNP0A08"),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &unique_id(0),
            &Name::new(Path::new("_SEG"), &ZERO),
            &Name::new(Path::new("_BBN"), &ZERO),
            &resources(vec![
                &AddressSpace::new_bus_number(0u16, 0u16),
                &IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, PCI_CONFIG_PORTS),
                &AddressSpace::new_io(PCI_PORTS_FIRST, u16::MAX, None),
                &AddressSpace::new_memory(
                    AddressSpaceCacheable::NotCacheable,
                    true,
                    PCI_MMIO_START as u32,
                    pci_memory_last as u32,
                    None,
                ),
            ]),
        ],
    )
    .to_aml_bytes(aml);
}

/// What no other device may be placed over: configuration space, which PCI Firmware 3.2, 4.1.2 wants
/// reserved here, and the ACPI registers.
fn motherboard(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("\\_SB_.MBRD"),
        vec![
            &hardware_id("PNP0C02"),
            &unique_id(0),
            &resources(vec![
                &Memory32Fixed::new(true, PCI_ECAM_START as u32, PCI_ECAM_SIZE as u32),
                &IO::new(
                    ACPI_SLEEP_CONTROL_PORT,
                    ACPI_SLEEP_CONTROL_PORT,
                    1,
                    ACPI_PORTS,
                ),
            ]),
        ],
    )
    .to_aml_bytes(aml);
}

/// The first serial port.
fn serial(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("\\_SB_.COM1"),
        vec![
            &hardware_id("PNP0501"),
            &unique_id(0),
            &resources(vec![
                &IO::new(SERIAL_PORT, SERIAL_PORT, 1, SERIAL_PORTS),
                &edge(SERIAL_IRQ),
            ]),
        ],
    )
    .to_aml_bytes(aml);
}

/// The power button, as a control method device (ACPI 6.5, 4.8.3.2.2).
fn power_button(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("\\_SB_.PWRB"),
        vec![&hardware_id("PNP0C0C"), &unique_id(0)],
    )
    .to_aml_bytes(aml);
}

/// The generic event device (ACPI 6.5, 5.6.9): its interrupt says that something happened, the byte
/// at its port says what.
fn event_device(aml: &mut Vec<u8>) {
    let events = Path::new("EVTS");
    let power_button = Path::new("\\_SB_.PWRB");
    Device::new(
        Path::new("\\_SB_.GED0"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &unique_id(0),
            &resources(vec![&edge(ACPI_GED_IRQ)]),
            &OpRegion::new(
                Path::new("GREG"),
                OpRegionSpace::SystemIO,
                &ACPI_GED_PORT,
                &1u8,
            ),
            &Field::new(
                Path::new("GREG"),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    // Reading clears, so the byte is read once.
                    &Store::new(&Local(0), &events),
                    &If::new(
                        &And::new(&ZERO, &Local(0), &ACPI_GED_POWER_BUTTON),
                        vec![&Notify::new(&power_button, &BUTTON_PRESSED)],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// One device for each processor; `_UID` ties it to its entry in the MADT (ACPI 6.5, 8.4).
fn processors(vcpus: u32, aml: &mut Vec<u8>) {
    for vcpu in 0..vcpus {
        Device::new(
            Path::new(&format!("\\_SB_.C{vcpu:03X}")),
            vec![&Name::new(Path::new("_HID"), &"ACPI0007"), &unique_id(vcpu)],
        )
        .to_aml_bytes(aml);
    }
}

fn hardware_id(id: &str) -> Name {
    Name::new(Path::new("_HID"), &EISAName::new(id))
}

fn unique_id(id: u32) -> Name {
    Name::new(Path::new("_UID"), &id)
}

fn resources(items: Vec<&dyn Aml>) -> Name {
    Name::new(Path::new("_CRS"), &ResourceTemplate::new(items))
}

/// An edge-triggered, active-high interrupt that nobody shares.
fn edge(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}
