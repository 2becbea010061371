//! Loading whole kernels into guest memory.

use std::fs::File;
use std::io::Write;

use linux_loader::bootparam::{boot_params, setup_header};
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::memory::layout::ram_ranges;
use images::{Elf, LOAD, bzimage, header, note};

mod hostile;
mod images;
mod kvm;

const RSDP: u64 = 0xe_0000;

struct Guest {
    memory: GuestMemory,
    ram: Vec<RamRange>,
}

impl Guest {
    fn new(size: u64) -> Self {
        let ram = ram_ranges(size);
        let ranges: Vec<_> = ram
            .iter()
            .map(|range| (GuestAddress(range.start), range.len as usize))
            .collect();
        Self {
            memory: GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap(),
            ram,
        }
    }

    fn load(&self, kernel: &[u8]) -> Result<Entry, BootError> {
        self.load_with(kernel, None, "console=ttyS0")
    }

    fn load_with(
        &self,
        kernel: &[u8],
        initrd: Option<&mut File>,
        cmdline: &str,
    ) -> Result<Entry, BootError> {
        let source = KernelSource::Bytes(kernel);
        let cmdline = Cmdline::new(cmdline)?;
        load(
            &self.memory,
            &self.ram,
            source,
            initrd,
            &cmdline,
            Some(RSDP),
        )
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn refusal(result: Result<Entry, BootError>) -> String {
    let text = result.expect_err("this must be refused").to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[test]
fn an_elf_with_a_pvh_note_starts_in_protected_mode_with_its_start_info() {
    let guest = Guest::new(64 << 20);
    let initrd = vec![7; 5000];
    let entry = guest
        .load_with(
            &Elf::small().pvh(LOAD + 0x10).bytes(),
            Some(&mut file_of(&initrd)),
            "heartbeat=1",
        )
        .unwrap();
    assert_eq!(
        entry,
        Entry::Pvh {
            rip: LOAD as u32 + 0x10,
            start_info: boot::PVH_START_INFO
        }
    );

    let info: hvm_start_info = guest
        .memory
        .read_obj(GuestAddress(boot::PVH_START_INFO))
        .unwrap();
    assert_eq!(info.magic, 0x336e_c578);
    assert_eq!(info.version, 1);
    assert_eq!(info.rsdp_paddr, RSDP);
    assert_eq!(guest.bytes(info.cmdline_paddr, 12), b"heartbeat=1\0");

    assert_eq!(info.nr_modules, 1);
    let module: hvm_modlist_entry = guest
        .memory
        .read_obj(GuestAddress(info.modlist_paddr))
        .unwrap();
    assert_eq!(module.size, 5000);
    assert_eq!(module.paddr, (64 << 20) - 0x2000);
    assert_eq!(guest.bytes(module.paddr, 5000), initrd);

    let map: Vec<hvm_memmap_table_entry> = (0..u64::from(info.memmap_entries))
        .map(|index| {
            let address = GuestAddress(info.memmap_paddr + index * 24);
            guest.memory.read_obj(address).unwrap()
        })
        .collect();
    let expected: Vec<_> = memory_map(&guest.ram)
        .into_iter()
        .map(|entry| (entry.start, entry.len, entry.kind as u32))
        .collect();
    let told: Vec<_> = map.iter().map(|e| (e.addr, e.size, e.type_)).collect();
    assert_eq!(told, expected);

    let registers = entry.registers();
    assert_eq!(registers.general.rip, LOAD + 0x10);
    assert_eq!(registers.general.rbx, boot::PVH_START_INFO);
    assert_eq!(registers.cr0 & 0x8000_0001, 1, "protected, not paged");
    assert_eq!((registers.cr4, registers.efer), (0, 0));
    assert!(registers.cs.db && !registers.cs.long);
}

#[test]
fn an_elf_without_a_note_starts_in_long_mode_with_boot_params() {
    let guest = Guest::new(5 << 30);
    let entry = guest.load(&Elf::small().bytes()).unwrap();
    assert_eq!(
        entry,
        Entry::Linux64 {
            rip: LOAD,
            zero_page: boot::ZERO_PAGE
        }
    );
    let params: boot_params = guest
        .memory
        .read_obj(GuestAddress(boot::ZERO_PAGE))
        .unwrap();
    assert_eq!({ params.hdr.header }, 0x5372_6448);
    assert_eq!({ params.hdr.boot_flag }, 0xaa55);
    assert_eq!(params.hdr.type_of_loader, 0xff);
    assert_eq!({ params.hdr.ramdisk_size }, 0);
    assert_eq!({ params.acpi_rsdp_addr }, RSDP);
    assert_eq!(
        guest.bytes(u64::from(params.hdr.cmd_line_ptr), 14),
        b"console=ttyS0\0"
    );
    let table = params.e820_table;
    let told: Vec<_> = table[..usize::from(params.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.size, { entry.r#type }))
        .collect();
    let expected: Vec<_> = memory_map(&guest.ram)
        .into_iter()
        .map(|entry| (entry.start, entry.len, entry.kind as u32))
        .collect();
    assert_eq!(told, expected);
    assert!(told.contains(&(4 << 30, 2 << 30, 1)), "RAM above 4 GiB");

    let registers = entry.registers();
    assert_eq!(registers.general.rsi, boot::ZERO_PAGE);
    assert_eq!(registers.cr3, boot::PAGE_TABLES);
    assert_eq!(registers.cr0 & 0x8000_0001, 0x8000_0001);
    assert_eq!(registers.efer, 0x500);
    assert!(registers.cs.long && !registers.cs.db);
}

#[test]
fn the_page_tables_map_the_first_four_gib_one_to_one() {
    let guest = Guest::new(64 << 20);
    let entry = guest.load(&Elf::small().bytes()).unwrap();
    let read = |address: u64| -> u64 { guest.memory.read_obj(GuestAddress(address)).unwrap() };
    let translate = |linear: u64| -> Option<u64> {
        let mut table = entry.registers().cr3;
        for level in [39, 30, 21] {
            let item = read(table + ((linear >> level) & 511) * 8);
            if item & 1 == 0 {
                return None;
            }
            assert_eq!(item & 2, 2, "writable");
            if item & 0x80 != 0 {
                return Some((item & !0x1f_ffff) | (linear & 0x1f_ffff));
            }
            table = item & !0xfff;
        }
        panic!("no large page at {linear:#x}");
    };
    for linear in [0, 0x7000, LOAD, 0x3fff_ffff, 0xc000_0000, 0xffff_ffff] {
        assert_eq!(translate(linear), Some(linear));
    }
    assert_eq!(translate(1 << 32), None);
    assert_eq!(translate(1 << 39), None);
}

#[test]
fn the_gdt_in_memory_loads_the_same_segments_as_the_registers() {
    let guest = Guest::new(64 << 20);
    for (kernel, code) in [
        (Elf::small().pvh(LOAD).bytes(), 0x00cf_9b00_0000_ffff),
        (Elf::small().bytes(), 0x00af_9b00_0000_ffff),
    ] {
        let entry = guest.load(&kernel).unwrap();
        let registers = entry.registers();
        let descriptor = |selector: u16| -> u64 {
            let address = GuestAddress(registers.gdt.base + u64::from(selector));
            assert!(selector + 7 <= registers.gdt.limit);
            guest.memory.read_obj(address).unwrap()
        };
        assert_eq!(descriptor(0), 0);
        assert_eq!(descriptor(registers.cs.selector), code);
        assert_eq!(descriptor(registers.data.selector), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(registers.tr.selector), 0x0000_8b00_0000_0067);
        assert_eq!(descriptor(registers.tr.selector + 8), 0);
    }
}

#[test]
fn segments_are_copied_and_the_rest_of_their_memory_is_zeroed() {
    let guest = Guest::new(64 << 20);
    let dirty = vec![0xaa; 0x4000];
    let before = LOAD - 0x1000;
    guest
        .memory
        .write_slice(&dirty, GuestAddress(before))
        .unwrap();
    guest.load(&Elf::small().bytes()).unwrap();
    assert_eq!(guest.bytes(before, 0x1000), [0xaa; 0x1000]);
    assert_eq!(guest.bytes(LOAD, 0x1000), [0x90; 0x1000]);
    assert_eq!(guest.bytes(LOAD + 0x1000, 0x1000), [0; 0x1000]);
    assert_eq!(guest.bytes(LOAD + 0x2000, 0x1000), [0xaa; 0x1000]);
}

#[test]
fn the_pvh_note_is_found_among_other_notes_and_note_segments() {
    let guest = Guest::new(64 << 20);
    let pvh = Entry::Pvh {
        rip: LOAD as u32,
        start_info: boot::PVH_START_INFO,
    };
    let gnu = note(b"GNU\0", 3, &[1; 20]);
    let odd = note(b"Linux\0", 0, &[1; 3]);
    let same_number = note(b"GNU\0", 18, &[1; 4]);
    let xen = note(b"Xen\0", 18, &(LOAD as u32).to_le_bytes());
    let together = [gnu.clone(), odd, same_number, xen.clone()].concat();
    for elf in [
        Elf::small().notes(&together),
        Elf::small().notes(&gnu).notes(&xen),
        Elf::small().notes(&xen).notes(&gnu),
    ] {
        assert_eq!(guest.load(&elf.bytes()).unwrap(), pvh);
    }
    let without = guest.load(&Elf::small().notes(&gnu).bytes()).unwrap();
    assert!(matches!(without, Entry::Linux64 { .. }));
}

#[test]
fn a_kernel_is_the_same_from_a_file_and_from_memory() {
    let kernel = Elf::small().pvh(LOAD).bytes();
    let guest = Guest::new(16 << 20);
    let from_memory = guest.load(&kernel).unwrap();
    let mut file = file_of(&kernel);
    let from_file = load(
        &guest.memory,
        &guest.ram,
        KernelSource::File(&mut file),
        None,
        &Cmdline::new("").unwrap(),
        None,
    )
    .unwrap();
    assert_eq!(from_memory, from_file);
    assert_eq!(guest.bytes(LOAD, 16), [0x90; 16]);
}

#[test]
fn a_bzimage_runs_where_it_prefers_and_keeps_its_header() {
    let guest = Guest::new(64 << 20);
    let initrd = vec![3; 100];
    let entry = guest
        .load_with(
            &bzimage(header()),
            Some(&mut file_of(&initrd)),
            "root=/dev/vda",
        )
        .unwrap();
    assert_eq!(
        entry,
        Entry::Linux64 {
            rip: 0x100_0200,
            zero_page: boot::ZERO_PAGE
        }
    );
    assert_eq!(guest.bytes(0x100_0000, 4096), [0x90; 4096]);
    let params: boot_params = guest
        .memory
        .read_obj(GuestAddress(boot::ZERO_PAGE))
        .unwrap();
    assert_eq!({ params.hdr.version }, 0x020f);
    assert_eq!({ params.hdr.init_size }, 0x10_0000);
    assert_eq!({ params.hdr.code32_start }, 0x100_0000);
    assert_eq!({ params.hdr.ramdisk_size }, 100);
    let ramdisk = u64::from(params.hdr.ramdisk_image);
    assert_eq!(guest.bytes(ramdisk, 100), initrd);
    assert_eq!(
        guest.bytes(u64::from(params.hdr.cmd_line_ptr), 14),
        b"root=/dev/vda\0"
    );
}

#[test]
fn a_bzimage_that_prefers_an_unaligned_or_low_place_is_moved_up() {
    let guest = Guest::new(64 << 20);
    for (preferred, rip) in [(0x123_4567, 0x140_0200), (0, 0x20_0200)] {
        let kernel = bzimage(setup_header {
            pref_address: preferred,
            ..header()
        });
        let entry = guest.load(&kernel).unwrap();
        assert_eq!(entry.registers().general.rip, rip);
    }
}

#[test]
fn bytes_behind_a_short_setup_header_are_not_believed() {
    let guest = Guest::new(64 << 20);
    // This header ends right behind `init_size`; `handover_offset` would be code.
    let kernel = bzimage(setup_header {
        jump: 0x62eb,
        handover_offset: 0x9090_9090,
        ..header()
    });
    guest.load(&kernel).unwrap();
    let params: boot_params = guest
        .memory
        .read_obj(GuestAddress(boot::ZERO_PAGE))
        .unwrap();
    assert_eq!({ params.hdr.init_size }, 0x10_0000);
    assert_eq!({ params.hdr.handover_offset }, 0);
}

#[test]
fn an_initrd_stays_below_what_the_kernel_allows() {
    let guest = Guest::new(64 << 20);
    let kernel = bzimage(setup_header {
        initrd_addr_max: 0x1ff_ffff,
        ..header()
    });
    guest
        .load_with(&kernel, Some(&mut file_of(&[1; 4096])), "")
        .unwrap();
    let params: boot_params = guest
        .memory
        .read_obj(GuestAddress(boot::ZERO_PAGE))
        .unwrap();
    assert_eq!({ params.hdr.ramdisk_image }, 0x1ff_f000);
}

#[test]
fn a_guest_of_16_mib_boots_what_fits() {
    let guest = Guest::new(16 << 20);
    guest.load(&Elf::small().pvh(LOAD).bytes()).unwrap();
    let text = refusal(guest.load(&bzimage(header())));
    assert_eq!(
        text,
        "the kernel needs RAM from 0x1000000 to 0x1100000, the guest's low RAM ends at 0x1000000; \
         give it at least 17 MiB"
    );
}

#[test]
fn the_built_in_guest_boots_by_pvh_in_16_mib() {
    let entry = Guest::new(16 << 20).load(crate::payload::ELF).unwrap();
    assert!(matches!(entry, Entry::Pvh { .. }), "{entry:?}");
}
