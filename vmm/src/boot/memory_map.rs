//! The memory map that a kernel is told, in both boot protocols' common terms.

use crate::memory::layout::{
    self, KVM_IDENTITY_MAP, KVM_TSS, PAGE_SIZE, PCI_ECAM_SIZE, PCI_ECAM_START, RamRange,
};

/// What a range of the map is. The numbers are those of E820 and of Xen's PVH map alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// The kernel may use it.
    Ram = 1,
    /// Nobody may use it for anything else.
    Reserved = 2,
    /// Holds ACPI tables.
    Acpi = 3,
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First guest physical address.
    pub start: u64,
    /// Length, bytes.
    pub len: u64,
    /// What it is.
    pub kind: MapKind,
}

impl MapEntry {
    fn new(start: u64, end: u64, kind: MapKind) -> Self {
        Self {
            start,
            len: end.saturating_sub(start),
            kind,
        }
    }
}

/// The map for a guest whose RAM is `ram`, sorted, without overlaps.
///
/// RAM between 640 KiB and 1 MiB is not reported as such: the ACPI tables are there, and kernels
/// expect a PC's video and BIOS areas.
pub fn memory_map(ram: &[RamRange]) -> Vec<MapEntry> {
    use layout::boot::{ACPI_END, HIGH_MEMORY_START, LOW_MEMORY_END, RSDP};

    let mut map = vec![
        MapEntry::new(0, LOW_MEMORY_END, MapKind::Ram),
        MapEntry::new(LOW_MEMORY_END, 0xa_0000, MapKind::Reserved),
        MapEntry::new(RSDP, ACPI_END, MapKind::Acpi),
        MapEntry::new(ACPI_END, HIGH_MEMORY_START, MapKind::Reserved),
        MapEntry::new(
            PCI_ECAM_START,
            PCI_ECAM_START + PCI_ECAM_SIZE,
            MapKind::Reserved,
        ),
        MapEntry::new(KVM_IDENTITY_MAP, KVM_TSS + 3 * PAGE_SIZE, MapKind::Reserved),
    ];
    map.extend(ram.iter().map(|range| {
        MapEntry::new(
            range.start.max(HIGH_MEMORY_START),
            range.start.saturating_add(range.len),
            MapKind::Ram,
        )
    }));
    map.retain(|entry| entry.len > 0);
    map.sort_by_key(|entry| entry.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::ram_ranges;

    #[test]
    fn the_map_reports_all_ram_but_the_legacy_hole_and_never_overlaps() {
        for size in [16 << 20, 64 << 20, 3 << 30, 4 << 30, 1u64 << 40] {
            let map = memory_map(&ram_ranges(size));
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].len <= pair[1].start, "{map:x?}");
            }
            let ram: u64 = map
                .iter()
                .filter(|entry| entry.kind == MapKind::Ram)
                .map(|entry| entry.len)
                .sum();
            let hole = layout::boot::HIGH_MEMORY_START - layout::boot::LOW_MEMORY_END;
            assert_eq!(ram, size - hole);
        }
    }

    #[test]
    fn the_configuration_space_and_the_acpi_tables_are_kept_from_the_kernel() {
        let map = memory_map(&ram_ranges(64 << 20));
        let kind_at = |address: u64| {
            map.iter()
                .find(|entry| (entry.start..entry.start + entry.len).contains(&address))
                .map(|entry| entry.kind)
        };
        assert_eq!(kind_at(PCI_ECAM_START), Some(MapKind::Reserved));
        assert_eq!(
            kind_at(PCI_ECAM_START + PCI_ECAM_SIZE - 1),
            Some(MapKind::Reserved)
        );
        assert_eq!(kind_at(layout::boot::RSDP), Some(MapKind::Acpi));
        assert_eq!(kind_at(layout::boot::RESET_VECTOR), Some(MapKind::Reserved));
        assert_eq!(kind_at(layout::boot::HIGH_MEMORY_START), Some(MapKind::Ram));
        assert_eq!(kind_at(0xb_8000), None);
        assert_eq!(kind_at(64 << 20), None);
    }
}
