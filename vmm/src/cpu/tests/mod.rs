//! CPUID tables of made-up hosts, of arbitrary bits, and of this machine.

use godwit_proto::state::vcpu::CpuidEntry;

use super::baseline::Features;
use super::features::{self, WORDS};
use super::level::older;
use super::table::{Register, Table, leaf};
use super::*;

mod baseline;
mod kvm;
mod profile;
mod topology;

/// `(number, size, offset, flags)` of XSAVE components.
type Components = &'static [(u32, u32, u32, u32)];

const AVX: Components = &[(2, 256, 576, 0)];
const INTEL_AVX512: Components = &[
    (2, 256, 576, 0),
    (5, 64, 1088, 0),
    (6, 512, 1152, 0),
    (7, 1024, 1664, 0),
    (9, 8, 2688, 0),
];
const AMD_AVX512: Components = &[
    (2, 256, 576, 0),
    (5, 64, 832, 0),
    (6, 512, 896, 0),
    (7, 1024, 1408, 0),
    (9, 8, 2432, 0),
];
const AMD_PKU: Components = &[(2, 256, 576, 0), (9, 8, 832, 0)];

/// A host's table in the making.
#[derive(Clone, Debug)]
struct Sample {
    table: Table,
}

impl Sample {
    /// A host with the features of `level`, and caches.
    fn intel(level: Level, signature: u32) -> Self {
        let (ebx, edx, ecx) = (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
        let mut sample = Self::new([0x1f, ebx, ecx, edx], level, Vendor::Intel, signature);
        sample.table.set(leaf::EXTENDED, [0x8000_0008, 0, 0, 0]);
        // As on an eight-core machine with hyper-threading: L1, L2 of two, L3 of sixteen threads.
        for (subleaf, eax) in [0x1c00_4121, 0x1c00_4122, 0x1c00_4143, 0x1c03_c163, 0]
            .into_iter()
            .enumerate()
        {
            let registers = [eax, 0x01c0_003f, 0x3f, 0];
            sample
                .table
                .set_subleaf(leaf::CACHES, subleaf as u32, registers);
        }
        sample
    }

    fn amd(level: Level, signature: u32) -> Self {
        let (ebx, edx, ecx) = (0x6874_7541, 0x6974_6e65, 0x444d_4163);
        let mut sample = Self::new([0x10, ebx, ecx, edx], level, Vendor::Amd, signature);
        sample
            .table
            .set(leaf::EXTENDED, [0x8000_0021, ebx, ecx, edx]);
        sample.table.set(leaf::AMD_TOPOLOGY, [7, 0x103, 0x1, 0]);
        for (subleaf, eax) in [0x4121, 0x4122, 0x4143, 0x3_c163, 0]
            .into_iter()
            .enumerate()
        {
            let registers = [eax, 0x01c0_003f, 0x3f, 0];
            sample
                .table
                .set_subleaf(leaf::AMD_CACHES, subleaf as u32, registers);
        }
        sample.with(&["topoext"])
    }

    fn new(basic: [u32; 4], level: Level, vendor: Vendor, signature: u32) -> Self {
        let mut table = Table::default();
        table.set(leaf::BASIC, basic);
        table.set(leaf::FEATURES, [signature, 0x0310_0800, 0, 0]);
        table.set(leaf::KVM, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]);
        table.set(leaf::ADDRESS_SIZES, [0x302e, 0, 0x7007, 0]);
        table.set(leaf::POWER_MANAGEMENT, [0, 0, 0, features::INVARIANT_TSC]);
        let mut sample = Self { table };
        let features = level.baseline(vendor).features;
        for word in WORDS {
            let bits = features.word(word.leaf, word.subleaf, word.register);
            *sample.register(word.leaf, word.subleaf, word.register) |= bits;
        }
        sample
    }

    fn register(&mut self, leaf: u32, subleaf: u32, register: Register) -> &mut u32 {
        if self.table.get(leaf, subleaf).is_none() {
            self.table.set_subleaf(leaf, subleaf, [0; 4]);
        }
        register.of_mut(self.table.get_mut(leaf, subleaf).unwrap())
    }

    fn with(self, names: &[&str]) -> Self {
        self.change(names, |word, bit| *word |= bit)
    }

    fn without(self, names: &[&str]) -> Self {
        self.change(names, |word, bit| *word &= !bit)
    }

    fn change(mut self, names: &[&str], change: fn(&mut u32, u32)) -> Self {
        for name in names {
            let (index, bit) = features::find(name).expect("a known name");
            let word = &WORDS[index];
            change(
                self.register(word.leaf, word.subleaf, word.register),
                1 << bit,
            );
        }
        self
    }

    fn xstate(mut self, components: Components) -> Self {
        for &(number, size, offset, flags) in components {
            self.table
                .set_subleaf(leaf::XSTATE, number, [size, offset, flags, 0]);
            *self.register(leaf::XSTATE, 0, Register::Eax) |= 0b11 | 1 << number;
        }
        self
    }

    fn host(&self) -> HostCpu {
        HostCpu::new(self.table.entries(), true)
    }
}

fn haswell() -> Sample {
    Sample::intel(Level::V3, 0x0003_06c3).xstate(AVX)
}

fn skylake() -> Sample {
    Sample::intel(Level::V4, 0x0005_0654)
        .with(&["pku", "spec_ctrl"])
        .xstate(INTEL_AVX512)
}

fn zen3() -> Sample {
    Sample::amd(Level::V3, 0x00a0_0f11)
        .with(&["pku", "clzero"])
        .xstate(AMD_PKU)
}

fn zen4() -> Sample {
    Sample::amd(Level::V4, 0x00a1_0f11)
        .with(&["pku", "clzero"])
        .xstate(AMD_AVX512)
}

fn show(profile: &CpuProfile, host: &HostCpu, vcpus: u32) -> Table {
    let guest = profile.apply(host, vcpus, Options::default()).unwrap();
    guest.for_vcpu(0).into_iter().collect()
}

#[test]
fn every_feature_has_one_name_and_one_place() {
    let mut names: Vec<_> = WORDS.iter().flat_map(|word| word.names).collect();
    let all = names.len();
    names.sort_by_key(|(_, name)| *name);
    names.dedup_by_key(|(_, name)| *name);
    assert_eq!(names.len(), all);
    for word in WORDS {
        assert_eq!(word.known().count_ones() as usize, word.names.len());
    }
}

#[test]
fn every_name_that_the_xsave_components_refer_to_is_known() {
    for owner in xstate::OWNERS {
        for name in owner.keys.iter().chain(owner.dependents) {
            assert!(features::find(name).is_some(), "{name}");
        }
    }
}

#[test]
fn the_older_of_two_processors_is_found_by_family_then_model() {
    for (old, new) in [
        (0x0003_06c3, 0x0005_0654), // Haswell, Skylake
        (0x0080_0f12, 0x00a1_0f11), // Zen, Zen 4
        (0x0060_0f12, 0x0080_0f12), // Bulldozer, Zen
        (0x0005_0653, 0x0005_0654), // two steppings
    ] {
        assert_eq!(older(old, new), old);
        assert_eq!(older(new, old), old);
    }
}
