//! What a VMM takes beyond its guest's memory.
//!
//! The proportional set size (PSS) of all mappings of the process but the guest's
//! memory, which is a memfd under both VMMs. What the kernel holds for the
//! process (page tables, KVM's structures) is not in it.

use std::fs;

use super::BenchError;

const GUEST_MEMORY: [&str; 2] = ["memfd:godwit-guest-memory", "memfd:memory-backend-memfd"];

/// Of the process `pid`, MiB.
///
/// # Errors
/// When it is gone, or has no guest.
pub fn mib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).map_err(|source| BenchError::System {
        doing: format!("read {path}"),
        source,
    })?;
    overhead_kib(&smaps)
        .map(|kib| kib as f64 / 1024.0)
        .ok_or_else(|| BenchError::Report {
            line: path,
            key: "mapping of guest memory".to_owned(),
        })
}

/// Sum of PSS over all mappings but the guest's memory; `None` when that is not there.
fn overhead_kib(smaps: &str) -> Option<u64> {
    let (mut sum, mut seen, mut is_guest) = (0, false, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if !is_guest => sum += words.next()?.parse::<u64>().ok()?,
            // A mapping's first line: its addresses.
            Some(first) if !first.ends_with(':') => {
                is_guest = GUEST_MEMORY.iter().any(|name| line.contains(name));
                seen |= is_guest;
            }
            _ => {}
        }
    }
    seen.then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55e0 r--p 00000000 fe:00 123  /opt/godwit
Rss:                 100 kB
Pss:                  70 kB
Pss_Dirty:            60 kB
7f00-7fff rw-s 00000000 00:01 9  /memfd:godwit-guest-memory (deleted)
Pss:                5000 kB
7fff-8000 rw-p 00000000 00:00 0  [stack]
Pss:                   8 kB
";

    #[test]
    fn the_guests_memory_does_not_count() {
        assert_eq!(overhead_kib(SMAPS), Some(78));
    }

    #[test]
    fn a_process_without_guest_memory_is_not_measured() {
        assert_eq!(overhead_kib(&SMAPS.replace("memfd", "fd")), None);
    }
}
