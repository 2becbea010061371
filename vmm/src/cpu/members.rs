//! A host's processor as the members of a cluster compare it, and back: `godwit_proto::cluster` knows
//! features by name and not what they mean.

use godwit_proto::cluster::{CpuFeatures, CpuLevel, NodeCpu, XsaveComponent};

use super::CpuError;
use super::baseline::{Baseline, Features, MAX_COMPONENT, PHYSICAL_BITS};
use super::features::{self, WORD_COUNT};
use super::host::HostCpu;
use super::level::Level;
use super::vendor::Vendor;
use super::xstate::{Component, OWNERS};

/// What guests can be shown on `host`.
///
/// # Errors
/// [`CpuError::UnknownVendor`] or [`CpuError::NoLeaf`] for a host that can show no baseline.
pub fn node_cpu(host: &HostCpu) -> Result<NodeCpu, CpuError> {
    let vendor = Vendor::of(host.table())?;
    let levels = [
        (Level::V2, CpuLevel::V2),
        (Level::V3, CpuLevel::V3),
        (Level::V4, CpuLevel::V4),
    ];
    let mut highest = None;
    for (level, name) in levels {
        if level.baseline(vendor).missing_features(host)?.is_empty() {
            highest = Some(name);
        }
    }
    Ok(NodeCpu {
        features: Baseline::of(&[host])?.to_features(),
        level: highest,
    })
}

impl Baseline {
    /// By name.
    #[must_use]
    pub fn to_features(&self) -> CpuFeatures {
        let mut names: Vec<String> = (0..WORD_COUNT)
            .flat_map(|index| features::names(index, self.features.0[index]))
            .collect();
        names.sort();
        let components = self.components.iter().map(|component| XsaveComponent {
            number: component.number,
            size: component.size,
            offset: component.offset,
            flags: component.flags,
            needed_by: needed_by(component.number),
        });
        CpuFeatures {
            vendor: self.vendor.to_string(),
            signature: self.signature,
            physical_bits: self.physical_bits,
            features: names,
            components: components.collect(),
        }
    }

    /// The baseline that these names mean.
    ///
    /// # Errors
    /// [`CpuError::Parse`]: this build does not know a name, so a guest would be shown less here than
    /// elsewhere.
    pub fn from_features(features: &CpuFeatures) -> Result<Self, CpuError> {
        let refuse = |text: &str, problem| CpuError::Parse {
            text: text.chars().take(80).collect(),
            problem,
        };
        let unknown = features
            .features
            .iter()
            .find(|name| features::find(name).is_none());
        if let Some(name) = unknown {
            return Err(refuse(name, "this build does not know the feature"));
        }
        if !PHYSICAL_BITS.contains(&features.physical_bits) {
            return Err(refuse(
                "physical address bits",
                "they are not within 32 to 52",
            ));
        }
        let components = features.components.iter().map(|component| Component {
            number: component.number,
            size: component.size.min(MAX_COMPONENT),
            offset: component.offset,
            flags: component.flags,
        });
        let vendor = features.vendor.parse();
        let mut baseline = Self {
            vendor: vendor.map_err(|_| refuse(&features.vendor, "it is not a known vendor"))?,
            signature: features.signature,
            physical_bits: features.physical_bits,
            features: Features::named(features.features.iter().map(String::as_str)),
            components: components.collect(),
        };
        // The names were compared without knowing what they mean; every node drops the same.
        baseline.settle();
        Ok(baseline)
    }
}

/// The features that cannot be used without component `number`.
fn needed_by(number: u8) -> Vec<String> {
    let owners = OWNERS
        .iter()
        .filter(|owner| owner.components.contains(&number));
    let names = owners.flat_map(|owner| owner.keys.iter().chain(owner.dependents));
    let mut names: Vec<String> = names.map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    names
}
