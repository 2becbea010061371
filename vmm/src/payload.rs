//! The built-in guest: a bare-metal program, booted by PVH, that exercises the
//! machine and reports on the first serial port.
//!
//! What it can be told on its command line and what its lines say is described
//! in `vmm/payload/README.md`. With an empty command line it prints a
//! `heartbeat` line every 100 ms.

/// A static x86-64 ELF with a PVH entry note, loaded at 2 MiB. Runs in 16 MiB
/// of memory or more.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.elf"));

// The guest's decisions, tested here because the guest itself has no harness.
#[cfg(test)]
#[allow(dead_code)] // the guest uses all of it
#[path = "../payload/src/logic/mod.rs"]
mod logic;

#[cfg(test)]
mod tests {
    use super::*;

    fn word(at: usize) -> u64 {
        u64::from_le_bytes(ELF[at..at + 8].try_into().expect("eight bytes"))
    }

    fn half(at: usize) -> u16 {
        u16::from_le_bytes(ELF[at..at + 2].try_into().expect("two bytes"))
    }

    fn segments() -> Vec<(u32, u64, u64, u64)> {
        let (table, size, count) = (
            word(32) as usize,
            usize::from(half(54)),
            usize::from(half(56)),
        );
        (0..count)
            .map(|index| table + index * size)
            .map(|at| (word(at) as u32, word(at + 8), word(at + 24), word(at + 40)))
            .collect()
    }

    #[test]
    fn the_image_is_a_static_elf_that_fits_the_smallest_guest() {
        assert_eq!(&ELF[..5], b"\x7fELF\x02");
        assert_eq!((half(16), half(18)), (2, 62), "ET_EXEC for x86-64");
        let loads: Vec<_> = segments().into_iter().filter(|s| s.0 == 1).collect();
        assert!(!loads.is_empty());
        for (_, _, address, size) in loads {
            assert!(address >= 2 << 20, "segment at {address:#x}");
            assert!(
                address + size <= 4 << 20,
                "segment ends at {:#x}",
                address + size
            );
        }
        assert!(
            segments().iter().all(|s| s.0 != 2 && s.0 != 3),
            "nothing dynamic"
        );
    }

    #[test]
    fn the_image_names_its_pvh_entry() {
        let note = segments()
            .into_iter()
            .find(|s| s.0 == 4)
            .expect("a note segment");
        let at = note.1 as usize;
        assert_eq!(&ELF[at..at + 16], b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0");
        assert_eq!(
            word(at + 16),
            word(24),
            "the entry by note is the entry by header"
        );
    }
}
