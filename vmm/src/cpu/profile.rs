//! How a guest's processor is chosen, and how the choice is written.

use std::fmt;
use std::str::FromStr;

use super::baseline::Baseline;
use super::guest::{self, GuestCpu, Options};
use super::host::HostCpu;
use super::level::Level;
use super::vendor::Vendor;
use super::{CpuError, MAX_VCPUS};

/// Begins the text of a computed baseline.
const BASELINE_PREFIX: &str = "baseline:";

/// Which processor a guest is shown. As text: `host`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, or
/// `baseline:` and a [`Baseline`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CpuProfile {
    /// This host's.
    #[default]
    Host,
    /// A named one.
    Level(Level),
    /// What several hosts have in common.
    Baseline(Baseline),
}

impl CpuProfile {
    /// What `host` lacks, by name, to show this profile; empty when it can.
    ///
    /// # Errors
    /// [`CpuError::UnknownVendor`] or [`CpuError::NoLeaf`] for a host that can show no baseline.
    pub fn missing_features(&self, host: &HostCpu) -> Result<Vec<String>, CpuError> {
        self.baseline(host)?.map_or_else(
            || Ok(Vec::new()),
            |baseline| baseline.missing_features(host),
        )
    }

    /// The CPUID tables of a guest with `vcpus` vCPUs on `host`.
    ///
    /// # Errors
    /// [`CpuError::Missing`] names what the host lacks; [`CpuError::Vcpus`]; and as
    /// [`CpuProfile::missing_features`].
    pub fn apply(
        &self,
        host: &HostCpu,
        vcpus: u32,
        options: Options,
    ) -> Result<GuestCpu, CpuError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(CpuError::Vcpus { vcpus });
        }
        let features = self.missing_features(host)?;
        if !features.is_empty() {
            let profile = self.short_name();
            return Err(CpuError::Missing { profile, features });
        }
        let table = match self.baseline(host)? {
            None => guest::show_host(host, options)?,
            Some(baseline) => guest::show_baseline(host, &baseline, self.brand(), options),
        };
        Ok(GuestCpu::new(table, vcpus))
    }

    /// The fixed features; `None` for the host's own.
    fn baseline(&self, host: &HostCpu) -> Result<Option<Baseline>, CpuError> {
        match self {
            Self::Host => Ok(None),
            Self::Level(level) => Ok(Some(level.baseline(Vendor::of(host.table())?))),
            Self::Baseline(baseline) => Ok(Some(baseline.clone())),
        }
    }

    fn short_name(&self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Level(level) => level.name(),
            Self::Baseline(_) => "baseline",
        }
    }

    /// The brand string of a processor that is not the host's.
    fn brand(&self) -> String {
        format!("Godwit virtual CPU ({})", self.short_name())
    }
}

impl fmt::Display for CpuProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Level(level) => level.fmt(f),
            Self::Baseline(baseline) => write!(f, "{BASELINE_PREFIX}{baseline}"),
        }
    }
}

impl FromStr for CpuProfile {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<Self, CpuError> {
        if text == "host" {
            return Ok(Self::Host);
        }
        match text.strip_prefix(BASELINE_PREFIX) {
            Some(baseline) => baseline.parse().map(Self::Baseline),
            None => text.parse().map(Self::Level),
        }
    }
}
