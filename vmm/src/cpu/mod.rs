//! What a guest's processors look like: CPUID tables, decided without asking KVM anything.
//!
//! ```text
//! host table (KVM_GET_SUPPORTED_CPUID) ─┐
//! profile: host | level | baseline ─────┼─> GuestCpu ──for_vcpu(n)──> KVM_SET_CPUID2
//! number of vCPUs, options ─────────────┘
//! ```
//!
//! A guest can move only to hosts that have everything it was shown. [`CpuProfile::Host`] shows it
//! this host's processor; a [`Level`] or a [`Baseline`] shows a fixed set of features, the same on
//! every host, or is refused with the names of what the host lacks. A baseline is what several hosts
//! have in common: only features that this crate knows by name (see [`features`]), so a bit whose
//! meaning is unknown is never promised. Features whose state differs in layout between hosts (the
//! XSAVE area of AMD's generations) are not common even when every host has them.
//!
//! What a profile never shows unless asked: nested virtualization, which makes state that KVM cannot
//! always save, and the invariant TSC, which makes Linux prefer the TSC over kvmclock and so lose
//! time on a host of another frequency.
//!
//! The topology is one package of single-threaded cores, told alike through every leaf that tells it.
//!
//! Levels leave out speculation controls, which differ by vendor and microcode; a computed baseline
//! has those that all its hosts have. Cache sizes are this host's in every profile.

mod baseline;
pub mod features;
mod guest;
mod host;
mod level;
mod members;
mod profile;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod topology;
mod vendor;
mod xstate;

pub use baseline::Baseline;
pub use guest::{GuestCpu, MAX_VCPUS, Options};
pub use host::HostCpu;
pub use level::Level;
pub use members::node_cpu;
pub use profile::CpuProfile;
pub use table::Register;
pub use vendor::Vendor;

/// Why a CPU profile cannot be read, computed or shown.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpuError {
    /// A host's table lacks what every processor has.
    #[error("the host's CPUID table has no leaf {leaf:#x}")]
    NoLeaf {
        /// The leaf.
        leaf: u32,
    },
    /// Not a vendor for which a common baseline is known to be safe.
    #[error("CPUs of vendor {vendor:?} have no baseline; use the profile \"host\"")]
    UnknownVendor {
        /// The vendor's twelve letters.
        vendor: String,
    },
    /// A baseline of nothing.
    #[error("a baseline needs at least one host")]
    NoHosts,
    /// Guests cannot move between vendors.
    #[error("hosts of {first} and {other} have no common baseline; make one for each vendor")]
    MixedVendors {
        /// Vendor of the first host.
        first: Vendor,
        /// A vendor that differs.
        other: Vendor,
    },
    /// The host cannot show what the profile promises.
    #[error(
        "this host's CPU lacks {} of profile {profile}; choose a lower profile or another host",
        features.join(", ")
    )]
    Missing {
        /// The profile's short name.
        profile: &'static str,
        /// What is missing.
        features: Vec<String>,
    },
    /// No vCPU, or more than can be described.
    #[error("cannot describe a CPU of {vcpus} cores; use 1 to {MAX_VCPUS}")]
    Vcpus {
        /// How many were asked for.
        vcpus: u32,
    },
    /// Not the text of a profile.
    #[error("{text:?} is not a CPU profile: {problem}")]
    Parse {
        /// The part that cannot be read.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}
