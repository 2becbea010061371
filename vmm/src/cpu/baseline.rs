//! What several hosts have in common, and how it is written down.

use std::fmt;
use std::str::FromStr;

use super::features::{self, WORD_COUNT, WORDS};
use super::host::HostCpu;
use super::table::{Register, Table, leaf};
use super::vendor::Vendor;
use super::xstate::{self, Component};
use super::{CpuError, level};

/// Longest text of a baseline that is read, bytes.
const MAX_TEXT: usize = 2048;
/// Largest XSAVE component that is believed, bytes; the largest real one is 8 KiB.
const MAX_COMPONENT: u32 = 1 << 20;
/// Physical address widths that a processor in long mode can have (Intel SDM vol. 3, 4.1.4).
const PHYSICAL_BITS: std::ops::RangeInclusive<u8> = 32..=52;

/// Values of all feature words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features([u32; WORD_COUNT]);

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

/// `vendor=GenuineIntel,signature=000306c3,physical=46,1.0.ecx=7ef82203,...,xstate.2=256@576+0`:
/// words that are 0 are left out.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vendor={},signature={:08x},physical={}",
            self.vendor, self.signature, self.physical_bits
        )?;
        for (index, bits) in self.features.0.into_iter().enumerate() {
            if bits != 0 {
                write!(f, ",{}={bits:08x}", word_key(index))?;
            }
        }
        for component in &self.components {
            let Component {
                number,
                size,
                offset,
                flags,
            } = component;
            write!(f, ",xstate.{number}={size}@{offset}+{flags}")?;
        }
        Ok(())
    }
}

fn word_key(index: usize) -> String {
    let word = &WORDS[index];
    let register = match word.register {
        Register::Eax => "eax",
        Register::Ebx => "ebx",
        Register::Ecx => "ecx",
        Register::Edx => "edx",
    };
    format!("{:x}.{}.{register}", word.leaf, word.subleaf)
}

impl FromStr for Baseline {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        let invalid = |text: &str, problem| {
            let text = text.chars().take(80).collect();
            CpuError::Parse { text, problem }
        };
        if text.len() > MAX_TEXT {
            return Err(invalid(text, "it is too long"));
        }
        let (mut vendor, mut signature, mut physical_bits) = (None, None, None);
        let (mut words, mut components) = (Features::default(), Vec::<Component>::new());
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| invalid(field, "it has no \"=\""))?;
            let is_new = if key == "vendor" {
                vendor.replace(value.parse()?).is_none()
            } else if key == "signature" {
                let value = hex(value).ok_or_else(|| invalid(field, "it is not hexadecimal"))?;
                signature.replace(value).is_none()
            } else if key == "physical" {
                let bits = value
                    .parse()
                    .ok()
                    .filter(|bits| PHYSICAL_BITS.contains(bits));
                let bits = bits.ok_or_else(|| invalid(field, "it is not within 32 to 52"))?;
                physical_bits.replace(bits).is_none()
            } else if let Some(number) = key.strip_prefix("xstate.") {
                let component = component(number, value)
                    .ok_or_else(|| invalid(field, "it is not NUMBER=SIZE@OFFSET+FLAGS"))?;
                let in_order = components
                    .last()
                    .is_none_or(|last| last.number < component.number);
                components.push(component);
                in_order
            } else {
                let index = (0..WORD_COUNT)
                    .find(|index| word_key(*index) == key)
                    .ok_or_else(|| invalid(field, "this build does not know it"))?;
                let bits = hex(value).ok_or_else(|| invalid(field, "it is not hexadecimal"))?;
                if bits & !WORDS[index].known() != 0 {
                    return Err(invalid(
                        field,
                        "it has features that this build does not know",
                    ));
                }
                let is_new = words.0[index] == 0;
                words.0[index] = bits;
                is_new
            };
            if !is_new {
                return Err(invalid(field, "it is there twice or out of order"));
            }
        }
        let absent = |name| move || invalid(name, "it is missing");
        let baseline = Self {
            vendor: vendor.ok_or_else(absent("vendor"))?,
            signature: signature.ok_or_else(absent("signature"))?,
            physical_bits: physical_bits.ok_or_else(absent("physical"))?,
            features: words,
            components,
        };
        let mut settled = baseline.clone();
        settled.settle();
        if settled != baseline {
            return Err(invalid(
                text,
                "its features and XSAVE components do not fit together",
            ));
        }
        Ok(baseline)
    }
}

fn hex(text: &str) -> Option<u32> {
    let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn component(number: &str, value: &str) -> Option<Component> {
    let (size, rest) = value.split_once('@')?;
    let (offset, flags) = rest.split_once('+')?;
    let component = Component {
        number: number.parse().ok()?,
        size: size.parse().ok()?,
        offset: offset.parse().ok()?,
        flags: flags.parse().ok()?,
    };
    let is_known = xstate::OWNERS
        .iter()
        .any(|owner| owner.components.contains(&component.number));
    let is_sane =
        (1..=MAX_COMPONENT).contains(&component.size) && component.offset <= MAX_COMPONENT;
    (is_known && is_sane).then_some(component)
}
