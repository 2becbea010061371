//! A CPUID table by leaf and subleaf.

use std::collections::BTreeMap;

use godwit_proto::state::vcpu::CpuidEntry;
use kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

/// Leaves that this module reads or writes (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
pub(super) mod leaf {
    pub(crate) const BASIC: u32 = 0;
    pub(crate) const FEATURES: u32 = 1;
    pub(crate) const CACHE_DESCRIPTORS: u32 = 2;
    pub(crate) const CACHES: u32 = 4;
    pub(crate) const POWER: u32 = 6;
    pub(crate) const MORE_FEATURES: u32 = 7;
    pub(crate) const TOPOLOGY: u32 = 0xb;
    pub(crate) const XSTATE: u32 = 0xd;
    pub(crate) const TOPOLOGY_V2: u32 = 0x1f;
    pub(crate) const KVM: u32 = 0x4000_0000;
    pub(crate) const KVM_FEATURES: u32 = 0x4000_0001;
    pub(crate) const EXTENDED: u32 = 0x8000_0000;
    pub(crate) const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub(crate) const BRAND: u32 = 0x8000_0002;
    pub(crate) const AMD_L1: u32 = 0x8000_0005;
    pub(crate) const AMD_L2_L3: u32 = 0x8000_0006;
    pub(crate) const POWER_MANAGEMENT: u32 = 0x8000_0007;
    pub(crate) const ADDRESS_SIZES: u32 = 0x8000_0008;
    pub(crate) const SVM: u32 = 0x8000_000a;
    pub(crate) const AMD_CACHES: u32 = 0x8000_001d;
    pub(crate) const AMD_TOPOLOGY: u32 = 0x8000_001e;
    pub(crate) const AMD_FEATURES_2: u32 = 0x8000_0021;
}

/// One of the four registers in which CPUID answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// This register of `entry`.
    pub(super) fn of(self, entry: &CpuidEntry) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }

    /// This register of `entry`, to be changed.
    pub(super) fn of_mut(self, entry: &mut CpuidEntry) -> &mut u32 {
        match self {
            Self::Eax => &mut entry.eax,
            Self::Ebx => &mut entry.ebx,
            Self::Ecx => &mut entry.ecx,
            Self::Edx => &mut entry.edx,
        }
    }
}

/// Entries by leaf and subleaf. Of two entries for the same question the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table(BTreeMap<(u32, u32), CpuidEntry>);

impl Table {
    pub(super) fn get(&self, leaf: u32, subleaf: u32) -> Option<&CpuidEntry> {
        self.0.get(&(leaf, subleaf))
    }

    pub(super) fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut CpuidEntry> {
        self.0.get_mut(&(leaf, subleaf))
    }

    /// A register's value; 0 where there is no entry, as the processor would answer.
    pub(super) fn value(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        self.get(leaf, subleaf)
            .map_or(0, |entry| register.of(entry))
    }

    /// The entries of a leaf, to be changed.
    pub(super) fn leaf_mut(&mut self, leaf: u32) -> impl Iterator<Item = &mut CpuidEntry> {
        self.0
            .range_mut((leaf, 0)..=(leaf, u32::MAX))
            .map(|(_, entry)| entry)
    }

    /// Answers `[eax, ebx, ecx, edx]` to a leaf without subleaves.
    pub(super) fn set(&mut self, leaf: u32, registers: [u32; 4]) {
        self.insert(leaf, 0, 0, registers);
    }

    /// Answers `[eax, ebx, ecx, edx]` to a leaf that has subleaves.
    pub(super) fn set_subleaf(&mut self, leaf: u32, subleaf: u32, registers: [u32; 4]) {
        self.insert(leaf, subleaf, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, registers);
    }

    fn insert(&mut self, leaf: u32, subleaf: u32, flags: u32, registers: [u32; 4]) {
        let [eax, ebx, ecx, edx] = registers;
        let entry = CpuidEntry {
            function: leaf,
            index: subleaf,
            flags,
            eax,
            ebx,
            ecx,
            edx,
        };
        self.0.insert((leaf, subleaf), entry);
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&CpuidEntry) -> bool) {
        self.0.retain(|_, entry| keep(entry));
    }

    pub(super) fn entries(&self) -> Vec<CpuidEntry> {
        self.0.values().copied().collect()
    }
}

impl FromIterator<CpuidEntry> for Table {
    fn from_iter<I: IntoIterator<Item = CpuidEntry>>(entries: I) -> Self {
        let keyed = entries
            .into_iter()
            .map(|entry| ((entry.function, entry.index), entry));
        Self(keyed.collect())
    }
}
