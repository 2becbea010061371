//! What processors can do, as the control plane compares it: by name.
//!
//! The names are Linux's (`avx512f`); who reads CPUID writes them down (`vmm::cpu`), and gives for
//! each component of the XSAVE area the features that cannot be used without it. So what several
//! processors have in common can be computed here without knowing what any name means.

use std::collections::BTreeSet;

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::BaselineId;
use crate::record;
use crate::record::Kind;

/// Features that a guest can be shown on every processor that has them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// The vendor's twelve letters (Intel SDM vol. 2, CPUID, leaf 0).
    pub vendor: String,
    /// Family, model and stepping as in leaf 1 EAX.
    pub signature: u32,
    /// Physical address bits (leaf 0x8000_0008).
    pub physical_bits: u8,
    /// Names of features, sorted.
    pub features: Vec<String>,
    /// Parts of the XSAVE area, by number.
    pub components: Vec<XsaveComponent>,
}

/// A part of the XSAVE area (Intel SDM vol. 1, 13.1).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct XsaveComponent {
    /// Its number, from 2.
    pub number: u8,
    /// Length in bytes.
    pub size: u32,
    /// Offset in the standard format, in bytes.
    pub offset: u32,
    /// ECX of its subleaf (leaf 0xd).
    pub flags: u32,
    /// Features that cannot be used without it.
    pub needed_by: Vec<String>,
}

/// Levels of the x86-64 psABI (section 3.1.1).
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum CpuLevel {
    /// `x86-64-v2`.
    V2,
    /// `x86-64-v3`.
    V3,
    /// `x86-64-v4`.
    V4,
}

impl CpuLevel {
    /// The level's psABI name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }
}

/// The processors of a node.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeCpu {
    /// All that a guest can be shown here.
    pub features: CpuFeatures,
    /// The highest level that a guest can be shown here.
    pub level: Option<CpuLevel>,
}

/// Features that guests were promised: the node that runs one has all of them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CpuBaseline {
    /// What guests refer to it by.
    pub id: BaselineId,
    /// The features.
    pub features: CpuFeatures,
}
record!(CpuBaseline, Kind::CpuBaseline, version = 1);

impl CpuFeatures {
    /// What both have; `None` when the vendors differ.
    ///
    /// Associative and commutative, so the members' baseline does not depend on their order.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        if self.vendor != other.vendor {
            return None;
        }
        let theirs: BTreeSet<_> = other.features.iter().collect();
        let both = self.features.iter().filter(|name| theirs.contains(name));
        let mut features: BTreeSet<String> = both.cloned().collect();
        // A component of the same number but another size or place is another component.
        let mut components = self.components.clone();
        components.retain(|component| other.components.contains(component));
        let lost = [&self.components, &other.components].into_iter().flatten();
        for component in lost.filter(|component| !components.contains(component)) {
            for name in &component.needed_by {
                features.remove(name);
            }
        }
        components.retain(|component| {
            component.needed_by.is_empty()
                || component
                    .needed_by
                    .iter()
                    .any(|name| features.contains(name))
        });
        Some(Self {
            vendor: self.vendor.clone(),
            signature: older(self.signature, other.signature),
            physical_bits: self.physical_bits.min(other.physical_bits),
            features: features.into_iter().collect(),
            components,
        })
    }

    /// What a processor of `host` lacks to show a guest all of this; empty when it lacks nothing.
    #[must_use]
    pub fn missing_in(&self, host: &Self) -> Vec<String> {
        if self.vendor != host.vendor {
            return vec![format!("vendor {}", self.vendor)];
        }
        let theirs: BTreeSet<_> = host.features.iter().collect();
        let absent = self.features.iter().filter(|name| !theirs.contains(name));
        let mut missing: Vec<String> = absent.cloned().collect();
        if host.physical_bits < self.physical_bits {
            missing.push(format!("{} physical address bits", self.physical_bits));
        }
        for component in &self.components {
            if !host.components.contains(component) {
                missing.push(format!(
                    "XSAVE component {} of {} bytes at {}",
                    component.number, component.size, component.offset
                ));
            }
        }
        missing
    }
}

/// The one of the lower family, then model, then stepping (Intel SDM vol. 2, CPUID, leaf 1).
fn older(a: u32, b: u32) -> u32 {
    let key = |signature: u32| {
        let family = match signature >> 8 & 0xf {
            0xf => 0xf + (signature >> 20 & 0xff),
            family => family,
        };
        let model = signature >> 12 & 0xf0 | signature >> 4 & 0xf;
        (family, model, signature)
    };
    if key(a) <= key(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str], components: &[(u8, u32, &[&str])]) -> CpuFeatures {
        let component = |(number, size, needed_by): &(u8, u32, &[&str])| XsaveComponent {
            number: *number,
            size: *size,
            offset: 576,
            flags: 0,
            needed_by: needed_by.iter().map(ToString::to_string).collect(),
        };
        CpuFeatures {
            vendor: "AuthenticAMD".into(),
            signature: 0x0080_0f12,
            physical_bits: 48,
            features: names.iter().map(ToString::to_string).collect(),
            components: components.iter().map(component).collect(),
        }
    }

    #[test]
    fn what_both_have_can_be_shown_by_both_whoever_asks() {
        let a = features(&["avx", "avx2", "sse"], &[(2, 256, &["avx", "avx2"])]);
        let b = features(&["avx", "popcnt", "sse"], &[(2, 256, &["avx", "avx2"])]);
        let common = a.common(&b).unwrap();
        assert_eq!(common.features, ["avx", "sse"]);
        assert_eq!(b.common(&a).unwrap(), common);
        assert!(common.missing_in(&a).is_empty() && common.missing_in(&b).is_empty());
        assert_eq!(a.missing_in(&b), ["avx2"]);
        assert_eq!(a.common(&a).unwrap(), a);
    }

    #[test]
    fn features_whose_state_lies_elsewhere_are_not_common() {
        let a = features(&["avx", "sse"], &[(2, 256, &["avx"])]);
        let b = features(&["avx", "sse"], &[(2, 320, &["avx"])]);
        let common = a.common(&b).unwrap();
        assert_eq!(common.features, ["sse"]);
        assert!(common.components.is_empty());
        assert_eq!(a.missing_in(&b), ["XSAVE component 2 of 256 bytes at 576"]);
    }

    #[test]
    fn a_part_of_which_nothing_needs_is_not_common() {
        let zmm: &[&str] = &["avx512f"];
        let a = features(&["avx512f", "sse"], &[(5, 64, zmm), (6, 512, zmm)]);
        let b = features(&["avx512f", "sse"], &[(5, 64, zmm), (6, 1024, zmm)]);
        assert_eq!(a.common(&b).unwrap(), features(&["sse"], &[]));
    }

    #[test]
    fn vendors_have_nothing_in_common() {
        let a = features(&["sse"], &[]);
        let b = CpuFeatures {
            vendor: "GenuineIntel".into(),
            ..a.clone()
        };
        assert_eq!(a.common(&b), None);
        assert_eq!(a.missing_in(&b), ["vendor AuthenticAMD"]);
    }
}
