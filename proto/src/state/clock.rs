//! The guest's clock.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// kvmclock at the moment of the pause: `kvm_clock_data`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// kvmclock, in nanoseconds since boot.
    pub clock_ns: u64,
    /// `KVM_CLOCK_TSC_STABLE`, `KVM_CLOCK_REALTIME`, `KVM_CLOCK_HOST_TSC`: which fields below KVM
    /// filled in.
    pub flags: u32,
    /// The host's wall clock at `clock_ns`, in nanoseconds since 1970; valid by its flag.
    pub realtime_ns: u64,
    /// The host's TSC at `clock_ns`; valid by its flag, and only on the host that took it.
    pub host_tsc: u64,
}
record!(ClockState, Kind::Clock, version = 1);
