//! Puts a kernel into guest memory and says how the first vCPU starts it.
//!
//! ```text
//! image ──sniff──> ELF with a PVH note ──> 32-bit protected mode, ebx = hvm_start_info
//!                  ELF without it ───────> 64-bit long mode, rsi = boot_params
//!                  bzImage ──────────────> 64-bit long mode at load + 0x200, rsi = boot_params
//! ```
//!
//! [`load`] writes the kernel, its initrd, command line and boot structures, and answers with an
//! [`Entry`]: plain data that the vCPU module turns into registers. Nothing here talks to KVM.
//!
//! What it refuses: everything an image could use to be placed where it does not belong. A kernel
//! lies wholly in low RAM at or above 1 MiB, so it can cover neither the boot structures of
//! [`crate::memory::layout::boot`] nor the ACPI tables nor a device's window; it is entered only at
//! an address that came out of the image. Images, initrds and command lines are untrusted: each
//! fault is a [`BootError`] with cause and fix, never a panic. Work is bounded by the size of
//! the image and of the guest's memory.

use std::fs::File;
use std::io::{Cursor, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use crate::memory::layout::{RamRange, boot};

pub mod acpi;
mod bzimage;
mod cmdline;
mod elf;
mod entry;
mod error;
mod image;
mod initrd;
mod linux64;
mod memory_map;
mod pvh;
mod reset_vector;
#[cfg(test)]
mod tests;

pub use cmdline::Cmdline;
pub use entry::{BootRegisters, DescriptorTable, Entry, GeneralRegisters, Segment};
pub use error::{BootError, Part};
pub use image::{Found, KernelSource, open_initrd, open_kernel};
pub use memory_map::{MapEntry, MapKind, memory_map};

use image::{Format, Image};

/// Puts `kernel`, `initrd` and `cmdline` into `memory` and says how vCPU 0 starts.
///
/// `ram` is what [`crate::memory::layout::ram_ranges`] answered for this guest; the memory map that
/// the kernel sees follows from it. `rsdp` is what the builder of the ACPI tables returned. What an
/// ELF asks to be zero is zeroed, so memory that an earlier boot used may be loaded into again.
///
/// # Errors
/// [`BootError`]; memory may then hold parts of the image.
pub fn load(
    memory: &GuestMemory,
    ram: &[RamRange],
    kernel: KernelSource<'_>,
    initrd: Option<&mut File>,
    cmdline: &Cmdline,
    rsdp: Option<u64>,
) -> Result<Entry, BootError> {
    let low = LowRam::new(ram)?;
    let kernel = match kernel {
        KernelSource::File(file) => {
            image::check_regular(Part::Kernel, file)?;
            load_kernel(memory, low, file)?
        }
        KernelSource::Bytes(bytes) => load_kernel(memory, low, &mut Cursor::new(bytes))?,
    };
    cmdline.write(memory, kernel.cmdline_max)?;
    let initrd = initrd
        .map(|file| initrd::load(memory, low, &kernel, file))
        .transpose()?;
    let map = memory_map(ram);
    let entry = match kernel.start {
        KernelStart::Pvh { rip } => {
            pvh::write(memory, &map, initrd, rsdp)?;
            Entry::Pvh {
                rip,
                start_info: boot::PVH_START_INFO,
            }
        }
        KernelStart::Linux64 { rip } => {
            linux64::write(memory, &map, &kernel, initrd, cmdline, rsdp)?;
            Entry::Linux64 {
                rip,
                zero_page: boot::ZERO_PAGE,
            }
        }
    };
    entry.write_gdt(memory)?;
    reset_vector::write(memory)?;
    Ok(entry)
}

/// Finds out what the image is and loads it by its own rules.
fn load_kernel<F: Image>(
    memory: &GuestMemory,
    low: LowRam,
    image: &mut F,
) -> Result<Kernel, BootError> {
    let len = image
        .seek(SeekFrom::End(0))
        .map_err(|source| BootError::Read {
            part: Part::Kernel,
            source,
        })?;
    match Format::of(image, len)? {
        Format::Elf => elf::load(memory, low, image, len),
        Format::BzImage => bzimage::load(memory, low, image, len),
    }
}

/// A kernel that lies in guest memory.
struct Kernel {
    /// First address after everything the kernel occupies before it reads the memory map.
    end: u64,
    /// Where and in which mode it is entered.
    start: KernelStart,
    /// The setup header of a bzImage; an ELF has none.
    header: Option<linux_loader::loader::bootparam::setup_header>,
    /// Longest command line that the kernel takes, bytes, without the terminating zero.
    cmdline_max: usize,
    /// Highest address that a byte of the initrd may have.
    initrd_max: u64,
}

/// Where and in which mode a kernel is entered.
enum KernelStart {
    Pvh { rip: u32 },
    Linux64 { rip: u64 },
}

/// RAM in which a kernel and its initrd may lie: from 1 MiB to the end of low RAM.
#[derive(Clone, Copy)]
struct LowRam {
    end: u64,
}

impl LowRam {
    /// The low part of `ram`.
    fn new(ram: &[RamRange]) -> Result<Self, BootError> {
        let end = ram
            .iter()
            .find(|range| range.start == 0)
            .map_or(0, |range| range.len);
        if end <= boot::HIGH_MEMORY_START {
            return Err(BootError::NoRam { end });
        }
        Ok(Self { end })
    }

    /// Whether `[start, end)` lies inside.
    fn holds(self, start: u64, end: u64) -> bool {
        start >= boot::HIGH_MEMORY_START && start <= end && end <= self.end
    }
}

/// Writes a boot structure where the layout says; fails only when the guest has no RAM there.
fn write_structure(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootError::Write { address, source })
}
