//! Reads the tables back as a kernel does: from the RSDP, by pointers, checking every checksum.

use std::path::Path;
use std::process::Command;

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

use super::*;

struct Tables {
    memory: GuestMemory,
    rsdp: u64,
}

impl Tables {
    fn of(vcpus: u32) -> Self {
        let ranges = [(GuestAddress(0), 16 << 20)];
        let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
        let rsdp = build(&memory, vcpus).unwrap();
        Self { memory, rsdp }
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// A table with a standard header, after checking length, checksum and place.
    fn table(&self, address: u64) -> Vec<u8> {
        let len = u32_at(&self.bytes(address, 36), 4);
        assert!((36..0x2_0000).contains(&len), "length {len}");
        assert!(address >= boot::RSDP && address + u64::from(len) <= boot::ACPI_END);
        let table = self.bytes(address, len as usize);
        assert_eq!(sum(&table), 0, "checksum of {:?}", signature(&table));
        table
    }

    fn xsdt(&self) -> Vec<u8> {
        let rsdp = self.bytes(self.rsdp, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[15], 2, "revision");
        assert_eq!(sum(&rsdp[..20]), 0);
        assert_eq!(sum(&rsdp), 0);
        self.table(u64_at(&rsdp, 24))
    }

    fn named(&self, name: &str) -> Vec<u8> {
        if name == "DSDT" {
            return self.table(u64_at(&self.named("FACP"), 140));
        }
        let found: Vec<_> = self.xsdt()[36..]
            .chunks(8)
            .map(|pointer| self.table(u64_at(pointer, 0)))
            .filter(|table| signature(table) == name)
            .collect();
        assert_eq!(found.len(), 1, "one {name}");
        found.into_iter().next().unwrap()
    }
}

fn signature(table: &[u8]) -> String {
    String::from_utf8_lossy(&table[..4]).into_owned()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn every_table_is_reachable_and_its_checksum_holds() {
    for vcpus in [1, 2, 64, MAX_VCPUS / 2] {
        let tables = Tables::of(vcpus);
        assert_eq!(tables.rsdp % 16, 0, "kernels look at multiples of 16");
        let pointers = (tables.xsdt().len() - 36) / 8;
        assert_eq!(pointers, 3);
        for name in ["FACP", "APIC", "MCFG", "DSDT"] {
            assert_eq!(signature(&tables.named(name)), name);
        }
    }
}

#[test]
fn the_fadt_describes_a_hardware_reduced_machine() {
    let fadt = Tables::of(1).named("FACP");
    assert_eq!(fadt.len(), 276);
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags >> 20 & 1, 1, "hardware reduced");
    assert_eq!(flags >> 10 & 1, 1, "reset register");
    assert_eq!(flags >> 4 & 3, 3, "buttons are not fixed hardware");
    let register = |at: usize| (fadt[at], fadt[at + 1], u64_at(&fadt, at + 4));
    assert_eq!(register(116), (1, 8, u64::from(ACPI_RESET_PORT)));
    assert_eq!(fadt[128], ACPI_RESET_VALUE);
    assert_eq!(register(244), (1, 8, u64::from(ACPI_SLEEP_CONTROL_PORT)));
    assert_eq!(register(256), (1, 8, u64::from(ACPI_SLEEP_STATUS_PORT)));
}

#[test]
fn the_mcfg_names_one_bus_of_configuration_space() {
    let mcfg = Tables::of(1).named("MCFG");
    assert_eq!(mcfg.len(), 36 + 8 + 16);
    assert_eq!(u64_at(&mcfg, 44), PCI_ECAM_START);
    assert_eq!(&mcfg[52..56], [0, 0, 0, 0], "segment 0, bus 0 to 0");
}

/// What a MADT says: local APIC ids in order, and the I/O APIC's address.
fn madt_of(vcpus: u32) -> (Vec<(u8, u32)>, u32) {
    let madt = Tables::of(vcpus).named("APIC");
    assert_eq!(u32_at(&madt, 36), 0xfee0_0000);
    let (mut apics, mut ioapic) = (Vec::new(), None);
    let mut rest = &madt[44..];
    while !rest.is_empty() {
        let (entry, after) = rest.split_at(usize::from(rest[1]));
        match entry[0] {
            0 => {
                assert_eq!(entry.len(), 8);
                assert_eq!(entry[2], entry[3], "processor UID and APIC id");
                assert_eq!(u32_at(entry, 4), 1, "enabled");
                apics.push((0, u32::from(entry[3])));
            }
            1 => {
                assert_eq!(entry.len(), 12);
                assert_eq!(u32_at(entry, 8), 0, "first interrupt");
                assert!(ioapic.replace(u32_at(entry, 4)).is_none());
            }
            9 => {
                assert_eq!(entry.len(), 16);
                assert_eq!(u32_at(entry, 4), u32_at(entry, 12));
                assert_eq!(u32_at(entry, 8), 1, "enabled");
                apics.push((9, u32_at(entry, 4)));
            }
            kind => panic!("entry of kind {kind}"),
        }
        rest = after;
    }
    (apics, ioapic.unwrap())
}

#[test]
fn the_madt_lists_every_vcpu_once_and_the_io_apic() {
    for vcpus in [1, 2, 64, 255, 256, 300] {
        let (apics, ioapic) = madt_of(vcpus);
        let ids: Vec<u32> = apics.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, (0..vcpus).collect::<Vec<_>>());
        assert_eq!(ioapic, 0xfec0_0000);
        for (kind, id) in apics {
            assert_eq!(kind, if id > 254 { 9 } else { 0 }, "id {id}");
        }
    }
}

#[test]
fn absurd_numbers_of_vcpus_are_refused() {
    let ranges = [(GuestAddress(0), 16 << 20)];
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    for vcpus in [0, MAX_VCPUS + 1, u32::MAX] {
        let error = build(&memory, vcpus).unwrap_err().to_string();
        assert!(error.contains("use 1 to 4096"), "{error}");
    }
    let error = build(&memory, MAX_VCPUS).unwrap_err();
    assert!(matches!(error, AcpiError::TooLarge { .. }), "{error}");
}

#[test]
fn a_guest_without_ram_below_1_mib_gets_an_error() {
    let ranges = [(GuestAddress(0), 4096)];
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    let error = build(&memory, 1).unwrap_err();
    assert!(matches!(error, AcpiError::Write { .. }), "{error}");
}

/// Runs `iasl` in `directory`; `None` when it is not installed.
fn iasl(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = match Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("cannot run iasl: {error}"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    Some(text)
}

/// ACPI source as one line without the disassembler's remarks, which differ between versions.
fn without_comments(source: &str) -> String {
    let code = source.lines().map(|line| {
        let line = line.split_once("//").map_or(line, |(code, _)| code);
        line.split_once("/*").map_or(line, |(code, _)| code)
    });
    code.flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_acpi_compiler_reads_every_table_and_compiles_the_dsdt_again_without_complaint() {
    for vcpus in [1, 2, 64] {
        let tables = Tables::of(vcpus);
        let directory = tempfile::tempdir().unwrap();
        for name in ["FACP", "APIC", "MCFG", "DSDT"] {
            let file = format!("{name}.dat");
            std::fs::write(directory.path().join(&file), tables.named(name)).unwrap();
            let Some(said) = iasl(directory.path(), &["-d", &file]) else {
                crate::skip::skipped!("iasl is not installed (package acpica-tools)");
                return;
            };
            for complaint in ["Warning", "Error", "Invalid", "Could not"] {
                assert!(!said.contains(complaint), "{name}: {said}");
            }
        }
        let said = iasl(directory.path(), &["-f", "DSDT.dsl"]).unwrap();
        assert!(said.contains("0 Errors, 0 Warnings"), "{said}");

        let source = std::fs::read_to_string(directory.path().join("DSDT.dsl")).unwrap();
        let source = without_comments(&source);
        for needle in [
            "_S5, Package (0x04) { 0x05, Zero, Zero, Zero })",
            "If ((Local0 & One)) { Notify (\\_SB.PWRB, 0x80)",
            "Local0 = EVTS",
            "OperationRegion (GREG, SystemIO, 0x0603, One)",
            "Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000, )",
            "IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08, )",
            "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
            "NonCacheable, ReadWrite, 0x00000000, 0xC0000000, 0xDFFFFFFF,",
        ] {
            assert!(source.contains(needle), "no {needle} in {source}");
        }
        assert_eq!(source.matches("\"ACPI0007\"").count(), vcpus as usize);
    }
}
