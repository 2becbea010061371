//! What this host has for guests.

use std::fs;
use std::thread;

use godwit_proto::cluster::{Capacity, NodeCpu};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_vmm::cpu::node_cpu;
use godwit_vmm::guest::GuestError;
use godwit_vmm::kvm::{Hypervisor, KvmError};

/// What guests cannot have, at least: the host's own programs live on it.
const LEAST_RESERVED: u64 = 512 << 20;
/// The part of memory that guests cannot have: one in so many.
const RESERVED_PART: u64 = 20;

/// The host's memory and processors; a twentieth of its memory, and at least 512 MiB, is its own.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn capacity() -> Result<Capacity, CodedError> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    let memory_bytes = total_memory(&text).ok_or_else(|| {
        CodedError::new(
            ErrorCode::Other,
            "/proc/meminfo does not tell how much memory there is",
        )
    })?;
    let cpus = thread::available_parallelism()
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    Ok(Capacity {
        memory_bytes,
        reserved_bytes: (memory_bytes / RESERVED_PART).max(LEAST_RESERVED),
        cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX),
    })
}

/// `MemTotal`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kilobytes = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

/// What its processors can show to guests.
///
/// # Errors
/// There is no usable KVM, or the vendor is unknown.
pub(super) fn cpu() -> Result<NodeCpu, CodedError> {
    let unusable = |error: KvmError| GuestError::from(error).coded();
    let hypervisor = Hypervisor::open().map_err(unusable)?;
    let host = hypervisor.host_cpu().map_err(unusable)?;
    node_cpu(&host).map_err(|error| {
        CodedError::from_error(ErrorCode::CpuIncompatible, &error)
            .with_fix("nodes need processors of Intel, AMD or Hygon")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let text = "MemTotal:       24689764 kB\nMemFree:        1 kB\n";
        assert_eq!(total_memory(text), Some(24_689_764 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        let capacity = capacity().unwrap();
        assert!(capacity.reserved_bytes < capacity.memory_bytes && capacity.cpus > 0);
    }
}
