//! The hardware of one guest, assembled from its configuration.
//!
//! Order matters: interrupt controllers before vCPUs, memory before anything that reads it, devices
//! before the buses are frozen, vCPU threads last.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use godwit_proto::process::{DeviceStats, NamedCounter};
use godwit_proto::state::irqchip::IrqchipState;
use godwit_proto::state::vcpu::{CpuidEntry, VcpuState};

use super::error::GuestError;
use super::event::{Signal, Signals};
use super::{Attachments, Heirloom};
use crate::boot::{self, BootRegisters, KernelSource};
use crate::bus::Bus;
use crate::config::{GuestConfig, KernelConfig};
use crate::cpu;
use crate::devices::pci::PciRoot;
use crate::devices::power::AcpiPower;
use crate::devices::serial::Serial;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::block::{Block, BlockCounters, DiskClaim};
use crate::devices::virtio::console::Console;
use crate::devices::virtio::net::{Announcer, Net, NetHandle};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::VirtioPciDevice;
use crate::kvm::{Hypervisor, IrqRouter, RING_MAX_ENTRIES, Vm, install_kick_handler};
use crate::memory::layout::{ACPI_GED_IRQ, SERIAL_IRQ, ram_ranges};
use crate::memory::{DirtyLog, GuestRam};
use crate::payload;
use crate::vcpu::{VcpuHandle, VcpuShared};

/// How written pages are reported to whoever moves the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirtyTracking {
    /// The bitmap where it can be cleared in pieces, else rings, else the plain bitmap.
    #[default]
    Auto,
    /// The bitmap.
    Bitmap,
    /// A ring per vCPU; an error where the kernel has none.
    Ring,
}

/// When a guest takes the right to use its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claiming {
    /// When it is built: nobody else may have them.
    Now,
    /// When it runs: until then the guest that it takes the place of has them.
    AtResume,
}

/// What a vCPU and the interrupt controllers are at power-on; a reset goes back to it.
struct PowerOn {
    irqchip: IrqchipState,
    vcpus: Vec<VcpuState>,
}

/// A guest's hardware. Fields are dropped in order: vCPUs stop before what they use goes away.
pub(super) struct Machine {
    /// Of the last announcement; at work for a moment after it.
    announcer: Mutex<Option<Announcer>>,
    pub(super) vcpus: Vec<Arc<VcpuHandle>>,
    pub(super) shared: Arc<VcpuShared>,
    pub(super) pci: Arc<PciRoot>,
    pub(super) serial: Arc<Serial>,
    pub(super) power: Arc<AcpiPower>,
    pub(super) dirty_log: Arc<DirtyLog>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) vm: Arc<Vm>,
    counters: Counters,
    power_on: PowerOn,
    config: GuestConfig,
}

/// Where devices count what they do.
struct Counters {
    disks: Vec<(String, Arc<BlockCounters>, DiskClaim)>,
    nets: Vec<(String, NetHandle)>,
}

impl Machine {
    /// Builds the hardware, vCPUs paused, memory zero, nothing loaded.
    pub(super) fn new(
        config: GuestConfig,
        attachments: Attachments,
        claiming: Claiming,
        signals: &Signals,
    ) -> Result<Self, GuestError> {
        install_kick_handler()?;
        let hypervisor = Hypervisor::open()?;
        let cpu = config.cpu.apply(
            &hypervisor.host_cpu()?,
            config.vcpus,
            cpu::Options::default(),
        )?;
        let (bytes, huge_pages) = (config.memory_bytes, config.huge_pages);
        let (ram, taps) = match attachments.heirloom {
            Some(Heirloom { memory, taps }) => (GuestRam::adopt(memory, bytes, huge_pages)?, taps),
            None => (GuestRam::allocate(bytes, huge_pages)?, None),
        };
        let ram = Arc::new(ram);
        let mut vm = hypervisor.create_vm()?;
        track_dirty_pages(&hypervisor, &mut vm, attachments.dirty_tracking)?;
        // Before the interrupt controllers: adding a memory slot waits for the kernel to retire the
        // list of in-kernel devices that they replace, some milliseconds.
        ram.attach(&vm)?;
        vm.create_irqchip()?;
        let vm = Arc::new(vm);
        let irqs = vm.irq_router()?;

        let (mut pio, mut mmio) = (Bus::new(), Bus::new());
        let yield_requested = Arc::new(AtomicBool::new(false));
        let power = {
            let (signals, yield_requested) = (signals.clone(), yield_requested.clone());
            AcpiPower::new(irqs.line(ACPI_GED_IRQ)?, move |event| {
                // The vCPU that wrote the register goes no further than this.
                yield_requested.store(true, Ordering::Release);
                signals.send(Signal::Power(event));
            })
        };
        power.register(&mut pio)?;
        let serial = Serial::new(irqs.line(SERIAL_IRQ)?, attachments.serial).map_err(|source| {
            GuestError::Device {
                device: "serial port",
                source,
            }
        })?;
        serial.register(&mut pio)?;
        let pci = PciRoot::new();
        let counters = add_devices(
            &config,
            claiming,
            &pci,
            &ram,
            &irqs,
            attachments.console,
            taps,
        )?;
        pci.register(&mut pio, &mut mmio)?;

        let mut vcpus = Vec::new();
        let mut rings = Vec::new();
        for index in 0..config.vcpus {
            let (mut vcpu, kicker) = vm.create_vcpu(index)?;
            vcpu.set_cpuid(cpu.for_vcpu(index))?;
            rings.extend(vcpu.take_dirty_ring());
            vcpus.push((vcpu, kicker));
        }
        let dirty_log = Arc::new(DirtyLog::new(vm.clone(), ram.clone(), rings));
        let msr_indices = hypervisor.msr_indices()?;
        let power_on = PowerOn {
            irqchip: vm.save_irqchip()?,
            vcpus: vcpus
                .iter()
                .map(|(vcpu, _)| vcpu.save(&msr_indices))
                .collect::<Result<_, _>>()?,
        };
        let report = signals.clone();
        let shared = Arc::new(VcpuShared {
            pio,
            mmio,
            dirty_log: dirty_log.clone(),
            vm: vm.clone(),
            msr_indices,
            yield_requested,
            report: Box::new(move |event| report.send(Signal::Vcpu(event))),
        });
        let vcpus = vcpus
            .into_iter()
            .map(|(vcpu, kicker)| VcpuHandle::spawn(vcpu, kicker, shared.clone()).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            announcer: Mutex::default(),
            vcpus,
            shared,
            pci,
            serial,
            power,
            dirty_log,
            ram,
            vm,
            counters,
            power_on,
            config,
        })
    }

    /// What the first vCPU answers to `CPUID`.
    pub(super) fn cpuid(&self) -> &[CpuidEntry] {
        &self.power_on.vcpus[0].cpuid
    }

    /// Loads the kernel and points the first vCPU at it. Memory is zero.
    pub(super) fn boot(&self) -> Result<(), GuestError> {
        let registers = self.load()?;
        self.vcpus[0].boot(registers)?.wait_done()?;
        Ok(())
    }

    fn load(&self) -> Result<BootRegisters, GuestError> {
        let memory = self.ram.memory();
        let rsdp = boot::acpi::build(memory, self.config.vcpus)?;
        let ranges = ram_ranges(self.ram.bytes());
        let cmdline = &self.config.cmdline;
        let entry = match &self.config.kernel {
            KernelConfig::BuiltIn => {
                let source = KernelSource::Bytes(payload::ELF);
                boot::load(memory, &ranges, source, None, cmdline, Some(rsdp))?
            }
            KernelConfig::File { kernel, initrd } => {
                let mut kernel = boot::open_kernel(kernel)?;
                let mut initrd = initrd.as_deref().map(boot::open_initrd).transpose()?;
                let source = KernelSource::File(&mut kernel);
                boot::load(
                    memory,
                    &ranges,
                    source,
                    initrd.as_mut(),
                    cmdline,
                    Some(rsdp),
                )?
            }
        };
        Ok(entry.registers())
    }

    /// Puts everything back to power-on and boots again. vCPUs and devices are paused.
    pub(super) fn reset(&self) -> Result<(), GuestError> {
        self.pci.reset();
        self.serial.reset();
        self.power.reset();
        self.shared.yield_requested.store(false, Ordering::Release);
        self.ram.clear().map_err(GuestError::Clear)?;
        self.vm.restore_irqchip(&self.power_on.irqchip)?;
        self.restore_vcpus(self.power_on.vcpus.clone(), None, &|| false)?;
        self.boot()
    }

    /// Gives each vCPU a state, all at the same time; saved when kvmclock showed `clock_ns`, or at
    /// power-on. Gives up when `hopeless` says so.
    pub(super) fn restore_vcpus(
        &self,
        states: Vec<VcpuState>,
        clock_ns: Option<u64>,
        hopeless: &dyn Fn() -> bool,
    ) -> Result<(), GuestError> {
        let answers: Vec<_> = self
            .vcpus
            .iter()
            .zip(states)
            .map(|(vcpu, state)| vcpu.restore(state, clock_ns))
            .collect::<Result<_, _>>()?;
        for answer in answers {
            answer.wait_done_unless(hopeless)?;
        }
        Ok(())
    }

    /// What the devices have done.
    pub(super) fn device_stats(&self) -> Vec<DeviceStats> {
        let counter = |name: &str, value| NamedCounter {
            name: name.into(),
            value,
        };
        let disks = self.counters.disks.iter().map(|(id, c, _)| DeviceStats {
            id: id.clone(),
            counters: vec![
                counter("reads", c.reads()),
                counter("read_bytes", c.read_bytes()),
                counter("writes", c.writes()),
                counter("write_bytes", c.write_bytes()),
                counter("flushes", c.flushes()),
                counter("discards", c.discards()),
                counter("rejected", c.rejected()),
                counter("io_errors", c.io_errors()),
                counter("no_space", c.no_space()),
            ],
        });
        let nets = self.counters.nets.iter().map(|(id, handle)| {
            let c = handle.counters();
            DeviceStats {
                id: id.clone(),
                counters: vec![
                    counter("rx_packets", c.rx_packets()),
                    counter("rx_bytes", c.rx_bytes()),
                    counter("rx_dropped", c.rx_dropped()),
                    counter("tx_packets", c.tx_packets()),
                    counter("tx_bytes", c.tx_bytes()),
                    counter("tx_dropped", c.tx_dropped()),
                ],
            }
        });
        disks.chain(nets).collect()
    }

    /// Takes the right to use each disk; nothing for those that are held.
    pub(super) fn claim_disks(&self) -> Result<(), GuestError> {
        for (index, (_, _, disk)) in self.counters.disks.iter().enumerate() {
            if let Err(error) = disk.claim() {
                // All or none.
                for (_, _, held) in &self.counters.disks[..index] {
                    held.release()?;
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Gives up the right to use each disk.
    pub(super) fn release_disks(&self) -> Result<(), GuestError> {
        for (_, _, disk) in &self.counters.disks {
            disk.release()?;
        }
        Ok(())
    }

    /// Copies of the descriptors that make up the guest: its memory and its taps.
    pub(super) fn heirloom(&self) -> io::Result<Heirloom> {
        let taps = self.counters.nets.iter();
        let taps = taps.map(|(id, card)| Ok((id.clone(), card.tap_files()?)));
        Ok(Heirloom {
            memory: self.ram.file().try_clone()?,
            taps: Some(taps.collect::<io::Result<_>>()?),
        })
    }

    /// Has every network card tell its neighbours where it is now.
    pub(super) fn announce(&self) -> Result<(), GuestError> {
        let cards: Vec<_> = self.cards().cloned().collect();
        if cards.is_empty() {
            return Ok(());
        }
        let announcer = Announcer::start(cards).map_err(|source| GuestError::Device {
            device: "thread that announces network cards",
            source,
        })?;
        *self
            .announcer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(announcer);
        Ok(())
    }

    /// The network cards.
    pub(super) fn cards(&self) -> impl Iterator<Item = &NetHandle> {
        self.counters.nets.iter().map(|(_, handle)| handle)
    }
}

/// Chooses how the machine reports written pages.
fn track_dirty_pages(
    hypervisor: &Hypervisor,
    vm: &mut Vm,
    tracking: DirtyTracking,
) -> Result<(), GuestError> {
    let support = hypervisor.dirty_log();
    let ring = match tracking {
        DirtyTracking::Ring => true,
        DirtyTracking::Bitmap => false,
        DirtyTracking::Auto => !support.manual_protect && support.ring_max_entries > 0,
    };
    if ring {
        vm.enable_dirty_ring(RING_MAX_ENTRIES)?;
    } else {
        vm.enable_manual_dirty_log()?;
    }
    Ok(())
}

/// Fills the PCI slots: disks, network cards, entropy, console, in this order from slot 1 on.
fn add_devices(
    config: &GuestConfig,
    claiming: Claiming,
    pci: &Arc<PciRoot>,
    ram: &GuestRam,
    irqs: &Arc<IrqRouter>,
    console: Option<Console>,
    mut taps: Option<Vec<(String, Vec<File>)>>,
) -> Result<Counters, GuestError> {
    let mut counters = Counters {
        disks: Vec::new(),
        nets: Vec::new(),
    };
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &config.disks {
        let block = match claiming {
            Claiming::Now => Block::open(disk)?,
            Claiming::AtResume => Block::open_unclaimed(disk)?,
        };
        counters
            .disks
            .push((disk.id.clone(), block.counters(), block.claim()));
        devices.push(Box::new(block));
    }
    for net in &config.nets {
        let card = match &mut taps {
            None => Net::open(net)?,
            Some(taps) => {
                let handed = taps.iter().position(|(id, _)| *id == net.id);
                let queues = handed.map(|index| taps.swap_remove(index).1);
                Net::adopt(net, queues.unwrap_or_default())?
            }
        };
        counters.nets.push((net.id.clone(), card.handle()));
        devices.push(Box::new(card));
    }
    if config.rng {
        let rng = Rng::open().map_err(|source| GuestError::Device {
            device: "entropy device",
            source,
        })?;
        devices.push(Box::new(rng));
    }
    if let Some(console) = console {
        devices.push(Box::new(console));
    }
    for (slot, device) in (1..).zip(devices) {
        let memory = ram.memory().clone();
        let function = VirtioPciDevice::new(slot, device, memory, irqs, irqs.clone())?;
        pci.add(slot, function)?;
    }
    Ok(counters)
}
