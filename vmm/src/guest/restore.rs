//! A guest out of saved state. All of it is untrusted.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use godwit_proto::guest::{GuestSpec, HugePages};
use godwit_proto::process::Overrides;
use godwit_proto::record::RecordReader;
use godwit_proto::state::clock::ClockState;
use godwit_proto::state::irqchip::IrqchipState;
use godwit_proto::state::memory::{MemoryLayout, SnapshotMemory};
use godwit_proto::state::pci::{PciDeviceState, PciRootState};
use godwit_proto::state::power::GedState;
use godwit_proto::state::serial::SerialState;
use godwit_proto::state::vcpu::VcpuState;

use super::error::GuestError;
use super::event::{GuestEvent, Signal};
use super::machine::Claiming;
use super::snapshot::{self, MEMORY_FILE};
use super::{Attachments, Guest, Phase, RestoreOptions};
use crate::memory::image;
use crate::memory::layout::{PAGE_SIZE, ram_ranges};
use crate::memory::lazy::{LazyFill, Source};

/// What [`super::save`] wrote.
struct SavedGuest {
    spec: GuestSpec,
    layout: MemoryLayout,
    vcpus: Vec<VcpuState>,
    irqchip: IrqchipState,
    clock: ClockState,
    serial: SerialState,
    power: GedState,
    pci_root: PciRootState,
    pci_devices: Vec<PciDeviceState>,
}

impl SavedGuest {
    fn take(records: &mut RecordReader<'_>) -> Result<Self, GuestError> {
        Ok(Self {
            spec: records.one()?,
            layout: records.one()?,
            vcpus: records.many()?,
            irqchip: records.one()?,
            clock: records.one()?,
            serial: records.one()?,
            power: records.one()?,
            pci_root: records.one()?,
            pci_devices: records.many()?,
        })
    }

    /// Checks that the records describe the same machine.
    fn check(&self) -> Result<(), GuestError> {
        let mismatch = |what, found, here| Err(GuestError::Mismatch { what, found, here });
        let size = self.spec.memory.size_bytes;
        if self.layout.size_bytes != size {
            return mismatch("bytes of memory", self.layout.size_bytes, size);
        }
        let page_size = u64::from(self.layout.page_size);
        let huge = self.spec.memory.huge_pages == HugePages::Huge2M;
        let spec_page_size = if huge { 2 << 20 } else { PAGE_SIZE };
        if page_size != spec_page_size {
            return mismatch("bytes in a page", page_size, spec_page_size);
        }
        let expected = ram_ranges(size);
        let same = self.layout.ranges.len() == expected.len()
            && self
                .layout
                .ranges
                .iter()
                .zip(&expected)
                .all(|(saved, here)| (saved.start, saved.len) == (here.start, here.len));
        if !same {
            return mismatch(
                "memory ranges of another address map",
                self.layout.ranges.len() as u64,
                expected.len() as u64,
            );
        }
        let vcpus = u64::from(self.spec.vcpus);
        if self.vcpus.len() as u64 != vcpus {
            return mismatch("vCPUs", self.vcpus.len() as u64, vcpus);
        }
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            if vcpu.index != index {
                return mismatch("as the number of a vCPU", vcpu.index.into(), index.into());
            }
        }
        Ok(())
    }
}

impl SavedGuest {
    /// Checks that the state is of a guest built like the one described by `here`. Paths and taps may
    /// differ: they are this host's affair.
    fn check_fits(&self, here: &GuestSpec) -> Result<(), GuestError> {
        let saved = &self.spec;
        for (what, found, here) in [
            ("vCPUs", saved.vcpus.into(), here.vcpus.into()),
            (
                "bytes of memory",
                saved.memory.size_bytes,
                here.memory.size_bytes,
            ),
            ("disks", saved.disks.len() as u64, here.disks.len() as u64),
            (
                "network cards",
                saved.nets.len() as u64,
                here.nets.len() as u64,
            ),
            ("entropy devices", saved.rng.into(), here.rng.into()),
            (
                "consoles",
                saved.console.is_some().into(),
                here.console.is_some().into(),
            ),
        ] {
            if found != here {
                return Err(GuestError::Mismatch { what, found, here });
            }
        }
        Ok(())
    }
}

/// The guest of the snapshot at `dir` as `overrides` change it, unvalidated: what its restore will
/// have to be connected to.
///
/// # Errors
/// [`GuestError`] when the state file cannot be read, or has no such device to override.
pub fn snapshot_spec(dir: &Path, overrides: &Overrides) -> Result<GuestSpec, GuestError> {
    let bytes = snapshot::read_state(dir)?;
    let mut spec = RecordReader::new(&bytes)?.one()?;
    apply_overrides(&mut spec, overrides)?;
    Ok(spec)
}

pub(super) fn restore(
    dir: &Path,
    options: &RestoreOptions,
    attachments: Attachments,
) -> Result<Guest, GuestError> {
    let bytes = snapshot::read_state(dir)?;
    let mut records = RecordReader::new(&bytes)?;
    let mut saved = SavedGuest::take(&mut records)?;
    let memory: SnapshotMemory = records.one()?;
    records.finish()?;
    apply_overrides(&mut saved.spec, &options.overrides)?;
    saved.check()?;
    image::check(&memory, saved.spec.memory.size_bytes)?;
    let path = dir.join(MEMORY_FILE);
    let file = File::open(&path).map_err(|source| GuestError::SnapshotRead {
        path: path.clone(),
        source,
    })?;
    check_length(&file, &path, memory.file_bytes)?;

    let guest = Guest::assemble(
        saved.spec.clone(),
        attachments,
        Claiming::Now,
        Phase::Waiting,
    )?;
    let ram = &guest.machine.ram;
    if options.lazy {
        let source = Source {
            file,
            chunk_bytes: memory.chunk_bytes.into(),
            digests: memory.digests,
        };
        let signals = guest.signals.clone();
        let fill = LazyFill::start(ram, source, move |failure| {
            signals.send(Signal::Memory(failure));
        })?;
        *guest.lazy() = Some(fill);
    } else {
        image::read(ram, &file, &memory)?;
    }
    apply(&guest, saved)?;
    Ok(guest)
}

/// Gives a waiting guest the state of the guest that it takes the place of; its memory is in place.
pub(super) fn take_state(guest: &Guest, bytes: &[u8]) -> Result<(), GuestError> {
    let mut records = RecordReader::new(bytes)?;
    let saved = SavedGuest::take(&mut records)?;
    records.finish()?;
    saved.check()?;
    saved.check_fits(&guest.spec)?;
    apply(guest, saved)
}

/// Order matters: interrupt controllers and clock before vCPUs, whose timers refer to them; devices
/// last, for they raise interrupts.
fn apply(guest: &Guest, saved: SavedGuest) -> Result<(), GuestError> {
    let machine = &guest.machine;
    let begin = Instant::now();
    machine.vm.restore_irqchip(&saved.irqchip)?;
    machine.vm.restore_clock(&saved.clock)?;
    restore_vcpus(guest, saved.vcpus, saved.clock.clock_ns)?;
    machine.serial.restore(&saved.serial)?;
    machine.power.restore(&saved.power)?;
    machine.pci.restore(&saved.pci_root, &saved.pci_devices)?;
    *guest.phase() = Phase::Paused;
    guest.state_restore.get_or_init(|| begin.elapsed());
    Ok(())
}

/// Restoring a vCPU touches guest memory (kvmclock's page, for one), which may be damaged.
fn restore_vcpus(guest: &Guest, states: Vec<VcpuState>, clock_ns: u64) -> Result<(), GuestError> {
    let progress = guest.lazy().as_ref().map(|fill| fill.progress().clone());
    let hopeless = || {
        progress
            .as_ref()
            .is_some_and(|p| p.failed.load(Ordering::Acquire))
    };
    let result = guest
        .machine
        .restore_vcpus(states, Some(clock_ns), &hopeless);
    match result
        .is_err()
        .then(|| guest.inbox.wait(Some(Instant::now())))
    {
        Some(Some(GuestEvent::MemoryLost { cause })) => Err(GuestError::MemoryLost { cause }),
        _ => result,
    }
}

/// A file that is cut short is told before anything is built.
fn check_length(file: &File, path: &Path, expected: u64) -> Result<(), GuestError> {
    let len = file
        .metadata()
        .map_err(|source| GuestError::SnapshotRead {
            path: path.into(),
            source,
        })?
        .len();
    if len != expected {
        return Err(GuestError::Mismatch {
            what: "bytes in its memory file",
            found: len,
            here: expected,
        });
    }
    Ok(())
}

fn apply_overrides(spec: &mut GuestSpec, overrides: &Overrides) -> Result<(), GuestError> {
    let no_such = |id: &str| GuestError::NoSuchDevice { id: id.to_owned() };
    for change in &overrides.disks {
        let disk = spec.disks.iter_mut().find(|d| d.id == change.id);
        disk.ok_or_else(|| no_such(&change.id))?
            .path
            .clone_from(&change.path);
    }
    for change in &overrides.nets {
        let net = spec.nets.iter_mut().find(|n| n.id == change.id);
        net.ok_or_else(|| no_such(&change.id))?
            .tap
            .clone_from(&change.tap);
    }
    if let Some(serial) = &overrides.serial {
        spec.serial = serial.clone();
    }
    if let Some(console) = &overrides.console {
        if spec.console.is_none() {
            return Err(no_such("console"));
        }
        spec.console = Some(console.clone());
    }
    Ok(())
}
