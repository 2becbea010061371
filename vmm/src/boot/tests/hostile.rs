//! Images, initrds and command lines that must be refused, each with cause and fix.

use proptest::prelude::*;

use super::*;

fn refused(kernel: &[u8]) -> String {
    refusal(Guest::new(64 << 20).load(kernel))
}

#[test]
fn files_that_are_not_kernels_are_named() {
    let mut arm64 = vec![0; 64];
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut disk = vec![0; 512];
    disk[510..].copy_from_slice(b"\x55\xaa");
    let cases: [(&[u8], &str); 9] = [
        (b"\x1f\x8b\x08\0", "a gzip file"),
        (b"\x28\xb5\x2f\xfd\0", "a zstd file"),
        (&arm64, "an arm64 Image"),
        (b"070701", "a cpio archive"),
        (b"#!/bin/sh", "a script"),
        (b"MZ\0\0", "an EFI or Windows program"),
        (&disk, "a boot sector or raw disk image"),
        (b"\x01\x02\x03\x04\x05", "data beginning 01 02 03 04"),
        (b"x", "data beginning 78 00 00 00"),
    ];
    for (image, what) in cases {
        let text = refused(image);
        assert!(text.contains(what), "{text}");
        assert!(text.contains("; "), "names a fix: {text}");
    }
}

#[test]
fn an_empty_or_missing_kernel_is_named() {
    assert!(refused(b"").contains("the kernel is empty"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz");
    let missing = open_kernel(&path).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "cannot open kernel {}; check the path and its permissions",
            path.display()
        )
    );
    let error = open_kernel(directory.path()).unwrap_err();
    assert!(matches!(error, BootError::NotAFile { .. }), "{error}");
}

#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let error = open_initrd(&path).unwrap_err();
    assert!(matches!(error, BootError::NotAFile { .. }), "{error}");
}

#[test]
fn an_elf_for_another_machine_is_named() {
    let mut elf = Elf::small();
    elf.header.e_machine = 183;
    assert!(refused(&elf.bytes()).contains("an ELF for machine 183"));
    let mut elf = Elf::small();
    elf.header.e_ident[4] = 1;
    assert!(refused(&elf.bytes()).contains("a 32-bit ELF"));
    let mut elf = Elf::small();
    elf.header.e_ident[5] = 2;
    assert!(refused(&elf.bytes()).contains("a big-endian ELF"));
    let mut elf = Elf::small();
    elf.programs[0].p_type = 3;
    assert!(refused(&elf.bytes()).contains("a dynamically linked program"));
}

#[test]
fn an_elf_cut_anywhere_is_refused() {
    let whole = Elf::small().pvh(LOAD).bytes();
    let guest = Guest::new(16 << 20);
    guest.load(&whole).unwrap();
    for len in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let text = refusal(guest.load(&whole[..len]));
        if len >= 4 {
            assert!(text.contains("cut short"), "{len}: {text}");
        }
    }
}

#[test]
fn segments_outside_of_low_ram_are_refused() {
    let end = 64 << 20;
    let page = [0x90; 4096];
    for (start, len) in [
        (0, 4096),
        (boot::PAGE_TABLES, 4096),
        (boot::HIGH_MEMORY_START - 1, 4096),
        (end - 4095, 4096),
        (end, 4096),
        (0xe000_0000, 4096),
        (1 << 32, 4096),
        (u64::MAX - 4095, 4096),
        (u64::MAX, 4096),
        (LOAD + 0x10_0000, u64::MAX),
    ] {
        let text = refused(&Elf::small().segment(start, &page, len).bytes());
        assert!(text.contains("does not fit into RAM"), "{start:#x}: {text}");
    }
    let fits = Elf::small().segment(end - 4096, &page, 4096).bytes();
    Guest::new(end).load(&fits).unwrap();
}

#[test]
fn a_segment_in_the_pci_hole_is_refused_though_ram_lies_on_both_sides() {
    let guest = Guest::new(5 << 30);
    let page = [0x90; 4096];
    for (start, len) in [
        (0xc000_0000, 4096),
        (0xbfff_f000, 8192),
        (0xfec0_0000, 4096),
        (LOAD + 0x10_0000, 4 << 30),
    ] {
        let text = refusal(guest.load(&Elf::small().segment(start, &page, len).bytes()));
        assert!(text.contains("does not fit into RAM"), "{start:#x}: {text}");
    }
}

#[test]
fn elf_headers_that_contradict_themselves_are_refused() {
    let elf = |change: fn(&mut Elf)| {
        let mut elf = Elf::small();
        change(&mut elf);
        refused(&elf.bytes())
    };
    let text = elf(|elf| elf.programs[0].p_memsz = 4095);
    assert!(text.contains("larger in the file"), "{text}");
    let text = elf(|elf| elf.programs[0].p_offset = u64::MAX - 5000);
    assert!(text.contains("cut short"), "{text}");
    let text = elf(|elf| elf.header.e_phoff = u64::MAX - 8);
    assert!(text.contains("cut short"), "{text}");
    let text = elf(|elf| elf.header.e_phoff = 8);
    assert!(text.contains("overlap the ELF header"), "{text}");
    let text = elf(|elf| elf.header.e_phentsize = 32);
    assert!(text.contains("unknown size"), "{text}");
    let text = elf(|elf| elf.programs.clear());
    assert!(text.contains("no program headers"), "{text}");
    let text = elf(|elf| elf.programs = vec![elf.programs[0]; 65]);
    assert!(text.contains("more than 64"), "{text}");
    let text = elf(|elf| elf.programs.push(elf.programs[0]));
    assert!(text.contains("overlap"), "{text}");
    let text = elf(|elf| *elf = elf.clone().notes(&vec![0; 65537]));
    assert!(text.contains("notes are larger"), "{text}");
    let text = elf(|elf| *elf = elf.clone().notes(&note(b"Xen\0", 18, &[1, 2])));
    assert!(text.contains("32-bit address"), "{text}");
    let text = elf(|elf| *elf = elf.clone().pvh(1 << 32));
    assert!(text.contains("32-bit address"), "{text}");
}

#[test]
fn an_entry_outside_of_the_loaded_bytes_is_refused() {
    for entry in [0, LOAD - 1, LOAD + 4096, LOAD + 8192, u64::MAX] {
        let mut elf = Elf::small();
        elf.header.e_entry = entry;
        assert!(refused(&elf.bytes()).contains("lies outside what the image loads"));
    }
    let text = refused(&Elf::small().pvh(LOAD + 4096).bytes());
    assert!(text.contains("lies outside what the image loads"), "{text}");
}

#[test]
fn bzimages_that_cannot_be_entered_in_64_bit_mode_are_refused() {
    let text = refused(&bzimage(setup_header {
        version: 0x020b,
        ..header()
    }));
    assert!(text.contains("boot protocol 2.11"), "{text}");
    let text = refused(&bzimage(setup_header {
        xloadflags: 0,
        ..header()
    }));
    assert!(text.contains("no 64-bit entry point"), "{text}");
    let text = refused(&bzimage(setup_header {
        loadflags: 0,
        ..header()
    }));
    assert!(text.contains("zImage"), "{text}");
}

#[test]
fn bzimages_with_absurd_headers_are_refused() {
    for pref_address in [1 << 30, 0xffff_f000, u64::MAX - 4096, u64::MAX] {
        let text = refused(&bzimage(setup_header {
            pref_address,
            ..header()
        }));
        assert!(
            text.contains("needs RAM") || text.contains("end of the address space"),
            "{text}"
        );
    }
    let text = refused(&bzimage(setup_header {
        init_size: u32::MAX,
        ..header()
    }));
    assert!(text.contains("give it at least 4112 MiB"), "{text}");
    for kernel_alignment in [0, 3] {
        let text = refused(&bzimage(setup_header {
            kernel_alignment,
            ..header()
        }));
        assert!(text.contains("power of two"), "{text}");
    }
    let text = refused(&bzimage(setup_header {
        relocatable_kernel: 0,
        pref_address: 0x1000,
        ..header()
    }));
    assert!(text.contains("below 1 MiB"), "{text}");
}

#[test]
fn a_bzimage_cut_short_is_refused() {
    let whole = bzimage(header());
    for len in [0x206, 0x26b, 0x26c, 1024, 1024 + 0x200, whole.len() - 1] {
        let text = refused(&whole[..len]);
        assert!(text.contains("cut short"), "{len:#x}: {text}");
    }
}

#[test]
fn an_initrd_that_is_empty_or_does_not_fit_is_refused_with_sizes() {
    let guest = Guest::new(16 << 20);
    let kernel = Elf::small().pvh(LOAD).bytes();
    let text = refusal(guest.load_with(&kernel, Some(&mut file_of(b"")), ""));
    assert!(text.contains("the initrd is empty"), "{text}");

    let room = (16 << 20) - (LOAD + 8192);
    let mut initrd = tempfile::tempfile().unwrap();
    initrd.set_len(room + 1).unwrap();
    let text = refusal(guest.load_with(&kernel, Some(&mut initrd), ""));
    assert!(text.contains(&format!("{} bytes", room + 1)), "{text}");
    assert!(text.contains(&format!("{room} bytes")), "{text}");
    initrd.set_len(room).unwrap();
    guest
        .load_with(&kernel, Some(&mut initrd), "")
        .expect("fits exactly");
}

#[test]
fn command_lines_that_a_kernel_cannot_take_are_refused() {
    let max = boot::CMDLINE_MAX - 1;
    Cmdline::new(&"x".repeat(max)).unwrap();
    let text = Cmdline::new(&"x".repeat(max + 1)).unwrap_err().to_string();
    assert!(text.contains("2048 bytes"), "{text}");
    assert!(text.contains("at most 2047"), "{text}");
    for (line, complaint) in [
        ("a\0b", "0x00 at offset 1"),
        ("naïve", "0xc3 at offset 2"),
        ("a\nb", "0x0a at offset 1"),
        ("a\x7f", "0x7f at offset 1"),
    ] {
        let text = Cmdline::new(line).unwrap_err().to_string();
        assert!(text.contains(complaint), "{text}");
    }

    let short = bzimage(setup_header {
        cmdline_size: 255,
        ..header()
    });
    let guest = Guest::new(64 << 20);
    guest.load_with(&short, None, &"x".repeat(255)).unwrap();
    let text = refusal(guest.load_with(&short, None, &"x".repeat(256)));
    assert!(text.contains("takes at most 255"), "{text}");
}

#[test]
fn a_guest_without_ram_above_1_mib_is_refused() {
    for size in [0, 1 << 20] {
        let ram = ram_ranges(size);
        let guest = Guest {
            ram,
            ..Guest::new(16 << 20)
        };
        let text = refusal(guest.load(&Elf::small().bytes()));
        assert!(text.contains("at least 16 MiB"), "{text}");
    }
}

/// Whatever an image says, what lies below 1 MiB stays what the loader wrote.
fn boot_area_is_intact(guest: &Guest, entry: &Entry) {
    let descriptor: u64 = guest
        .memory
        .read_obj(GuestAddress(entry.registers().gdt.base))
        .unwrap();
    assert_eq!(descriptor, 0);
    assert_eq!(guest.bytes(boot::RSDP, 4096), [0xac; 4096]);
    let rip = entry.registers().general.rip;
    assert!(
        (boot::HIGH_MEMORY_START..64 << 20).contains(&rip),
        "{rip:#x}"
    );
}

fn try_image(image: &[u8]) {
    let guest = Guest::new(64 << 20);
    guest
        .memory
        .write_slice(&[0xac; 4096], GuestAddress(boot::RSDP))
        .unwrap();
    match guest.load(image) {
        Ok(entry) => boot_area_is_intact(&guest, &entry),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// Some bytes of `image` replaced, biased to the headers and to extreme values.
fn mutated(image: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()];
    let header = image.len().min(0x300);
    let edits = prop::collection::vec((0..header, 1usize..9, byte), 1..6);
    (Just(image), edits).prop_map(|(mut image, edits)| {
        for (at, len, byte) in edits {
            let end = (at + len).min(image.len());
            image[at..end].fill(byte);
        }
        image
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        try_image(&bytes);
        try_image(&[b"\x7fELF\x02\x01\x01".as_slice(), &bytes].concat());
        let mut bzimage = bytes;
        bzimage.resize(2048, 0);
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        try_image(&bzimage);
    }

    #[test]
    fn a_mutated_elf_never_panics_nor_leaves_its_place(image in mutated(
        Elf::small().segment(LOAD + 0x4000, &[1; 64], 128).pvh(LOAD).bytes()
    )) {
        try_image(&image);
    }

    #[test]
    fn a_mutated_bzimage_never_panics_nor_leaves_its_place(image in mutated(bzimage(header()))) {
        try_image(&image);
    }
}
