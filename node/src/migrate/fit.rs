//! Whether a guest that is offered fits this host. Every reason why not is told at once, before
//! anything is built.

use std::fs;
use std::path::{Path, PathBuf};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{GuestSpec, HugePages};
use godwit_proto::migrate::{Mode, Offer, OfferedDevice};
use godwit_vmm::cpu::{Baseline, HostCpu};
use godwit_vmm::kvm::Hypervisor;

/// The most groups above this process's that are asked for their limit.
const MAX_GROUPS: usize = 32;

/// Why this host cannot take the guest of `offer`, which is `spec` here; empty when it can.
pub(super) fn reasons(offer: &Offer, spec: &GuestSpec, overcommit: bool) -> Vec<CodedError> {
    // A guest that stays on this host brings its memory along.
    let memory = match overcommit || offer.mode == Mode::Local {
        true => Ok(()),
        false => check_memory(spec, free_bytes()),
    };
    let checks = [check_cpu(offer), check_devices(offer, spec), memory];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Whether this host's CPU can show what the guest has seen.
fn check_cpu(offer: &Offer) -> Result<(), CodedError> {
    let invalid =
        |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::CpuIncompatible, error);
    let hypervisor = Hypervisor::open()
        .map_err(|error| CodedError::from_error(ErrorCode::KvmUnavailable, &error))?;
    let here = hypervisor
        .host_cpu()
        .map_err(|error| CodedError::from_error(ErrorCode::KvmUnavailable, &error))?;
    let seen = HostCpu::new(offer.cpuid.iter().copied(), false);
    let seen = Baseline::of(&[&seen]).map_err(|error| invalid(&error))?;
    let missing = seen
        .missing_features(&here)
        .map_err(|error| invalid(&error))?;
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("this host's CPU lacks {}", missing.join(", "));
    Err(CodedError::new(ErrorCode::CpuIncompatible, text)
        .with_fix("start the guest with a CPU profile that both hosts can show"))
}

/// Whether the devices that this build makes of the spec are those that the guest has.
fn check_devices(offer: &Offer, spec: &GuestSpec) -> Result<(), CodedError> {
    let here = devices(spec);
    if offer.devices == here {
        return Ok(());
    }
    let differing = offer.devices.iter().filter(|device| !here.contains(device));
    let differing: Vec<_> = differing
        .map(|device| {
            format!(
                "{:?} (virtio type {}) in slot {}",
                device.id, device.device_type, device.slot
            )
        })
        .collect();
    let text = match differing.is_empty() {
        true => "the guest lacks devices that this build would give it".into(),
        false => format!("this build cannot offer device {}", differing.join(", ")),
    };
    Err(CodedError::new(ErrorCode::DeviceIncompatible, text)
        .with_fix("use builds of the same version on both hosts"))
}

/// The devices of `spec` in the order of their slots, with their virtio types.
pub(super) fn devices(spec: &GuestSpec) -> Vec<OfferedDevice> {
    // virtio 1.2, section 5.
    let [net_type, block_type, console_type, rng_type] = [1, 2, 3, 4];
    let disks = spec.disks.iter().map(|disk| (block_type, disk.id.clone()));
    let nets = spec.nets.iter().map(|net| (net_type, net.id.clone()));
    let rng = spec.rng.then(|| (rng_type, "rng".to_owned()));
    let console = spec
        .console
        .is_some()
        .then(|| (console_type, "console".to_owned()));
    (1..)
        .zip(disks.chain(nets).chain(rng).chain(console))
        .map(|(slot, (device_type, id))| OfferedDevice {
            slot,
            device_type,
            id,
        })
        .collect()
}

/// Whether there is room for all of the guest's memory, of which nothing is touched yet: without it
/// the kernel would end some guest of this host half-way. What is not known is not held against it;
/// huge pages are reserved when the guest is built.
fn check_memory(spec: &GuestSpec, free: Option<u64>) -> Result<(), CodedError> {
    let needed = spec.memory.size_bytes;
    match free {
        Some(free) if free < needed && spec.memory.huge_pages != HugePages::Huge2M => {
            let text = format!(
                "the guest has {} MiB of memory, and {} MiB are free here",
                needed >> 20,
                free >> 20
            );
            Err(CodedError::new(ErrorCode::Memory, text)
                .with_fix("free some, raise the limit, or give `godwit receive` --overcommit"))
        }
        _ => Ok(()),
    }
}

/// Bytes that this process may still come to use.
fn free_bytes() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let host = free_of_host(&read(Path::new("/proc/meminfo"))?)?;
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups_of(&groups).into_iter().filter_map(|group| {
        let number = |name| read(&group.dir.join(name))?.trim().parse::<u64>().ok();
        let limit = number(group.limit)?;
        let cache = inactive_file(&read(&group.dir.join("memory.stat"))?).unwrap_or(0);
        Some(limit.saturating_sub(number(group.usage)?.saturating_sub(cache)))
    });
    limits.chain([host]).min()
}

/// From `/proc/meminfo` (proc(5)).
fn free_of_host(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let available = kib("MemAvailable:")?;
    Some((available + kib("SwapFree:").unwrap_or(0)) << 10)
}

/// A control group, and its files of interest.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    dir: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

/// The groups that bound the memory of who has this `/proc/self/cgroup`, in versions 2 and 1
/// (cgroups(7)). Those that are mounted elsewhere are not found, and bound nothing here.
fn groups_of(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            _ => continue,
        };
        let own = Path::new(path.trim_start_matches('/'));
        groups.extend(own.ancestors().take(MAX_GROUPS).map(|dir| Group {
            dir: Path::new(root).join(dir),
            limit,
            usage,
        }));
    }
    groups
}

/// What can be dropped of a group's page cache, from its `memory.stat`. Version 1 counts the groups
/// below under another name.
fn inactive_file(stat: &str) -> Option<u64> {
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    value("total_inactive_file ").or_else(|| value("inactive_file "))
}

#[cfg(test)]
mod tests {
    use godwit_proto::guest::{BootSpec, Kernel, MemorySpec, SerialSpec};

    use super::*;

    fn spec(memory_mib: u64) -> GuestSpec {
        GuestSpec {
            name: "guest".into(),
            vcpus: 1,
            memory: MemorySpec {
                size_bytes: memory_mib << 20,
                huge_pages: HugePages::None,
            },
            cpu_profile: "host".into(),
            boot: BootSpec {
                kernel: Kernel::BuiltIn,
                initrd: None,
                cmdline: None,
            },
            serial: SerialSpec::Null,
            disks: Vec::new(),
            nets: Vec::new(),
            rng: false,
            console: None,
        }
    }

    #[test]
    fn a_guest_is_refused_when_less_is_free_than_it_has() {
        assert!(check_memory(&spec(512), Some(512 << 20)).is_ok());
        assert!(check_memory(&spec(512), None).is_ok());
        let error = check_memory(&spec(512), Some((512 << 20) - 1)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Memory);
        assert!(error.message.contains("512 MiB"), "{error}");
        let mut reserved = spec(512);
        reserved.memory.huge_pages = HugePages::Huge2M;
        assert!(check_memory(&reserved, Some(0)).is_ok());
    }

    #[test]
    fn what_the_host_has_free_is_what_is_available_and_swap() {
        let meminfo = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:    40 kB\nSwapFree:  2 kB\n";
        assert_eq!(free_of_host(meminfo), Some(42 << 10));
        assert_eq!(free_of_host("MemTotal: 100 kB\n"), None);
        assert_eq!(free_of_host("MemAvailable: many kB\n"), None);
    }

    #[test]
    fn every_group_above_a_process_bounds_it() {
        let dirs = |text: &str| -> Vec<PathBuf> {
            groups_of(text).into_iter().map(|group| group.dir).collect()
        };
        let expected = ["a/b", "a", ""].map(|dir| Path::new("/sys/fs/cgroup").join(dir));
        assert_eq!(dirs("0::/a/b\n"), expected);
        let expected = ["a", ""].map(|dir| Path::new("/sys/fs/cgroup/memory").join(dir));
        assert_eq!(dirs("5:cpu:/x\n4:memory:/a\n"), expected);
        assert!(dirs("nonsense\n1:name=systemd:/\n").is_empty());
        assert_eq!(inactive_file("cache 9\ninactive_file 7\n"), Some(7));
        let both = "inactive_file 7\ntotal_inactive_file 8\n";
        assert_eq!(inactive_file(both), Some(8));
    }

    #[test]
    fn a_free_amount_is_found_on_this_host() {
        assert!(free_bytes().is_some_and(|bytes| bytes > 0));
    }
}
