//! The structures of the 64-bit Linux entry: `boot_params` and identity-mapping page tables
//! (Linux x86 boot protocol, "64-bit Boot Protocol" and "zero page").

use linux_loader::bootparam::{E820_MAX_ENTRIES_ZEROPAGE, boot_e820_entry, boot_params};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use vm_memory::GuestAddress;

use super::error::BootError;
use super::initrd::Initrd;
use super::memory_map::MapEntry;
use super::{Cmdline, Kernel, write_structure};
use crate::memory::GuestMemory;
use crate::memory::layout::{PAGE_SIZE, boot};

/// `boot_flag` of every kernel header.
const BOOT_FLAG: u16 = 0xaa55;
/// `header` of every kernel header: "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Protocol that an ELF, which brings no header, is told: the first with `xloadflags`.
const ELF_PROTOCOL: u16 = 0x020c;
/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Alignment that an ELF is told, bytes; Linux uses it only to relocate itself.
const ELF_ALIGNMENT: u32 = 0x100_0000;

/// Page table entry: present and writable (Intel SDM vol. 3, 4.5).
const PRESENT_WRITABLE: u64 = 0b11;
/// Page directory entry that maps 2 MiB.
const LARGE: u64 = 1 << 7;
/// What the tables map, GiB: everything that the kernel, its initrd and these structures can use.
const MAPPED_GIB: u64 = 4;
/// Entries of one table.
const TABLE_ENTRIES: u64 = 512;

/// Writes `boot_params` and page tables.
pub(super) fn write(
    memory: &GuestMemory,
    map: &[MapEntry],
    kernel: &Kernel,
    initrd: Option<Initrd>,
    cmdline: &Cmdline,
    rsdp: Option<u64>,
) -> Result<(), BootError> {
    let mut params = boot_params::default();
    match kernel.header {
        Some(header) => params.hdr = header,
        None => {
            params.hdr.boot_flag = BOOT_FLAG;
            params.hdr.header = HEADER_MAGIC;
            params.hdr.version = ELF_PROTOCOL;
            params.hdr.kernel_alignment = ELF_ALIGNMENT;
        }
    }
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = boot::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline.len() as u32;
    params.hdr.setup_data = 0;
    if let Some(initrd) = initrd {
        // Both fit: low RAM, where initrds lie, ends below 4 GiB.
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    params.acpi_rsdp_addr = rsdp.unwrap_or(0);

    let mut table = [boot_e820_entry::default(); E820_MAX_ENTRIES_ZEROPAGE];
    for (slot, entry) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.len,
            r#type: entry.kind as u32,
        };
    }
    params.e820_table = table;
    params.e820_entries = map.len().min(E820_MAX_ENTRIES_ZEROPAGE) as u8;

    let params = BootParams::new(&params, GuestAddress(boot::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory).map_err(BootError::Structures)?;
    write_page_tables(memory)
}

/// Maps the first [`MAPPED_GIB`] one to one in 2 MiB pages: PML4, PDPT, then one PD per GiB.
fn write_page_tables(memory: &GuestMemory) -> Result<(), BootError> {
    let pdpt = boot::PAGE_TABLES + PAGE_SIZE;
    let directories = pdpt + PAGE_SIZE;
    write_table(memory, boot::PAGE_TABLES, [pdpt | PRESENT_WRITABLE])?;
    write_table(
        memory,
        pdpt,
        (0..MAPPED_GIB).map(|gib| (directories + gib * PAGE_SIZE) | PRESENT_WRITABLE),
    )?;
    for gib in 0..MAPPED_GIB {
        write_table(
            memory,
            directories + gib * PAGE_SIZE,
            (0..TABLE_ENTRIES)
                .map(|entry| ((gib * TABLE_ENTRIES + entry) << 21) | LARGE | PRESENT_WRITABLE),
        )?;
    }
    Ok(())
}

/// Writes one whole table; entries that are not given are not present.
fn write_table(
    memory: &GuestMemory,
    address: u64,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), BootError> {
    let mut bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.resize(PAGE_SIZE as usize, 0);
    write_structure(memory, address, &bytes)
}

const _: () = assert!(boot::PAGE_TABLES + (2 + MAPPED_GIB) * PAGE_SIZE <= boot::CMDLINE);
