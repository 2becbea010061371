//! Loads an ELF kernel: checks every header first, then lets the loader library copy.
//!
//! Segments go to their physical addresses (`p_paddr`). The entry is the Xen PVH note's if there is
//! one, else `e_entry`, which for `vmlinux` is the physical address of the 64-bit entry.

use std::io::SeekFrom;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, Elf64_Ehdr, Elf64_Phdr, PT_INTERP,
    PT_LOAD, PT_NOTE,
};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::error::{BootError, Part};
use super::image::{Found, Image};
use super::{Kernel, KernelStart, LowRam};
use crate::memory::GuestMemory;
use crate::memory::layout::boot;

/// More program headers than any kernel has (Linux: 4 or 5).
const MAX_PROGRAM_HEADERS: u16 = 64;
/// More note bytes than any kernel has (Linux: about 500).
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// The note that carries the PVH entry (Xen `public/elfnote.h`, `XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u32 = 18;
/// Zeroes are written in pieces of this many bytes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Loads the ELF of `len` bytes.
pub(super) fn load<F: Image>(
    memory: &GuestMemory,
    low: LowRam,
    image: &mut F,
    len: u64,
) -> Result<Kernel, BootError> {
    let header: Elf64_Ehdr = read_at(image, 0, len)?;
    check_identity(&header)?;
    let headers = program_headers(image, &header, len)?;
    let segments = segments(&headers, low, len)?;
    let start = match pvh_entry(image, &headers)? {
        Some(rip) => KernelStart::Pvh { rip },
        None => KernelStart::Linux64 {
            rip: header.e_entry,
        },
    };
    let entry = match start {
        KernelStart::Pvh { rip } => u64::from(rip),
        KernelStart::Linux64 { rip } => rip,
    };
    if !segments.iter().any(|segment| segment.has_code_at(entry)) {
        return Err(BootError::EntryOutsideImage { entry });
    }

    // The library also answers where it found a PVH note, but only for the last PT_NOTE: linkers
    // put notes of different alignment into several.
    Elf::load(memory, None, image, None).map_err(BootError::Loader)?;
    for segment in &segments {
        segment.zero_rest(memory)?;
    }
    Ok(Kernel {
        end: segments.last().map_or(0, |segment| segment.end),
        start,
        header: None,
        cmdline_max: boot::CMDLINE_MAX - 1,
        initrd_max: low.end - 1,
    })
}

/// A `PT_LOAD` whose every address was checked.
struct Segment {
    start: u64,
    /// End of the bytes that the file holds.
    file_end: u64,
    end: u64,
}

impl Segment {
    fn has_code_at(&self, address: u64) -> bool {
        (self.start..self.file_end).contains(&address)
    }

    /// Zeroes what the file does not hold (ELF, "Program Header", `p_memsz`).
    fn zero_rest(&self, memory: &GuestMemory) -> Result<(), BootError> {
        let mut address = self.file_end;
        while address < self.end {
            let piece = (self.end - address).min(ZEROES.len() as u64);
            memory
                .write_slice(&ZEROES[..piece as usize], GuestAddress(address))
                .map_err(|source| BootError::Copy {
                    part: Part::Kernel,
                    address,
                    source,
                })?;
            address += piece;
        }
        Ok(())
    }
}

fn check_identity(header: &Elf64_Ehdr) -> Result<(), BootError> {
    let foreign = |found| Err(BootError::NotAKernel { found });
    if header.e_ident[EI_DATA] != ELFDATA2LSB {
        return foreign(Found::Foreign("a big-endian ELF"));
    }
    if header.e_ident[EI_CLASS] != ELFCLASS64 {
        return foreign(Found::Foreign("a 32-bit ELF"));
    }
    if header.e_machine != EM_X86_64 {
        return foreign(Found::ForeignElf(header.e_machine));
    }
    Ok(())
}

fn program_headers<F: Image>(
    image: &mut F,
    header: &Elf64_Ehdr,
    len: u64,
) -> Result<Vec<Elf64_Phdr>, BootError> {
    let invalid = |problem| Err(BootError::InvalidElf { problem });
    if header.e_phnum == 0 {
        return invalid("it has no program headers, so nothing to load");
    }
    if header.e_phnum > MAX_PROGRAM_HEADERS {
        return invalid("it has more than 64 program headers");
    }
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
        return invalid("its program headers have an unknown size");
    }
    if header.e_phoff < size_of::<Elf64_Ehdr>() as u64 {
        return invalid("its program headers overlap the ELF header");
    }
    let headers = (0..u64::from(header.e_phnum))
        .map(|index| {
            let offset = index * size_of::<Elf64_Phdr>() as u64;
            read_at(image, header.e_phoff.saturating_add(offset), len)
        })
        .collect::<Result<Vec<Elf64_Phdr>, _>>()?;
    if headers.iter().any(|header| header.p_type == PT_INTERP) {
        return Err(BootError::NotAKernel {
            found: Found::Program,
        });
    }
    Ok(headers)
}

/// The `PT_LOAD`s, sorted by address.
fn segments(headers: &[Elf64_Phdr], low: LowRam, len: u64) -> Result<Vec<Segment>, BootError> {
    let mut segments = Vec::new();
    for header in headers {
        let is_load = header.p_type == PT_LOAD && (header.p_filesz > 0 || header.p_memsz > 0);
        if is_load || header.p_type == PT_NOTE {
            in_file(header.p_offset, header.p_filesz, len)?;
        }
        if !is_load {
            continue;
        }
        if header.p_filesz > header.p_memsz {
            return Err(BootError::InvalidElf {
                problem: "a segment is larger in the file than in memory",
            });
        }
        let outside = BootError::SegmentOutsideRam {
            start: header.p_paddr,
            len: header.p_memsz,
            ram_end: low.end,
        };
        match header.p_paddr.checked_add(header.p_memsz) {
            Some(end) if low.holds(header.p_paddr, end) => segments.push(Segment {
                start: header.p_paddr,
                file_end: header.p_paddr + header.p_filesz,
                end,
            }),
            _ => return Err(outside),
        }
    }
    segments.sort_by_key(|segment| segment.start);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(BootError::SegmentsOverlap {
            first: pair[0].start,
            second: pair[1].start,
        });
    }
    if segments.is_empty() {
        return Err(BootError::InvalidElf {
            problem: "it has no segments to load",
        });
    }
    Ok(segments)
}

/// The address in the first PVH note of any note segment.
fn pvh_entry<F: Image>(image: &mut F, headers: &[Elf64_Phdr]) -> Result<Option<u32>, BootError> {
    for header in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        if header.p_filesz > MAX_NOTE_BYTES {
            return Err(BootError::InvalidElf {
                problem: "its notes are larger than 64 KiB",
            });
        }
        let mut notes = vec![0; header.p_filesz as usize];
        read_exact_at(image, header.p_offset, &mut notes)?;
        if let Some(entry) = pvh_note(&notes)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks notes (ELF, "Note Section"): three words, then name and descriptor, each padded to 4.
fn pvh_note(mut notes: &[u8]) -> Result<Option<u32>, BootError> {
    while let Some((header, rest)) = notes.split_first_chunk::<12>() {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (name_len, desc_len, kind) = (word(0) as usize, word(4) as usize, word(8));
        let Some((name, rest)) = split_padded(rest, name_len) else {
            break;
        };
        let Some((desc, rest)) = split_padded(rest, desc_len) else {
            break;
        };
        if kind == PHYS32_ENTRY && name == b"Xen\0" {
            // Four bytes suffice, but 64-bit kernels store eight.
            return match desc {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => {
                    Ok(Some(u32::from_le_bytes([*a, *b, *c, *d])))
                }
                _ => Err(BootError::InvalidElf {
                    problem: "its PVH note does not hold a 32-bit address",
                }),
            };
        }
        notes = rest;
    }
    Ok(None)
}

/// The first `len` bytes, and what follows them after padding to a multiple of 4.
fn split_padded(bytes: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let field = bytes.get(..len)?;
    let padded = len.checked_next_multiple_of(4)?.min(bytes.len());
    Some((field, &bytes[padded..]))
}

/// Checks that `[offset, offset + count)` is inside a file of `len` bytes.
fn in_file(offset: u64, count: u64, len: u64) -> Result<(), BootError> {
    let needed = offset.saturating_add(count);
    if needed > len {
        return Err(BootError::Truncated { needed, len });
    }
    Ok(())
}

fn read_at<F: Image, T: ByteValued + Default>(
    image: &mut F,
    offset: u64,
    len: u64,
) -> Result<T, BootError> {
    let mut value = T::default();
    in_file(offset, size_of::<T>() as u64, len)?;
    read_exact_at(image, offset, value.as_mut_slice())?;
    Ok(value)
}

fn read_exact_at<F: Image>(image: &mut F, offset: u64, bytes: &mut [u8]) -> Result<(), BootError> {
    image
        .seek(SeekFrom::Start(offset))
        .and_then(|_| image.read_exact(bytes))
        .map_err(|source| BootError::Read {
            part: Part::Kernel,
            source,
        })
}
