//! Who made a processor.

use std::fmt;
use std::str::FromStr;

use super::CpuError;
use super::table::Table;

/// A vendor for which baselines are known to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD.
    Amd,
    /// HygonGenuine, whose processors answer as AMD's.
    Hygon,
}

impl Vendor {
    /// The vendor of a table.
    pub(super) fn of(table: &Table) -> Result<Self, CpuError> {
        let leaf = table.get(0, 0).ok_or(CpuError::NoLeaf { leaf: 0 })?;
        let bytes: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        let vendor = String::from_utf8_lossy(&bytes).into_owned();
        vendor
            .parse()
            .map_err(|_| CpuError::UnknownVendor { vendor })
    }

    /// Whether the leaves that AMD defined are present.
    pub(super) fn is_amd_like(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Intel => "GenuineIntel",
            Self::Amd => "AuthenticAMD",
            Self::Hygon => "HygonGenuine",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Vendor {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        [Self::Intel, Self::Amd, Self::Hygon]
            .into_iter()
            .find(|vendor| vendor.name() == text)
            .ok_or_else(|| CpuError::Parse {
                text: text.to_owned(),
                problem: "it is not a known vendor",
            })
    }
}
