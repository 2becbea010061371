//! The tables that a guest's vCPUs answer CPUID from.

use godwit_proto::state::vcpu::CpuidEntry;

use super::CpuError;
use super::baseline::Baseline;
use super::features::{AMD_REPEATED, HYPERVISOR, INVARIANT_TSC, OSPKE, OSXSAVE, SVM, VMX, WORDS};
use super::host::HostCpu;
use super::table::{Register, Table, leaf};
use super::vendor::Vendor;
use super::{topology, xstate};

/// Most vCPUs that leaf 0xb can count (EBX has 16 bits).
pub const MAX_VCPUS: u32 = 0xffff;
/// Length of the brand string, bytes, its terminating zero included.
const BRAND_LEN: usize = 48;
/// Linear address bits without and with five-level paging.
const LINEAR_BITS: [u32; 2] = [48, 57];

/// What of a host a baseline's table keeps as it is: identity, caches, the hypervisor's name.
const KEPT: &[u32] = &[
    leaf::BASIC,
    leaf::CACHE_DESCRIPTORS,
    leaf::CACHES,
    leaf::KVM,
    leaf::EXTENDED,
    leaf::AMD_L1,
    leaf::AMD_L2_L3,
    leaf::AMD_CACHES,
    leaf::AMD_TOPOLOGY,
];

/// What a guest is shown only when asked for, since it hinders moving the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Virtualization inside the guest; only with the host's own profile.
    pub nested: bool,
    /// A TSC that is promised to keep its rate: true only while the guest stays on hosts of one
    /// frequency or with TSC scaling.
    pub invariant_tsc: bool,
}

/// The CPUID tables of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestCpu {
    table: Table,
    is_amd_like: bool,
    vcpus: u32,
}

impl GuestCpu {
    /// Adds the topology to `table`.
    pub(super) fn new(mut table: Table, vcpus: u32) -> Self {
        let is_amd_like = Vendor::of(&table).is_ok_and(Vendor::is_amd_like);
        topology::write(&mut table, is_amd_like, vcpus);
        Self {
            table,
            is_amd_like,
            vcpus,
        }
    }

    /// How many vCPUs the tables are for.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// What to give to `KVM_SET_CPUID2` of vCPU `index`, whose APIC id is `index`.
    pub fn for_vcpu(&self, index: u32) -> Vec<CpuidEntry> {
        let mut table = self.table.clone();
        topology::set_apic_id(&mut table, self.is_amd_like, index);
        table.entries()
    }
}

/// The host's own table, without what would tie the guest to it.
pub(super) fn show_host(host: &HostCpu, options: Options) -> Result<Table, CpuError> {
    let mut table = host.table().clone();
    let features = table
        .get_mut(leaf::FEATURES, 0)
        .ok_or(CpuError::NoLeaf { leaf: 1 })?;
    features.ecx = features.ecx & !OSXSAVE | HYPERVISOR;
    if !options.nested {
        features.ecx &= !VMX;
        if let Some(entry) = table.get_mut(leaf::EXTENDED_FEATURES, 0) {
            entry.ecx &= !SVM;
        }
        table.retain(|entry| entry.function != leaf::SVM);
    }
    if let Some(entry) = table.get_mut(leaf::MORE_FEATURES, 0) {
        entry.ecx &= !OSPKE;
    }
    if let Some(entry) = table.get_mut(leaf::POWER_MANAGEMENT, 0)
        && !options.invariant_tsc
    {
        entry.edx &= !INVARIANT_TSC;
    }
    Ok(table)
}

/// A table with the features of `baseline`, which `host` has, and no others.
pub(super) fn show_baseline(
    host: &HostCpu,
    baseline: &Baseline,
    brand: String,
    options: Options,
) -> Table {
    let host = host.table();
    let mut table = host.clone();
    table.retain(|entry| KEPT.contains(&entry.function));
    for (leaf, highest) in [
        (leaf::BASIC, leaf::XSTATE),
        (leaf::KVM, leaf::KVM_FEATURES),
        (leaf::EXTENDED, leaf::AMD_FEATURES_2),
    ] {
        if let Some(entry) = table.get_mut(leaf, 0) {
            entry.eax = entry.eax.min(highest);
        }
    }
    write_features(&mut table, baseline);
    write_identity(&mut table, host, baseline);
    write_brand(&mut table, brand);
    xstate::write(&mut table, &baseline.features, &baseline.components);
    let power_management = host.value(leaf::POWER_MANAGEMENT, 0, Register::Edx);
    if options.invariant_tsc && power_management & INVARIANT_TSC != 0 {
        table.set(leaf::POWER_MANAGEMENT, [0, 0, 0, INVARIANT_TSC]);
    }
    table
}

/// Writes every feature word, and nothing else into the leaves that hold them.
fn write_features(table: &mut Table, baseline: &Baseline) {
    for word in WORDS.iter().filter(|word| word.leaf != leaf::XSTATE) {
        let bits = baseline
            .features
            .word(word.leaf, word.subleaf, word.register);
        if bits == 0 {
            continue;
        }
        if table.get(word.leaf, word.subleaf).is_none() {
            if word.leaf == leaf::MORE_FEATURES {
                table.set_subleaf(word.leaf, word.subleaf, [0; 4]);
            } else {
                table.set(word.leaf, [0; 4]);
            }
        }
        if let Some(entry) = table.get_mut(word.leaf, word.subleaf) {
            *word.register.of_mut(entry) = bits;
        }
    }
    // Leaf 7 says in its subleaf 0 how many more there are.
    let highest = (1..=2)
        .filter(|subleaf| table.get(leaf::MORE_FEATURES, *subleaf).is_some())
        .max();
    if let Some(highest) = highest {
        if table.get(leaf::MORE_FEATURES, 0).is_none() {
            table.set_subleaf(leaf::MORE_FEATURES, 0, [0; 4]);
        }
        if let Some(entry) = table.get_mut(leaf::MORE_FEATURES, 0) {
            entry.eax = highest;
        }
    }
}

/// Family, model and stepping; the size of a cache line; address widths.
fn write_identity(table: &mut Table, host: &Table, baseline: &Baseline) {
    let cache_line = host.value(leaf::FEATURES, 0, Register::Ebx) & 0xff00;
    if let Some(entry) = table.get_mut(leaf::FEATURES, 0) {
        entry.eax = baseline.signature;
        entry.ebx = cache_line;
        entry.ecx |= HYPERVISOR;
    }
    if baseline.vendor.is_amd_like() {
        let repeated = baseline.features.word(leaf::FEATURES, 0, Register::Edx) & AMD_REPEATED;
        if let Some(entry) = table.get_mut(leaf::EXTENDED_FEATURES, 0) {
            entry.eax = baseline.signature;
            entry.edx |= repeated;
        }
    }
    let linear = LINEAR_BITS[usize::from(baseline.features.has("la57"))];
    let widths = u32::from(baseline.physical_bits) | linear << 8;
    match table.get_mut(leaf::ADDRESS_SIZES, 0) {
        Some(entry) => entry.eax = widths,
        None => table.set(leaf::ADDRESS_SIZES, [widths, 0, 0, 0]),
    }
}

/// The brand string, in three leaves of 16 bytes.
fn write_brand(table: &mut Table, brand: String) {
    let mut bytes = brand.into_bytes();
    bytes.resize(BRAND_LEN, 0);
    bytes[BRAND_LEN - 1] = 0;
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    for (leaf, registers) in (leaf::BRAND..).zip(words.chunks_exact(4)) {
        table.set(
            leaf,
            [registers[0], registers[1], registers[2], registers[3]],
        );
    }
}
