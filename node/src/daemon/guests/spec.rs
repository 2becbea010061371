//! What a guest is made of on this host.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use godwit_proto::cluster::{GuestMachine, MachineCpu, MachineDisk};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{DiskSpec, GuestSpec, MemorySpec, SerialSpec};
use godwit_vmm::cpu::{Baseline, CpuProfile};

/// The guest's own file in the directory of its process: what it writes to its serial port.
pub(super) const SERIAL: &str = "serial.log";

/// `machine` as its process is asked for it. Volumes that nobody has used yet are made.
///
/// # Errors
/// A feature that this build does not know, a network, or a volume that cannot be made.
pub(super) fn spec(
    name: &str,
    machine: &GuestMachine,
    dir: &Path,
) -> Result<GuestSpec, CodedError> {
    if let Some(net) = machine.nets.first() {
        let text = format!(
            "network card {:?} cannot be attached to bridge {:?}: this build makes no taps",
            net.id, net.bridge
        );
        return Err(
            CodedError::new(ErrorCode::Tap, text).with_fix("use a guest without network cards")
        );
    }
    let disks = machine.disks.iter().map(|disk| {
        let path = volume(disk)?;
        Ok(DiskSpec {
            id: disk.id.clone(),
            path: text(&path)?,
            read_only: disk.read_only,
            discard: true,
            // No host cache may hold what another host has written since.
            direct: disk.shared,
        })
    });
    Ok(GuestSpec {
        name: name.to_owned(),
        vcpus: machine.vcpus,
        memory: MemorySpec {
            size_bytes: machine.memory_bytes,
            huge_pages: machine.huge_pages,
        },
        cpu_profile: profile(&machine.cpu)?,
        boot: machine.boot.clone(),
        serial: SerialSpec::File(text(&dir.join(SERIAL))?),
        disks: disks.collect::<Result<_, CodedError>>()?,
        nets: Vec::new(),
        rng: machine.rng,
        console: None,
    })
}

fn text(path: &Path) -> Result<String, CodedError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("the path {} is not UTF-8", path.display());
        CodedError::new(ErrorCode::ConfigInvalid, text).with_fix("choose another path")
    })
}

fn profile(cpu: &MachineCpu) -> Result<String, CodedError> {
    Ok(match cpu {
        MachineCpu::Host => CpuProfile::Host.to_string(),
        MachineCpu::Level(level) => level.name().to_owned(),
        MachineCpu::Features(features) => {
            let baseline = Baseline::from_features(features).map_err(|error| {
                CodedError::from_error(ErrorCode::CpuIncompatible, &error)
                    .with_fix("upgrade this node")
            })?;
            CpuProfile::Baseline(baseline).to_string()
        }
    })
}

/// The file of a volume, of its size.
fn volume(disk: &MachineDisk) -> Result<PathBuf, CodedError> {
    let path = Path::new(&disk.pool).join(disk.volume.to_string());
    let made = || -> io::Result<()> {
        // Whoever else makes it at the same time makes the same.
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if file.metadata()?.len() < disk.size_bytes {
            file.set_len(disk.size_bytes)?;
            file.sync_all()?;
            fs::File::open(&disk.pool)?.sync_all()?;
        }
        Ok(())
    };
    made().map_err(|error| {
        let text = format!("volume {} in {}: {error}", disk.volume, disk.pool);
        CodedError::new(ErrorCode::Disk, text)
            .with_fix("look whether the pool's directory is there and can be written")
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::guest::{BootSpec, HugePages, Kernel};
    use godwit_proto::id::VolumeId;

    fn machine(pool: &Path) -> GuestMachine {
        GuestMachine {
            vcpus: 2,
            memory_bytes: 64 << 20,
            huge_pages: HugePages::None,
            cpu: MachineCpu::Host,
            boot: BootSpec {
                kernel: Kernel::BuiltIn,
                initrd: None,
                cmdline: None,
            },
            disks: vec![MachineDisk {
                id: "root".into(),
                volume: VolumeId::from_bytes([1; 16]),
                pool: pool.to_str().unwrap().into(),
                shared: true,
                size_bytes: 1 << 20,
                read_only: false,
            }],
            nets: Vec::new(),
            rng: true,
        }
    }

    #[test]
    fn a_volume_is_made_once_and_a_shared_one_is_used_without_cache() {
        let dir = tempfile::tempdir().unwrap();
        let made = spec("a", &machine(dir.path()), dir.path()).unwrap();
        let disk = &made.disks[0];
        assert!(disk.direct);
        assert_eq!(fs::metadata(&disk.path).unwrap().len(), 1 << 20);
        fs::write(&disk.path, vec![7; 2 << 20]).unwrap();
        spec("a", &machine(dir.path()), dir.path()).unwrap();
        assert_eq!(fs::read(&disk.path).unwrap(), vec![7; 2 << 20]);
        let error = spec("a", &machine(&dir.path().join("absent")), dir.path()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Disk);
    }
}
