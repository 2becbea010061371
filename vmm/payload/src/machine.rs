//! What the host says about the machine: command line, memory, processors,
//! tables. Read once at the start, before anything is overwritten.

use crate::cpu::MAX_CPUS;
use crate::logic::acpi::{self, Ecam, Fadt};
use crate::logic::span::Span;
use crate::paging;

/// `struct hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h).
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    _reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    _reserved: u32,
}

const MAX_LINE: usize = 4096;
const MAX_TABLES: usize = 64;
const MAX_MAP: u32 = 128;
const MAX_TABLE: usize = 1 << 20;

unsafe extern "C" {
    static image_end: u8;
}

/// The machine.
pub struct Machine {
    line: [u8; MAX_LINE],
    line_len: usize,
    /// Bytes of RAM.
    pub memory: u64,
    /// RAM above the image, not yet in use.
    pub free: Span,
    /// APIC ids in the order of the tables.
    pub apic_ids: [u32; MAX_CPUS],
    /// How many of them; 0 when no table says.
    pub cpus: usize,
    /// How to end.
    pub fadt: Fadt,
    /// Where PCI is, if not behind ports.
    pub ecam: Option<Ecam>,
    /// The start info was there.
    pub valid: bool,
}

impl Machine {
    pub const EMPTY: Self = Self {
        line: [0; MAX_LINE],
        line_len: 0,
        memory: 0,
        free: Span::EMPTY,
        apic_ids: [0; MAX_CPUS],
        cpus: 0,
        fadt: Fadt {
            sleep_control: None,
            pm1a_control: None,
            reset: None,
        },
        ecam: None,
        valid: false,
    };

    /// Fills in what the start info at `address` says.
    pub fn read(&mut self, address: u64) {
        // SAFETY: the first 4 GiB are mapped; the address is checked by its magic.
        let info = unsafe { (address as *const StartInfo).read_volatile() };
        self.valid = info.magic == MAGIC;
        if !self.valid {
            return;
        }
        self.read_line(info.cmdline);
        if info.version >= 1 {
            self.read_memory(info.memmap, info.memmap_entries.min(MAX_MAP));
        }
        let rsdp = if info.rsdp != 0 {
            Some(info.rsdp)
        } else {
            search_rsdp()
        };
        if let Some(rsdp) = rsdp {
            self.read_tables(rsdp);
        }
    }

    /// The command line; empty when it is not text.
    pub fn line(&self) -> &str {
        core::str::from_utf8(&self.line[..self.line_len]).unwrap_or("")
    }

    fn read_line(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        while self.line_len < MAX_LINE {
            // SAFETY: mapped, and nobody writes it.
            let byte = unsafe { ((address + self.line_len as u64) as *const u8).read_volatile() };
            if byte == 0 {
                break;
            }
            self.line[self.line_len] = byte;
            self.line_len += 1;
        }
    }

    fn read_memory(&mut self, address: u64, entries: u32) {
        let end = &raw const image_end as u64;
        for index in 0..u64::from(entries) {
            // SAFETY: the host says that so many entries are there.
            let entry =
                unsafe { ((address + index * 24) as *const MemoryMapEntry).read_volatile() };
            if entry.kind == RAM {
                self.memory += entry.size;
                let top = entry.address.saturating_add(entry.size);
                self.free.add(entry.address.max(end), top);
            }
        }
    }

    fn read_tables(&mut self, rsdp: u64) {
        // SAFETY: ACPI memory, which the host does not change.
        let pointer = unsafe { bytes(rsdp, 36) };
        let Some((root, size)) = acpi::root(pointer) else {
            return;
        };
        for address in acpi::entries(table(root), size).take(MAX_TABLES) {
            let table = table(address);
            match table.get(..4) {
                Some(b"FACP") => self.fadt = acpi::fadt(table).unwrap_or_default(),
                Some(b"MCFG") => self.ecam = acpi::mcfg(table),
                Some(b"APIC") => acpi::madt(table, |id| {
                    if self.cpus < MAX_CPUS {
                        self.apic_ids[self.cpus] = id;
                        self.cpus += 1;
                    }
                }),
                _ => {}
            }
        }
    }
}

fn search_rsdp() -> Option<u64> {
    (0xe_0000..0x10_0000).step_by(16).find(|at| {
        // SAFETY: the low megabyte is mapped.
        unsafe { bytes(*at, 8) == b"RSD PTR " }
    })
}

/// The table at `address`; empty when its length is absurd.
fn table(address: u64) -> &'static [u8] {
    // SAFETY: ACPI memory, which the host does not change.
    unsafe {
        let header = bytes(address, acpi::HEADER);
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if (acpi::HEADER..=MAX_TABLE).contains(&len) {
            bytes(address, len)
        } else {
            &[]
        }
    }
}

/// # Safety
/// Nobody may write there while the result is in use.
unsafe fn bytes(address: u64, len: usize) -> &'static [u8] {
    paging::map_existing(address, len as u64);
    // SAFETY: mapped now; constant by the caller's promise.
    unsafe { core::slice::from_raw_parts(address as *const u8, len) }
}
