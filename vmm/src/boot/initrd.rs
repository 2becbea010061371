//! Places the initial RAM disk: as high as the kernel allows, so that it is out of the way of
//! whatever the kernel unpacks behind itself.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::error::{BootError, Part};
use super::{Kernel, LowRam, image};
use crate::memory::GuestMemory;
use crate::memory::layout::PAGE_SIZE;

/// Where the initrd lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    /// First guest physical address, page aligned.
    pub(super) start: u64,
    /// Length, bytes.
    pub(super) len: u64,
}

/// Copies the initrd above the kernel.
pub(super) fn load(
    memory: &GuestMemory,
    low: LowRam,
    kernel: &Kernel,
    file: &mut File,
) -> Result<Initrd, BootError> {
    let part = Part::Initrd;
    let read = |source| BootError::Read { part, source };
    image::check_regular(part, file)?;
    let len = file.seek(SeekFrom::End(0)).map_err(read)?;
    if len == 0 {
        return Err(BootError::Empty { part });
    }
    let limit = low.end.min(kernel.initrd_max.saturating_add(1));
    let initrd = place(len, kernel.end, limit).ok_or(BootError::InitrdTooLarge {
        len,
        available: limit.saturating_sub(kernel.end),
        limit,
    })?;
    file.rewind().map_err(read)?;
    let too_large = BootError::InitrdTooLarge {
        len,
        available: limit,
        limit,
    };
    memory
        .read_exact_volatile_from(
            GuestAddress(initrd.start),
            file,
            usize::try_from(len).map_err(|_| too_large)?,
        )
        .map_err(|source| BootError::Copy {
            part,
            address: initrd.start,
            source,
        })?;
    Ok(initrd)
}

/// The highest page-aligned place for `len` bytes in `[floor, limit)`.
fn place(len: u64, floor: u64, limit: u64) -> Option<Initrd> {
    let start = limit.checked_sub(len)? & !(PAGE_SIZE - 1);
    (start >= floor).then_some(Initrd { start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initrd_lies_as_high_as_it_may_and_never_below_the_kernel() {
        let at = |len, floor, limit| place(len, floor, limit).map(|initrd| initrd.start);
        assert_eq!(at(1, 0x10_0000, 0x20_0000), Some(0x1f_f000));
        assert_eq!(at(0x1000, 0x10_0000, 0x20_0000), Some(0x1f_f000));
        assert_eq!(at(0x1001, 0x10_0000, 0x20_0000), Some(0x1f_e000));
        assert_eq!(at(0x10_0000, 0x10_0000, 0x20_0000), Some(0x10_0000));
        assert_eq!(at(0x10_0001, 0x10_0000, 0x20_0000), None);
        assert_eq!(at(u64::MAX, 0x10_0000, 0x20_0000), None);
        assert_eq!(at(1, 0x10_0000, 0), None);
    }
}
