//! Loads a bzImage and enters it in 64-bit mode (Linux x86 boot protocol, "64-bit Boot Protocol").

use std::io::SeekFrom;

use linux_loader::bootparam::{XLF_KERNEL_64, setup_header};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{ByteValued, GuestAddress};

use super::error::{BootError, Part};
use super::image::Image;
use super::{Kernel, KernelStart, LowRam};
use crate::memory::GuestMemory;
use crate::memory::layout::boot;

/// File offset of the setup header.
const HEADER_OFFSET: u64 = 0x1f1;
/// The header ends this far behind the jump instruction's displacement byte at 0x201.
const HEADER_END_BASE: usize = 0x202;
/// First protocol with `xloadflags`, which says whether there is a 64-bit entry.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// `loadflags`: the protected-mode code loads at 1 MiB, not below.
const LOADED_HIGH: u8 = 1;
/// The 64-bit entry, counted from where the protected-mode code is loaded.
const ENTRY_64: u64 = 0x200;
/// Setup sectors when the header says none.
const DEFAULT_SETUP_SECTORS: u64 = 4;

/// Loads the bzImage of `len` bytes.
pub(super) fn load<F: Image>(
    memory: &GuestMemory,
    low: LowRam,
    image: &mut F,
    len: u64,
) -> Result<Kernel, BootError> {
    let header = read_header(image, len)?;
    let code = code_len(&header, len)?;
    let start = load_address(&header)?;
    // The kernel unpacks itself inside `init_size` bytes from where it was loaded.
    let end = start.saturating_add(code.max(u64::from(header.init_size)));
    if !low.holds(start, end) {
        return Err(BootError::KernelTooLarge {
            start,
            end,
            ram_end: low.end,
        });
    }
    let loaded =
        BzImage::load(memory, Some(GuestAddress(start)), image, None).map_err(BootError::Loader)?;
    Ok(Kernel {
        end,
        start: KernelStart::Linux64 {
            rip: loaded.kernel_load.0 + ENTRY_64,
        },
        header: Some(setup_header {
            code32_start: start as u32,
            ..header
        }),
        cmdline_max: (header.cmdline_size as usize).min(boot::CMDLINE_MAX - 1),
        initrd_max: u64::from(header.initrd_addr_max),
    })
}

/// Reads as much of the header as this kernel's protocol has and zeroes the rest, as the protocol
/// asks: later fields would otherwise be read from code.
fn read_header<F: Image>(image: &mut F, len: u64) -> Result<setup_header, BootError> {
    let needed = HEADER_OFFSET + size_of::<setup_header>() as u64;
    if len < needed {
        return Err(BootError::Truncated { needed, len });
    }
    let mut header = setup_header::default();
    image
        .seek(SeekFrom::Start(HEADER_OFFSET))
        .and_then(|_| image.read_exact(header.as_mut_slice()))
        .map_err(|source| BootError::Read {
            part: Part::Kernel,
            source,
        })?;
    let displacement = usize::from(header.jump.to_le_bytes()[1]);
    let used = HEADER_END_BASE + displacement - HEADER_OFFSET as usize;
    if let Some(beyond) = header.as_mut_slice().get_mut(used..) {
        beyond.fill(0);
    }

    let version = header.version;
    if version < OLDEST_PROTOCOL {
        return Err(BootError::BzImageTooOld { version });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::ZImage);
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::BzImage32Bit);
    }
    Ok(header)
}

/// Length of the protected-mode code, checked against what the header says it should be.
fn code_len(header: &setup_header, len: u64) -> Result<u64, BootError> {
    let sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let needed = setup + u64::from(header.syssize) * 16;
    let code = len.saturating_sub(setup);
    if len < needed || code <= ENTRY_64 {
        return Err(BootError::Truncated {
            needed: needed.max(setup + ENTRY_64 + 1),
            len,
        });
    }
    Ok(code)
}

/// Where the protected-mode code goes: where the kernel prefers to run, which saves it from moving
/// itself. Lower would not need less memory, since it would still unpack itself there.
fn load_address(header: &setup_header) -> Result<u64, BootError> {
    let alignment = u64::from(header.kernel_alignment);
    let preferred = header.pref_address.max(boot::HIGH_MEMORY_START);
    if header.relocatable_kernel == 0 {
        return if preferred == header.pref_address {
            Ok(preferred)
        } else {
            Err(BootError::InvalidBzImage {
                problem: "it cannot be relocated and wants to run below 1 MiB",
            })
        };
    }
    if !alignment.is_power_of_two() {
        return Err(BootError::InvalidBzImage {
            problem: "its alignment is not a power of two",
        });
    }
    preferred
        .checked_next_multiple_of(alignment)
        .ok_or(BootError::InvalidBzImage {
            problem: "its preferred address lies at the end of the address space",
        })
}
