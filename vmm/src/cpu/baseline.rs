//! What several hosts have in common. [`super::text`] writes it down.

use super::features::{self, WORD_COUNT, WORDS};
use super::host::HostCpu;
use super::table::{Register, Table, leaf};
use super::vendor::Vendor;
use super::xstate::{self, Component};
use super::{CpuError, level};

/// Largest XSAVE component that is believed, bytes; the largest real one is 8 KiB.
pub(super) const MAX_COMPONENT: u32 = 1 << 20;
/// Physical address widths that a processor in long mode can have (Intel SDM vol. 3, 4.1.4).
pub(super) const PHYSICAL_BITS: std::ops::RangeInclusive<u8> = 32..=52;

/// Values of all feature words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features(pub(super) [u32; WORD_COUNT]);

impl Features {
    /// The known features of a table.
    pub(super) fn of(table: &Table) -> Self {
        Self(std::array::from_fn(|index| {
            let word = &WORDS[index];
            table.value(word.leaf, word.subleaf, word.register) & word.known()
        }))
    }

    /// The features with these names.
    pub(super) fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut features = Self::default();
        for (index, bit) in names.into_iter().filter_map(features::find) {
            features.0[index] |= 1 << bit;
        }
        features
    }

    pub(super) fn has(&self, name: &str) -> bool {
        features::find(name).is_some_and(|(index, bit)| self.0[index] & 1 << bit != 0)
    }

    pub(super) fn clear(&mut self, name: &str) {
        if let Some((index, bit)) = features::find(name) {
            self.0[index] &= !(1 << bit);
        }
    }

    /// The known features in a register; 0 if it holds none.
    pub(super) fn word(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        WORDS
            .iter()
            .zip(self.0)
            .find(|(word, _)| (word.leaf, word.subleaf, word.register) == (leaf, subleaf, register))
            .map_or(0, |(_, bits)| bits)
    }

    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index] & other.0[index]))
    }

    /// Names of what `self` has and `other` lacks.
    fn missing_in(self, other: Self) -> impl Iterator<Item = String> {
        (0..WORD_COUNT)
            .flat_map(move |index| features::names(index, self.0[index] & !other.0[index]))
    }
}

/// A set of features that a guest can be shown on every host that has them.
///
/// Invariant: features and XSAVE components fit together (`xstate::settle` changes nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    pub(super) vendor: Vendor,
    /// Family, model and stepping as in leaf 1 EAX.
    pub(super) signature: u32,
    /// Physical address bits.
    pub(super) physical_bits: u8,
    pub(super) features: Features,
    pub(super) components: Vec<Component>,
}

impl Baseline {
    /// What all of `hosts` have.
    ///
    /// # Errors
    /// [`CpuError::NoHosts`], [`CpuError::MixedVendors`], [`CpuError::UnknownVendor`].
    pub fn of(hosts: &[&HostCpu]) -> Result<Self, CpuError> {
        let (first, rest) = hosts.split_first().ok_or(CpuError::NoHosts)?;
        rest.iter().try_fold(Self::of_host(first)?, |common, host| {
            common.and(&Self::of_host(host)?)
        })
    }

    /// Everything of one host that a baseline can have.
    fn of_host(host: &HostCpu) -> Result<Self, CpuError> {
        let table = host.table();
        let physical = table.value(leaf::ADDRESS_SIZES, 0, Register::Eax) as u8;
        let mut baseline = Self {
            vendor: Vendor::of(table)?,
            signature: table.value(leaf::FEATURES, 0, Register::Eax),
            physical_bits: physical.clamp(*PHYSICAL_BITS.start(), *PHYSICAL_BITS.end()),
            features: Features::of(table),
            components: xstate::of(table),
        };
        baseline
            .components
            .retain(|component| component.size <= MAX_COMPONENT);
        baseline.settle();
        Ok(baseline)
    }

    /// What both have. Associative and commutative, so a cluster's baseline can be built up from
    /// its members' in any order.
    ///
    /// # Errors
    /// [`CpuError::MixedVendors`].
    pub fn and(&self, other: &Self) -> Result<Self, CpuError> {
        if self.vendor != other.vendor {
            return Err(CpuError::MixedVendors {
                first: self.vendor,
                other: other.vendor,
            });
        }
        let mut common = Self {
            vendor: self.vendor,
            signature: level::older(self.signature, other.signature),
            physical_bits: self.physical_bits.min(other.physical_bits),
            features: self.features.and(other.features),
            components: self.components.clone(),
        };
        // A component of the same number but another size or place is another component.
        common
            .components
            .retain(|component| other.components.contains(component));
        common.settle();
        Ok(common)
    }

    /// The vendor whose hosts can show this.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// What of this `host` lacks, by name; empty when the host can show it.
    ///
    /// # Errors
    /// [`CpuError::UnknownVendor`] or [`CpuError::NoLeaf`] for a host that can show no baseline.
    pub fn missing_features(&self, host: &HostCpu) -> Result<Vec<String>, CpuError> {
        let theirs = Self::of_host(host)?;
        if theirs.vendor != self.vendor {
            return Ok(vec![format!("vendor {}", self.vendor)]);
        }
        // What the host has but cannot use together is not there.
        let mut missing: Vec<_> = self.features.missing_in(theirs.features).collect();
        if theirs.physical_bits < self.physical_bits {
            missing.push(format!("{} physical address bits", self.physical_bits));
        }
        let known = |number| theirs.components.iter().any(|c| c.number == number);
        for component in &self.components {
            // One that is wholly missing is already named by its features.
            if !theirs.components.contains(component) && known(component.number) {
                missing.push(format!(
                    "XSAVE component {} of {} bytes at {}",
                    component.number, component.size, component.offset
                ));
            }
        }
        Ok(missing)
    }

    /// Restores the invariant.
    pub(super) fn settle(&mut self) {
        xstate::settle(&mut self.features, &mut self.components);
    }
}
