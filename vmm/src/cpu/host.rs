//! What a host's processor and its KVM can show to a guest.

use godwit_proto::state::vcpu::CpuidEntry;

use super::features::TSC_DEADLINE_BIT;
use super::table::{Table, leaf};

/// A host's CPUID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCpu {
    table: Table,
}

impl HostCpu {
    /// From the entries of `KVM_GET_SUPPORTED_CPUID`. That table long left out the TSC-deadline
    /// timer; `tsc_deadline` is what `KVM_CAP_TSC_DEADLINE_TIMER` says about it (KVM API, 4.46).
    pub fn new(entries: impl IntoIterator<Item = CpuidEntry>, tsc_deadline: bool) -> Self {
        let mut table: Table = entries.into_iter().collect();
        if let Some(entry) = table.get_mut(leaf::FEATURES, 0)
            && tsc_deadline
        {
            entry.ecx |= 1 << TSC_DEADLINE_BIT;
        }
        Self { table }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
