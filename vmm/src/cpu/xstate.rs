//! The components of the XSAVE area (Intel SDM vol. 1, 13.1; CPUID leaf 0xd).

use super::baseline::Features;
use super::table::{Register, Table, leaf};

/// Components 0 and 1, x87 and SSE, which every XSAVE area has.
pub(super) const LEGACY: u64 = 0b11;
/// Length of legacy region and header, bytes (Intel SDM vol. 1, 13.4).
const LEGACY_LEN: u32 = 512 + 64;
/// ECX of a component's subleaf: belongs to the supervisor state (IA32_XSS).
const SUPERVISOR: u32 = 1 << 0;
/// ECX of a component's subleaf: starts at a multiple of 64 in the compacted format.
const ALIGNED: u32 = 1 << 1;

/// Which features live in a component, and without which the component is of no use.
pub(super) struct Owner {
    /// Component numbers; they come and go together.
    pub(super) components: &'static [u8],
    /// Any one of these features makes the components useful.
    pub(super) keys: &'static [&'static str],
    /// Features that cannot be used without the components (besides the keys).
    pub(super) dependents: &'static [&'static str],
}

/// The components that a baseline can have. MPX, PT and AMX are left out on purpose.
pub(super) const OWNERS: &[Owner] = &[
    Owner {
        components: &[2],
        keys: &["avx"],
        dependents: &[
            "fma",
            "f16c",
            "avx2",
            "vaes",
            "vpclmulqdq",
            "xop",
            "fma4",
            "avx_vnni",
            "avx_ifma",
            "avx_vnni_int8",
            "avx_ne_convert",
            "avx_vnni_int16",
            "avx512f",
        ],
    },
    Owner {
        components: &[5, 6, 7],
        keys: &["avx512f"],
        dependents: &[
            "avx512dq",
            "avx512ifma",
            "avx512cd",
            "avx512bw",
            "avx512vl",
            "avx512vbmi",
            "avx512_vbmi2",
            "avx512_vnni",
            "avx512_bitalg",
            "avx512_vpopcntdq",
            "avx512_vp2intersect",
            "avx512_fp16",
            "avx512_bf16",
        ],
    },
    Owner {
        components: &[9],
        keys: &["pku"],
        dependents: &[],
    },
    Owner {
        components: &[11, 12],
        keys: &["shstk", "ibt"],
        dependents: &[],
    },
];

/// Where one component lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// Its number, from 2.
    pub(super) number: u8,
    /// Length, bytes.
    pub(super) size: u32,
    /// Offset in the standard format, bytes; 0 for supervisor components.
    pub(super) offset: u32,
    /// [`SUPERVISOR`], [`ALIGNED`] and what may come.
    pub(super) flags: u32,
}

impl Component {
    pub(super) fn is_supervisor(self) -> bool {
        self.flags & SUPERVISOR != 0
    }
}

/// The components of a host's table that a baseline can have.
pub(super) fn of(table: &Table) -> Vec<Component> {
    let half = |subleaf, low, high| {
        u64::from(table.value(leaf::XSTATE, subleaf, low))
            | u64::from(table.value(leaf::XSTATE, subleaf, high)) << 32
    };
    let user = half(0, Register::Eax, Register::Edx);
    let supervisor = half(1, Register::Ecx, Register::Edx);
    OWNERS
        .iter()
        .flat_map(|owner| owner.components)
        .filter_map(|&number| {
            let entry = table.get(leaf::XSTATE, u32::from(number))?;
            let component = Component {
                number,
                size: entry.eax,
                offset: entry.ebx,
                flags: entry.ecx,
            };
            let mask = if component.is_supervisor() {
                supervisor
            } else {
                user
            };
            (component.size > 0 && mask & 1 << number != 0).then_some(component)
        })
        .collect()
}

/// Drops features without their components and components without their features, until what is
/// left fits together. Without `xsave` nothing is left.
pub(super) fn settle(features: &mut Features, components: &mut Vec<Component>) {
    if !features.has("xsave") {
        components.clear();
        for name in ["xsaveopt", "xsavec", "xgetbv1", "xsaves"] {
            features.clear(name);
        }
    }
    if !features.has("xsaves") {
        components.retain(|component| !component.is_supervisor());
    }
    // Owners are in the order of dependence: a feature that falls is a key of a later one.
    for owner in OWNERS {
        let complete = owner.components.iter().all(|number| {
            components
                .iter()
                .any(|component| component.number == *number)
        });
        if complete && owner.keys.iter().any(|key| features.has(key)) {
            continue;
        }
        components.retain(|component| !owner.components.contains(&component.number));
        for name in owner.keys.iter().chain(owner.dependents) {
            features.clear(name);
        }
    }
}

/// Writes leaf 0xd for exactly `components`; none means that there is no XSAVE.
pub(super) fn write(table: &mut Table, features: &Features, components: &[Component]) {
    table.retain(|entry| entry.function != leaf::XSTATE);
    if !features.has("xsave") {
        table.set_subleaf(leaf::XSTATE, 0, [0; 4]);
        return;
    }
    let (mut user, mut supervisor) = (LEGACY, 0);
    let (mut standard, mut compacted) = (LEGACY_LEN, LEGACY_LEN);
    for component in components {
        let bit = 1 << component.number;
        if component.is_supervisor() {
            supervisor |= bit;
        } else {
            user |= bit;
            standard = standard.max(component.offset.saturating_add(component.size));
        }
        if component.flags & ALIGNED != 0 {
            compacted = compacted.checked_next_multiple_of(64).unwrap_or(u32::MAX);
        }
        compacted = compacted.saturating_add(component.size);
        table.set_subleaf(
            leaf::XSTATE,
            u32::from(component.number),
            [component.size, component.offset, component.flags, 0],
        );
    }
    let (low, high) = (user as u32, (user >> 32) as u32);
    // EBX is for what the guest has enabled; KVM keeps it up to date, here it is the reset value.
    table.set_subleaf(leaf::XSTATE, 0, [low, LEGACY_LEN, standard, high]);
    let instructions = features.word(leaf::XSTATE, 1, Register::Eax);
    let size = if instructions & 0b1010 == 0 {
        0
    } else {
        compacted
    };
    let (low, high) = (supervisor as u32, (supervisor >> 32) as u32);
    table.set_subleaf(leaf::XSTATE, 1, [instructions, size, low, high]);
}
