//! The feature bits that this crate knows, by the names that Linux uses.
//!
//! A bit is here when it can be promised to a guest: software sees only whether it is there, all
//! state behind it is saved with a vCPU, and its absence is safe. Not here, and so never part of a
//! baseline: TSX (microcode removes it), MONITOR, PMU, SGX, PT, AMX, nested virtualization,
//! `arch_capabilities` (an MSR that says what the *host* suffers from), and bits that announce that
//! something was taken away.

use super::table::Register::{self, Eax, Ebx, Ecx, Edx};
use super::table::leaf;

/// A register whose bits are features.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub subleaf: u32,
    /// The register.
    pub register: Register,
    /// Names of known bits.
    pub names: &'static [(u32, &'static str)],
}

impl Word {
    const fn new(
        leaf: u32,
        subleaf: u32,
        register: Register,
        names: &'static [(u32, &'static str)],
    ) -> Self {
        Self {
            leaf,
            subleaf,
            register,
            names,
        }
    }

    /// The bits that have names.
    pub fn known(&self) -> u32 {
        self.names.iter().fold(0, |mask, (bit, _)| mask | 1 << bit)
    }
}

/// Number of feature words.
pub const WORD_COUNT: usize = WORDS.len();

/// All feature words. Their order is that of [`super::Baseline`]'s text.
pub const WORDS: &[Word] = &[
    Word::new(
        leaf::FEATURES,
        0,
        Ecx,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (9, "ssse3"),
            (12, "fma"),
            (13, "cx16"),
            (17, "pcid"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (TSC_DEADLINE_BIT, "tsc_deadline_timer"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
        ],
    ),
    Word::new(
        leaf::FEATURES,
        0,
        Edx,
        &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (19, "clflush"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
        ],
    ),
    Word::new(leaf::POWER, 0, Eax, &[(2, "arat")]),
    Word::new(
        leaf::MORE_FEATURES,
        0,
        Ebx,
        &[
            (0, "fsgsbase"),
            (1, "tsc_adjust"),
            (3, "bmi1"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    Word::new(
        leaf::MORE_FEATURES,
        0,
        Ecx,
        &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (6, "avx512_vbmi2"),
            (7, "shstk"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    ),
    Word::new(
        leaf::MORE_FEATURES,
        0,
        Edx,
        &[
            (4, "fsrm"),
            (8, "avx512_vp2intersect"),
            (10, "md_clear"),
            (14, "serialize"),
            (20, "ibt"),
            (23, "avx512_fp16"),
            (26, "spec_ctrl"),
            (27, "intel_stibp"),
            (28, "flush_l1d"),
            (31, "spec_ctrl_ssbd"),
        ],
    ),
    Word::new(
        leaf::MORE_FEATURES,
        1,
        Eax,
        &[
            (4, "avx_vnni"),
            (5, "avx512_bf16"),
            (7, "cmpccxadd"),
            (10, "fzrm"),
            (11, "fsrs"),
            (12, "fsrc"),
            (23, "avx_ifma"),
        ],
    ),
    Word::new(
        leaf::MORE_FEATURES,
        1,
        Edx,
        &[
            (4, "avx_vnni_int8"),
            (5, "avx_ne_convert"),
            (10, "avx_vnni_int16"),
            (14, "prefetchi"),
        ],
    ),
    Word::new(
        leaf::MORE_FEATURES,
        2,
        Edx,
        &[
            (0, "intel_psfd"),
            (1, "ipred_ctrl"),
            (2, "rrsba_ctrl"),
            (4, "bhi_ctrl"),
        ],
    ),
    Word::new(
        leaf::XSTATE,
        1,
        Eax,
        &[
            (0, "xsaveopt"),
            (1, "xsavec"),
            (2, "xgetbv1"),
            (3, "xsaves"),
        ],
    ),
    Word::new(
        leaf::EXTENDED_FEATURES,
        0,
        Ecx,
        &[
            (0, "lahf_lm"),
            (4, "cr8_legacy"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (11, "xop"),
            (16, "fma4"),
            (21, "tbm"),
            (22, "topoext"),
        ],
    ),
    Word::new(
        leaf::EXTENDED_FEATURES,
        0,
        Edx,
        &[
            (11, "syscall"),
            (20, "nx"),
            (22, "mmxext"),
            (25, "fxsr_opt"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
        ],
    ),
    Word::new(
        leaf::ADDRESS_SIZES,
        0,
        Ebx,
        &[
            (0, "clzero"),
            (2, "xsaveerptr"),
            (9, "wbnoinvd"),
            (12, "ibpb"),
            (14, "ibrs"),
            (15, "stibp"),
            (16, "ibrs_always_on"),
            (17, "stibp_always_on"),
            (24, "amd_ssbd"),
            (25, "virt_ssbd"),
            (26, "amd_ssb_no"),
            (28, "amd_psfd"),
        ],
    ),
    Word::new(
        leaf::AMD_FEATURES_2,
        0,
        Eax,
        &[
            (0, "no_nested_data_bp"),
            (2, "lfence_rdtsc"),
            (5, "verw_clear"),
            (6, "null_sel_clr_base"),
            (8, "autoibrs"),
            (9, "no_smm_ctl_msr"),
            (27, "sbpb"),
            (28, "ibpb_brtype"),
            (29, "srso_no"),
        ],
    ),
    Word::new(
        leaf::AMD_FEATURES_2,
        0,
        Ecx,
        &[(1, "tsa_sq_no"), (2, "tsa_l1_no")],
    ),
    Word::new(
        leaf::KVM_FEATURES,
        0,
        Eax,
        &[
            (0, "kvm_clocksource"),
            (1, "kvm_nop_io_delay"),
            (3, "kvm_clocksource2"),
            (4, "kvm_async_pf"),
            (5, "kvm_steal_time"),
            (6, "kvm_pv_eoi"),
            (7, "kvm_pv_unhalt"),
            (9, "kvm_pv_tlb_flush"),
            (10, "kvm_async_pf_vmexit"),
            (11, "kvm_pv_send_ipi"),
            (12, "kvm_poll_control"),
            (13, "kvm_pv_sched_yield"),
            (14, "kvm_async_pf_int"),
            (24, "kvm_clocksource_stable"),
        ],
    ),
];

/// Leaf 1 ECX: the local APIC timer can fire at a TSC value.
pub(super) const TSC_DEADLINE_BIT: u32 = 24;
/// Leaf 1 ECX: Intel's nested virtualization.
pub(super) const VMX: u32 = 1 << 5;
/// Leaf 1 ECX: set by the processor while CR4.OSXSAVE is; KVM keeps it up to date.
pub(super) const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 ECX: there is a hypervisor.
pub(super) const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: the package has more than one logical processor.
pub(super) const HTT: u32 = 1 << 28;
/// Leaf 7 ECX: set by the processor while CR4.PKE is.
pub(super) const OSPKE: u32 = 1 << 4;
/// Leaf 0x8000_0001 ECX: AMD's counterpart of [`HTT`].
pub(super) const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001 ECX: AMD's nested virtualization.
pub(super) const SVM: u32 = 1 << 2;
/// Leaf 0x8000_0001 EDX: bits in which AMD repeats leaf 1 EDX (AMD APM vol. 3, E.4.2).
pub(super) const AMD_REPEATED: u32 = 0x0183_f3ff;
/// Leaf 0x8000_0007 EDX: the TSC runs at one rate in all power states.
pub(super) const INVARIANT_TSC: u32 = 1 << 8;

/// Where a feature is: index into [`WORDS`], and bit. `None` for a name that is not known.
pub fn find(name: &str) -> Option<(usize, u32)> {
    WORDS.iter().enumerate().find_map(|(index, word)| {
        let (bit, _) = word.names.iter().find(|(_, known)| *known == name)?;
        Some((index, *bit))
    })
}

/// The names of the bits set in word `index`; a bit without a name is named by its place.
pub fn names(index: usize, bits: u32) -> Vec<String> {
    let word = &WORDS[index];
    (0..32)
        .filter(|bit| bits & 1 << bit != 0)
        .map(|bit| {
            word.names
                .iter()
                .find(|(known, _)| *known == bit)
                .map_or_else(
                    || {
                        let Word { leaf, subleaf, .. } = word;
                        format!("cpuid {leaf:#x}.{subleaf}:{:?} bit {bit}", word.register)
                    },
                    |(_, name)| (*name).to_owned(),
                )
        })
        .collect()
}
