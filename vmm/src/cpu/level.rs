//! Named sets of features: the levels of the x86-64 psABI, with what a kernel needs beside them.

use std::fmt;
use std::str::FromStr;

use super::CpuError;
use super::baseline::{Baseline, Features};
use super::vendor::Vendor;
use super::xstate::Component;

/// A level of the x86-64 psABI (section 3.1.1, "Processor Architecture").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Since Nehalem (2008) and Bulldozer (2011).
    V2,
    /// Since Haswell (2013) and Zen (2017): AVX2, BMI, FMA.
    V3,
    /// Since Skylake servers (2017) and Zen 4 (2022): AVX-512.
    V4,
}

/// What every x86-64 processor has, and what KVM provides by itself.
const COMMON: &[&str] = &[
    "fpu",
    "vme",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "syscall",
    "nx",
    "lm",
    "x2apic",
    "tsc_deadline_timer",
    "tsc_adjust",
    "arat",
    "kvm_clocksource",
    "kvm_nop_io_delay",
    "kvm_clocksource2",
    "kvm_steal_time",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    "kvm_pv_tlb_flush",
    "kvm_pv_send_ipi",
    "kvm_poll_control",
    "kvm_pv_sched_yield",
    "kvm_clocksource_stable",
];
const V2: &[&str] = &[
    "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", "rdtscp",
];
const V3: &[&str] = &[
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "abm",
    "movbe",
    "xsave",
    "xsaveopt",
    "aes",
    "pclmulqdq",
    "fsgsbase",
    "smep",
    "pdpe1gb",
];
const V4: &[&str] = &[
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "xsavec",
    "xgetbv1",
    "adx",
    "rdseed",
    "smap",
    "clflushopt",
    "clwb",
    "erms",
    "pcid",
    "invpcid",
];
/// Every server has at least these; a guest may have up to 1 TiB.
const PHYSICAL_BITS: u8 = 40;

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 3] = [Self::V2, Self::V3, Self::V4];

    /// The level's psABI name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }

    /// What this level means on a vendor's processors.
    pub fn baseline(self, vendor: Vendor) -> Baseline {
        let lists: &[&[&str]] = match self {
            Self::V2 => &[COMMON, V2],
            Self::V3 => &[COMMON, V2, V3],
            Self::V4 => &[COMMON, V2, V3, V4],
        };
        Baseline {
            vendor,
            signature: self.signature(vendor),
            physical_bits: PHYSICAL_BITS,
            features: Features::named(lists.iter().copied().flatten().copied()),
            components: self.components(vendor),
        }
    }

    /// Family, model and stepping of the first servers of the level.
    fn signature(self, vendor: Vendor) -> u32 {
        match (vendor, self) {
            (Vendor::Intel, Self::V2) => 0x0001_06a3, // Nehalem
            (Vendor::Intel, Self::V3) => 0x0003_06c3, // Haswell
            (Vendor::Intel, Self::V4) => 0x0005_0654, // Skylake
            (_, Self::V2) => 0x0060_0f12,             // Bulldozer
            (_, Self::V3) => 0x0080_0f12,             // Zen
            (_, Self::V4) => 0x00a1_0f11,             // Zen 4
        }
    }

    /// The XSAVE components, where the vendor's processors have them.
    fn components(self, vendor: Vendor) -> Vec<Component> {
        let user = |number, size, offset| Component {
            number,
            size,
            offset,
            flags: 0,
        };
        // Intel leaves room for MPX even where there is none.
        let avx512 = if vendor.is_amd_like() { 832 } else { 1088 };
        match self {
            Self::V2 => Vec::new(),
            Self::V3 => vec![user(2, 256, 576)],
            Self::V4 => vec![
                user(2, 256, 576),
                user(5, 64, avx512),
                user(6, 512, avx512 + 64),
                user(7, 1024, avx512 + 64 + 512),
            ],
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| CpuError::Parse {
                text: text.chars().take(80).collect(),
                problem: "use host, x86-64-v2, x86-64-v3, x86-64-v4 or baseline:...",
            })
    }
}

/// The older of two signatures by family, model and stepping (Intel SDM vol. 2, CPUID, leaf 1).
pub(super) fn older(a: u32, b: u32) -> u32 {
    let key = |signature: u32| {
        let base = signature >> 8 & 0xf;
        let family = base
            + if base == 0xf {
                signature >> 20 & 0xff
            } else {
                0
            };
        let model = signature >> 12 & 0xf0 | signature >> 4 & 0xf;
        (family, model, signature & 0xf, signature)
    };
    if key(a) <= key(b) { a } else { b }
}
