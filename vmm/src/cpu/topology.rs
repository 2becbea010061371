//! One package of single-threaded cores, in every leaf that tells a topology. APIC ids count from 0
//! in the order of the vCPUs.

use super::features::{CMP_LEGACY, HTT};
use super::table::{Register, Table, leaf};

/// A cache entry's type field in leaf 4 and 0x8000_001d; 0 ends the list.
const CACHE_TYPE: u32 = 0x1f;
/// Level of a cache that all cores share; lower levels belong to one core.
const SHARED_CACHE_LEVEL: u32 = 3;
/// Leaf 0xb and 0x1f, ECX: type of a level.
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Writes everything that is the same for all of `vcpus` vCPUs.
pub(super) fn write(table: &mut Table, is_amd_like: bool, vcpus: u32) {
    write_package(table, vcpus);
    write_intel_caches(table, vcpus);
    for leaf in [leaf::TOPOLOGY, leaf::TOPOLOGY_V2] {
        if table.value(leaf::BASIC, 0, Register::Eax) >= leaf {
            write_levels(table, leaf, vcpus);
        }
    }
    if is_amd_like {
        write_amd(table, vcpus);
    }
}

/// Writes what differs between vCPUs: the APIC id.
pub(super) fn set_apic_id(table: &mut Table, is_amd_like: bool, id: u32) {
    if let Some(entry) = table.get_mut(leaf::FEATURES, 0) {
        // Eight bits; larger ids are told by leaf 0xb only.
        entry.ebx = entry.ebx & 0x00ff_ffff | id.min(0xff) << 24;
    }
    for leaf in [leaf::TOPOLOGY, leaf::TOPOLOGY_V2] {
        table.leaf_mut(leaf).for_each(|entry| entry.edx = id);
    }
    if let Some(entry) = table.get_mut(leaf::AMD_TOPOLOGY, 0)
        && is_amd_like
    {
        entry.eax = id;
        entry.ebx = id & 0xff;
    }
}

/// Leaf 1: how many ids the package has, and whether that is more than one.
fn write_package(table: &mut Table, vcpus: u32) {
    if let Some(entry) = table.get_mut(leaf::FEATURES, 0) {
        let ids = addressable(vcpus).min(0xff);
        entry.ebx = entry.ebx & 0xff00_ffff | ids << 16;
        entry.edx = entry.edx & !HTT | if vcpus > 1 { HTT } else { 0 };
    }
}

/// Leaf 4: how many ids share each cache, and how many cores the package has.
fn write_intel_caches(table: &mut Table, vcpus: u32) {
    let cores = addressable(vcpus).min(64) - 1;
    for entry in table.leaf_mut(leaf::CACHES) {
        if entry.eax & CACHE_TYPE != 0 {
            let sharing = sharing(entry.eax, addressable(vcpus).min(4096));
            entry.eax = entry.eax & 0x0000_3fff | (sharing - 1) << 14 | cores << 26;
        }
    }
}

/// Leaves 0xb and 0x1f: one thread per core, the cores, and the end of the list.
fn write_levels(table: &mut Table, leaf: u32, vcpus: u32) {
    table.retain(|entry| entry.function != leaf);
    table.set_subleaf(leaf, 0, [0, 1, LEVEL_SMT, 0]);
    table.set_subleaf(leaf, 1, [id_bits(vcpus), vcpus, 1 | LEVEL_CORE, 0]);
    table.set_subleaf(leaf, 2, [0, 0, 2, 0]);
}

/// AMD's leaves (APM vol. 3, E.4): core count, cache sharing, node.
fn write_amd(table: &mut Table, vcpus: u32) {
    if let Some(entry) = table.get_mut(leaf::EXTENDED_FEATURES, 0) {
        entry.ecx = entry.ecx & !CMP_LEGACY | if vcpus > 1 { CMP_LEGACY } else { 0 };
    }
    if let Some(entry) = table.get_mut(leaf::ADDRESS_SIZES, 0) {
        let cores = vcpus.min(256) - 1;
        entry.ecx = entry.ecx & !0xf0ff | id_bits(vcpus).min(0xf) << 12 | cores;
    }
    for entry in table.leaf_mut(leaf::AMD_CACHES) {
        if entry.eax & CACHE_TYPE != 0 {
            let sharing = sharing(entry.eax, vcpus.min(4096));
            entry.eax = entry.eax & 0x0000_3fff | (sharing - 1) << 14;
        }
    }
    if let Some(entry) = table.get_mut(leaf::AMD_TOPOLOGY, 0) {
        // One thread per core, one node, which is node 0.
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
    }
}

/// How many ids share the cache that `eax` describes, when `all` are in the package.
fn sharing(eax: u32, all: u32) -> u32 {
    if eax >> 5 & 0b111 >= SHARED_CACHE_LEVEL {
        all
    } else {
        1
    }
}

/// How many APIC ids the package sets aside: a power of two.
fn addressable(vcpus: u32) -> u32 {
    vcpus.next_power_of_two()
}

/// How many bits number the cores.
fn id_bits(vcpus: u32) -> u32 {
    addressable(vcpus).trailing_zeros()
}
