//! The structures of the PVH entry (Xen `public/arch-x86/hvm/start_info.h`, version 1).

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestAddress;

use super::error::BootError;
use super::initrd::Initrd;
use super::memory_map::MapEntry;
use crate::memory::GuestMemory;
use crate::memory::layout::boot;

/// Version of the structure that carries a memory map.
const VERSION: u32 = 1;

/// Writes start info, memory map and module list.
pub(super) fn write(
    memory: &GuestMemory,
    map: &[MapEntry],
    initrd: Option<Initrd>,
    rsdp: Option<u64>,
) -> Result<(), BootError> {
    let entries: Vec<_> = map
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.len,
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .iter()
        .map(|initrd| hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.len,
            ..Default::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() {
            0
        } else {
            boot::PVH_MODULES
        },
        cmdline_paddr: boot::CMDLINE,
        rsdp_paddr: rsdp.unwrap_or(0),
        memmap_paddr: boot::PVH_MEMORY_MAP,
        memmap_entries: entries.len() as u32,
        ..Default::default()
    };

    let mut params = BootParams::new(&info, GuestAddress(boot::PVH_START_INFO));
    params.set_sections(&entries, GuestAddress(boot::PVH_MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(boot::PVH_MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(BootError::Structures)
}
