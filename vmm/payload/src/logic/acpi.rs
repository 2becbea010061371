//! The few ACPI tables the guest reads (ACPI 6.5: 5.2.5 RSDP, 5.2.8 XSDT,
//! 5.2.9 FADT, 5.2.12 MADT; PCI Firmware 3.3, 4.1.2 MCFG). Each reader takes
//! the bytes of one table and trusts none of them.

/// Bytes of the header that every table but the RSDP begins with.
pub(crate) const HEADER: usize = 36;

/// Little-endian number of `N` bytes at `at`; `None` beyond the end.
fn le<const N: usize>(table: &[u8], at: usize) -> Option<u64> {
    let bytes = table.get(at..at.checked_add(N)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// Where a register is (5.2.3.2, generic address structure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Memory(u64),
    Io(u16),
}

fn register(table: &[u8], at: usize) -> Option<Register> {
    let address = le::<8>(table, at + 4)?;
    match table.get(at)? {
        _ if address == 0 => None,
        0 => Some(Register::Memory(address)),
        1 => Some(Register::Io(u16::try_from(address).ok()?)),
        _ => None,
    }
}

/// From the RSDP: address of the XSDT, or of the RSDT, and the bytes per entry.
pub(crate) fn root(rsdp: &[u8]) -> Option<(u64, usize)> {
    if rsdp.get(..8)? != b"RSD PTR " {
        return None;
    }
    match le::<8>(rsdp, 24) {
        Some(xsdt) if *rsdp.get(15)? >= 2 && xsdt != 0 => Some((xsdt, 8)),
        _ => Some((le::<4>(rsdp, 16)?, 4)),
    }
}

/// Addresses of the tables that the XSDT (8) or RSDT (4 bytes per entry) lists.
pub(crate) fn entries(table: &[u8], size: usize) -> impl Iterator<Item = u64> {
    let body = table.get(HEADER..).unwrap_or(&[]);
    body.chunks_exact(size)
        .filter_map(move |entry| le::<8>(entry, 0).or_else(|| le::<4>(entry, 0)))
}

/// What ends the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fadt {
    /// Hardware-reduced sleep control register.
    pub(crate) sleep_control: Option<Register>,
    /// PM1a control register of machines that are not hardware-reduced.
    pub(crate) pm1a_control: Option<u16>,
    /// Reset register and what to write to it.
    pub(crate) reset: Option<(Register, u8)>,
}

pub(crate) fn fadt(table: &[u8]) -> Option<Fadt> {
    const RESET_SUPPORTED: u64 = 1 << 10;
    const HARDWARE_REDUCED: u64 = 1 << 20;
    let flags = le::<4>(table, 112)?;
    let reset = match (register(table, 116), table.get(128)) {
        (Some(register), Some(value)) if flags & RESET_SUPPORTED != 0 => Some((register, *value)),
        _ => None,
    };
    let reduced = flags & HARDWARE_REDUCED != 0;
    let pm1a = le::<4>(table, 64).and_then(|port| u16::try_from(port).ok());
    Some(Fadt {
        sleep_control: if reduced { register(table, 244) } else { None },
        pm1a_control: pm1a.filter(|port| !reduced && *port != 0),
        reset,
    })
}

/// Calls `found` with the APIC id of each usable processor.
pub(crate) fn madt(table: &[u8], mut found: impl FnMut(u32)) {
    const ENABLED: u64 = 1;
    let mut rest = table.get(HEADER + 8..).unwrap_or(&[]);
    while let [kind, len, ..] = *rest {
        let len = usize::from(len);
        if len < 2 || len > rest.len() {
            return;
        }
        let entry = &rest[..len];
        let (id, flags) = match kind {
            0 => (le::<1>(entry, 3), le::<4>(entry, 4)),
            9 => (le::<4>(entry, 4), le::<4>(entry, 8)),
            _ => (None, None),
        };
        if let (Some(id), Some(flags)) = (id, flags)
            && flags & ENABLED != 0
        {
            found(id as u32);
        }
        rest = &rest[len..];
    }
}

/// The configuration space of PCI segment 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ecam {
    /// Address of bus 0.
    pub(crate) base: u64,
    /// First and last bus.
    pub(crate) buses: (u8, u8),
}

pub(crate) fn mcfg(table: &[u8]) -> Option<Ecam> {
    let entry = table.get(HEADER + 8..HEADER + 24)?;
    (le::<2>(entry, 8)? == 0).then_some(Ecam {
        base: le::<8>(entry, 0)?,
        buses: (entry[10], entry[11]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_xsdt_from_revision_two() {
        let mut rsdp = [0u8; 36];
        rsdp[..8].copy_from_slice(b"RSD PTR ");
        rsdp[16..20].copy_from_slice(&0x1234u32.to_le_bytes());
        rsdp[24..32].copy_from_slice(&0x5678u64.to_le_bytes());
        assert_eq!(root(&rsdp), Some((0x1234, 4)));
        assert_eq!(root(&rsdp[..20]), Some((0x1234, 4)));
        rsdp[15] = 2;
        assert_eq!(root(&rsdp), Some((0x5678, 8)));
        rsdp[0] = 0;
        assert_eq!(root(&rsdp), None);
    }

    #[test]
    fn the_root_table_lists_whole_entries_only() {
        let mut table = vec![0u8; HEADER];
        table.extend(0x1111_2222_3333u64.to_le_bytes());
        table.extend([1, 2, 3]);
        assert_eq!(entries(&table, 8).collect::<Vec<_>>(), [0x1111_2222_3333]);
        assert_eq!(
            entries(&table, 4).collect::<Vec<_>>(),
            [0x2222_3333, 0x1111]
        );
        assert_eq!(entries(&table[..10], 8).count(), 0);
    }

    #[test]
    fn a_reduced_machine_sleeps_by_its_control_register() {
        let mut table = vec![0u8; 268];
        table[64..68].copy_from_slice(&0x604u32.to_le_bytes());
        table[112..116].copy_from_slice(&(1u32 << 10).to_le_bytes());
        table[116] = 1;
        table[120..128].copy_from_slice(&0xcf9u64.to_le_bytes());
        table[128] = 6;
        table[248..256].copy_from_slice(&0xfe00_0000u64.to_le_bytes());
        let reset = Some((Register::Io(0xcf9), 6));
        let classic = Fadt {
            sleep_control: None,
            pm1a_control: Some(0x604),
            reset,
        };
        assert_eq!(fadt(&table), Some(classic));
        table[112..116].copy_from_slice(&(1u32 << 10 | 1 << 20).to_le_bytes());
        let reduced = Fadt {
            sleep_control: Some(Register::Memory(0xfe00_0000)),
            pm1a_control: None,
            reset,
        };
        assert_eq!(fadt(&table), Some(reduced));
        assert_eq!(fadt(&table[..100]), None);
    }

    #[test]
    fn processors_are_enabled_local_apics_of_either_kind() {
        let mut table = vec![0u8; HEADER + 8];
        table.extend([0, 8, 0, 3, 1, 0, 0, 0]);
        table.extend([0, 8, 1, 4, 0, 0, 0, 0]); // disabled
        table.extend([1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // I/O APIC
        table.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        let ids = |table: &[u8]| {
            let mut ids = Vec::new();
            madt(table, |id| ids.push(id));
            ids
        };
        assert_eq!(ids(&table), [3, 0x100]);
        for cut in 0..table.len() {
            assert!(ids(&table[..cut]).len() < 2);
        }
        table.extend([0, 0]); // an entry without length must end the walk
        assert_eq!(ids(&table).len(), 2);
    }

    #[test]
    fn configuration_space_is_that_of_segment_zero() {
        let mut table = vec![0u8; HEADER + 24];
        table[HEADER + 8..HEADER + 16].copy_from_slice(&0xe000_0000u64.to_le_bytes());
        table[HEADER + 19] = 15;
        assert_eq!(
            mcfg(&table),
            Some(Ecam {
                base: 0xe000_0000,
                buses: (0, 15)
            })
        );
        table[HEADER + 16] = 1;
        assert_eq!(mcfg(&table), None);
        assert_eq!(mcfg(&table[..HEADER + 20]), None);
    }
}
