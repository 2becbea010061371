//! Small kernels built byte by byte.

use linux_loader::bootparam::{XLF_KERNEL_64, setup_header};
use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

/// Where the segments of [`Elf::small`] lie.
pub(super) const LOAD: u64 = 0x20_0000;

/// An ELF in the making.
#[derive(Clone)]
pub(super) struct Elf {
    pub(super) header: Elf64_Ehdr,
    pub(super) programs: Vec<Elf64_Phdr>,
    /// What follows the headers.
    pub(super) body: Vec<u8>,
}

impl Elf {
    /// One segment of 4 KiB at [`LOAD`] whose bytes are 0x90, followed by 4 KiB of zeroes.
    pub(super) fn small() -> Self {
        let mut header = Elf64_Ehdr {
            e_type: 2,
            e_machine: 62,
            e_version: 1,
            e_entry: LOAD,
            e_phoff: 64,
            e_ehsize: 64,
            e_phentsize: 56,
            ..Default::default()
        };
        header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        Self {
            header,
            programs: Vec::new(),
            body: Vec::new(),
        }
        .segment(LOAD, &[0x90; 4096], 8192)
    }

    pub(super) fn segment(self, start: u64, bytes: &[u8], memory_len: u64) -> Self {
        self.program(PT_LOAD, start, bytes, memory_len)
    }

    /// A note segment with one PVH note.
    pub(super) fn pvh(self, entry: u64) -> Self {
        self.notes(&note(b"Xen\0", 18, &entry.to_le_bytes()))
    }

    pub(super) fn notes(self, notes: &[u8]) -> Self {
        self.program(PT_NOTE, 0, notes, notes.len() as u64)
    }

    fn program(mut self, kind: u32, start: u64, bytes: &[u8], memory_len: u64) -> Self {
        self.programs.push(Elf64_Phdr {
            p_type: kind,
            p_offset: self.body.len() as u64,
            p_paddr: start,
            p_vaddr: start,
            p_filesz: bytes.len() as u64,
            p_memsz: memory_len,
            ..Default::default()
        });
        self.body.extend_from_slice(bytes);
        self
    }

    /// The file. `p_offset`s count from the start of the body until here.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let header = Elf64_Ehdr {
            e_phnum: self.programs.len() as u16,
            ..self.header
        };
        let body_start = 64 + 56 * self.programs.len() as u64;
        let mut file = header.as_slice().to_vec();
        for program in &self.programs {
            let program = Elf64_Phdr {
                p_offset: program.p_offset.wrapping_add(body_start),
                ..*program
            };
            file.extend_from_slice(program.as_slice());
        }
        file.extend_from_slice(&self.body);
        file
    }
}

pub(super) fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, desc.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    for field in [name, desc] {
        note.extend_from_slice(field);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// The setup header of a kernel like Debian's.
pub(super) fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: 0x1000 / 16,
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x10_0000,
        ..Default::default()
    }
}

/// A bzImage with 4 KiB of code whose bytes are 0x90.
pub(super) fn bzimage(header: setup_header) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    file.resize(1024 + 4096, 0x90);
    file
}
