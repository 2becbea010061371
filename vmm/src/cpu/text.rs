//! A baseline as one line of text:
//!
//! ```text
//! vendor=GenuineIntel,signature=000306c3,physical=46,1.0.ecx=7ef82203,xstate.2=256@576+0
//! ```
//!
//! A feature word is `LEAF.SUBLEAF.REGISTER=BITS`, all hexadecimal, left out when no bit is set; an
//! XSAVE component is `xstate.NUMBER=SIZE@OFFSET+FLAGS`, decimal, by rising number. Text comes from
//! users and from other nodes: whatever this build does not know is refused, since a guest would
//! otherwise be shown less than was promised.

use std::fmt;
use std::str::FromStr;

use super::CpuError;
use super::baseline::{Baseline, Features, MAX_COMPONENT, PHYSICAL_BITS};
use super::features::{WORD_COUNT, WORDS};
use super::table::Register;
use super::vendor::Vendor;
use super::xstate::{self, Component};

/// Longest text that is read, bytes.
const MAX_TEXT: usize = 2048;
/// How much of a wrong text an error repeats, characters.
const MAX_QUOTE: usize = 80;

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

impl FromStr for Baseline {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        if text.len() > MAX_TEXT {
            return Err(invalid(text, "it is too long"));
        }
        let mut draft = Draft::default();
        for field in text.split(',') {
            draft
                .read(field)
                .map_err(|problem| invalid(field, problem))?;
        }
        draft.finish().map_err(|problem| invalid(text, problem))
    }
}

/// A baseline of which some fields were read.
#[derive(Default)]
struct Draft {
    vendor: Option<Vendor>,
    signature: Option<u32>,
    physical_bits: Option<u8>,
    features: Features,
    components: Vec<Component>,
}

impl Draft {
    /// Reads one `key=value`.
    fn read(&mut self, field: &str) -> Result<(), &'static str> {
        let (key, value) = field.split_once('=').ok_or("it has no \"=\"")?;
        let is_new = match key {
            "vendor" => {
                let vendor = value.parse().map_err(|_| "it is not a known vendor")?;
                self.vendor.replace(vendor).is_none()
            }
            "signature" => self.signature.replace(hex(value)?).is_none(),
            "physical" => {
                let bits = value.parse().ok();
                let bits = bits.filter(|bits| PHYSICAL_BITS.contains(bits));
                let bits = bits.ok_or("it is not within 32 to 52")?;
                self.physical_bits.replace(bits).is_none()
            }
            _ => match key.strip_prefix("xstate.") {
                Some(number) => self.add_component(number, value)?,
                None => self.set_word(key, value)?,
            },
        };
        is_new
            .then_some(())
            .ok_or("it is there twice or out of order")
    }

    /// Answers whether the component comes after all others.
    fn add_component(&mut self, number: &str, value: &str) -> Result<bool, &'static str> {
        let component = component(number, value).ok_or("it is not NUMBER=SIZE@OFFSET+FLAGS")?;
        let last = self.components.last();
        let is_new = last.is_none_or(|last| last.number < component.number);
        self.components.push(component);
        Ok(is_new)
    }

    /// Answers whether the word was not yet set.
    fn set_word(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
        let index = (0..WORD_COUNT)
            .find(|index| word_key(*index) == key)
            .ok_or("this build does not know it")?;
        let bits = hex(value)?;
        if bits & !WORDS[index].known() != 0 {
            return Err("it has features that this build does not know");
        }
        let before = std::mem::replace(&mut self.features.0[index], bits);
        Ok(before == 0)
    }

    fn finish(self) -> Result<Baseline, &'static str> {
        let baseline = Baseline {
            vendor: self.vendor.ok_or("the vendor is missing")?,
            signature: self.signature.ok_or("the signature is missing")?,
            physical_bits: self
                .physical_bits
                .ok_or("the number of physical address bits is missing")?,
            features: self.features,
            components: self.components,
        };
        let mut settled = baseline.clone();
        settled.settle();
        if settled == baseline {
            Ok(baseline)
        } else {
            Err("its features and XSAVE components do not fit together")
        }
    }
}

fn invalid(text: &str, problem: &'static str) -> CpuError {
    CpuError::Parse {
        text: text.chars().take(MAX_QUOTE).collect(),
        problem,
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
    format!("{:x}.{:x}.{register}", word.leaf, word.subleaf)
}

fn hex(text: &str) -> Result<u32, &'static str> {
    // The standard library would also take a sign.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u32::from_str_radix(text, 16).ok();
    value.filter(|_| is_hex).ok_or("it is not hexadecimal")
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
