//! One virtio device as a PCI function.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_proto::state::pci::PciDeviceState;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::pci::{
    self, COMMAND_BUS_MASTER, COMMAND_MEMORY, ConfigSpace, Identity, MSIX_ENABLE, Msix,
    PciFunction, StateError, bar_address,
};
use crate::devices::virtio::{Activation, ActiveQueue, DeviceType, VirtioDevice, VirtioInterrupt};
use crate::interrupt::{Doorbells, InterruptError, MsiController};
use crate::memory::GuestMemory;
use crate::memory::layout::{PCI_MMIO_SIZE, PCI_MMIO_START};

use super::capabilities::{self, Window};
use super::doorbells::DoorbellSet;
use super::interrupt::Interrupt;
use super::registers::{Effect, Registers};
use super::{MAX_QUEUES, bar, feature, persist, status};

const VENDOR_VIRTIO: u16 = 0x1af4;
/// Modern device ids start here (virtio 1.2, 4.1.2.1).
const DEVICE_ID_BASE: u16 = 0x1040;
/// A BAR that is not decoded.
const NOT_DECODED: u64 = u64::MAX;

/// A virtio device behind the PCI transport.
pub struct VirtioPciDevice {
    /// One doorbell per queue, for its life.
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
    /// Where BAR 0 answers, or [`NOT_DECODED`].
    base: AtomicU64,
    state: Mutex<State>,
}

/// Everything that register accesses and pauses change.
pub(super) struct State {
    pub(super) slot: u8,
    pub(super) config: ConfigSpace,
    /// The configuration space after power-on.
    fresh: ConfigSpace,
    pub(super) window: Window,
    /// Offset of the MSI-X capability.
    pub(super) msix_header: usize,
    pub(super) msix: Msix,
    pub(super) registers: Registers,
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) memory: GuestMemory,
    doorbells: DoorbellSet,
    kicks: Arc<[EventFd]>,
    /// The workers have the queues.
    active: bool,
    pub(super) paused: bool,
    /// The state was restored and the device did not work since.
    pub(super) restored: bool,
}

impl VirtioPciDevice {
    /// Puts `device` behind a transport, to be added to the bus in `slot` (1..=31).
    ///
    /// # Errors
    /// [`InterruptError`] when there are not enough interrupt vectors or eventfds.
    ///
    /// # Panics
    /// When the device has no queue or more than 255, or a queue size that is no power of two.
    pub fn new(
        slot: u8,
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        controller: &dyn MsiController,
        doorbells: Arc<dyn Doorbells>,
    ) -> Result<Arc<Self>, InterruptError> {
        let sizes = device.queue_sizes();
        let queues = sizes.len();
        assert!(
            (1..=MAX_QUEUES).contains(&queues)
                && sizes.iter().all(|s| s.is_power_of_two() && *s <= 32768),
            "queue sizes {sizes:?} of a device are fixed when it is written"
        );
        let kicks: Arc<[EventFd]> = (0..queues)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<Result<_, _>>()
            .map_err(|source| InterruptError::Kernel {
                operation: "make an eventfd for a doorbell".into(),
                source,
            })?;
        let kind = device.device_type();
        let msix = Msix::new(queues as u16 + 1, controller)?;
        let mut config = ConfigSpace::new(&identity(kind));
        config.add_bar(bar_address(slot), bar::SIZE);
        let msix_header = config.add_capability(
            pci::MSIX_CAPABILITY_ID,
            &msix.capability(bar::MSIX_TABLE as u32, bar::MSIX_PENDING as u32),
        );
        let control = MSIX_ENABLE | pci::MSIX_FUNCTION_MASK;
        config.allow(msix_header + 2, &control.to_le_bytes());
        let window = capabilities::add(&mut config, queues);
        let interrupt = Arc::new(Interrupt::new(kind, slot, msix.vectors(), queues));
        let offered = device.features() | feature::TRANSPORT;
        let state = State {
            slot,
            fresh: config.clone(),
            config,
            window,
            msix_header,
            msix,
            registers: Registers::new(interrupt.clone(), offered, sizes),
            device,
            memory,
            doorbells: DoorbellSet::new(doorbells, kicks.clone()),
            kicks: kicks.clone(),
            active: false,
            paused: false,
            restored: false,
        };
        Ok(Arc::new(Self {
            kicks,
            interrupt,
            base: AtomicU64::new(NOT_DECODED),
            state: Mutex::new(state),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the BAR, the command register and message control to where the guest set them.
    fn apply_config(&self, state: &mut State) {
        let base = state.decoded_base();
        self.base
            .store(base.unwrap_or(NOT_DECODED), Ordering::Release);
        state.doorbells.place(base);
        let control =
            state.config.word(state.msix_header + 2) & (MSIX_ENABLE | pci::MSIX_FUNCTION_MASK);
        if control != state.msix.control() {
            self.interrupt
                .msix_enabled
                .store(control & MSIX_ENABLE != 0, Ordering::Release);
            state.msix.set_control(control);
        }
        state.reconcile();
    }

    /// The queue whose doorbell is at `offset` of the BAR.
    fn doorbell(&self, offset: u64) -> Option<&EventFd> {
        let index = offset.checked_sub(bar::NOTIFY)? / bar::NOTIFY_STRIDE;
        self.kicks.get(usize::try_from(index).ok()?)
    }
}

impl PciFunction for VirtioPciDevice {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut state = self.lock();
        let window = state.window;
        if window.touched(offset, data.len())
            && let Some((target, len)) = window.target(&state.config)
        {
            let mut bytes = [0; 4];
            state.read_bar(target, &mut bytes[..len]);
            window.set_data(&mut state.config, &bytes[..len]);
        }
        state.config.read(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = self.lock();
        let window = state.window;
        state.config.write(offset, data);
        if window.touched(offset, data.len())
            && let Some((target, len)) = window.target(&state.config)
        {
            let bytes = window.data(&state.config);
            match self.doorbell(target) {
                Some(kick) => ring(kick),
                None => state.write_bar(target, &bytes[..len]),
            }
        }
        self.apply_config(&mut state);
    }

    fn decoded(&self) -> Option<Range<u64>> {
        let base = self.base.load(Ordering::Acquire);
        (base != NOT_DECODED).then(|| base..base + bar::SIZE)
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        self.lock().read_bar(offset, data);
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        match self.doorbell(offset) {
            Some(kick) => ring(kick),
            None => self.lock().write_bar(offset, data),
        }
    }

    fn request_quiesce(&self) {
        self.lock().device.request_quiesce();
    }

    fn quiesce(&self) {
        let mut state = self.lock();
        state.paused = true;
        state.reconcile();
    }

    fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        state.reconcile();
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.reset_device();
        state.config = state.fresh.clone();
        self.apply_config(&mut state);
        state.msix.reset();
    }

    fn notify_config(&self) -> Result<(), InterruptError> {
        if self.interrupt.status.load(Ordering::Acquire) & status::DRIVER_OK == 0 {
            return Ok(());
        }
        self.interrupt.config_changed()
    }

    fn save(&self) -> Result<Option<PciDeviceState>, StateError> {
        persist::save(&self.lock()).map(Some)
    }

    fn restore(&self, saved: &PciDeviceState) -> Result<(), StateError> {
        let mut state = self.lock();
        persist::restore(&mut state, saved)?;
        self.apply_config(&mut state);
        Ok(())
    }
}

impl State {
    /// Where the BAR answers: memory decoding is on and it lies in the window whole.
    fn decoded_base(&self) -> Option<u64> {
        let base = self.config.bar();
        let window = PCI_MMIO_START..=PCI_MMIO_START + PCI_MMIO_SIZE - bar::SIZE;
        let decoded = self.config.command() & COMMAND_MEMORY != 0 && window.contains(&base);
        decoded.then_some(base)
    }

    /// Whether the device works or not: brings what is in line with what should be.
    fn reconcile(&mut self) {
        let status = self.registers.status();
        let wanted = !self.paused
            && status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
            && self.config.command() & COMMAND_BUS_MASTER != 0;
        if wanted && !self.active {
            self.start();
        } else if !wanted && self.active {
            self.stop();
        }
    }

    fn start(&mut self) {
        let interrupt = self.registers.interrupt.clone();
        let queues = match self.build_queues() {
            Ok(queues) => queues,
            Err(cause) => return interrupt.fail(&cause),
        };
        let enabled: Vec<u16> = queues.iter().map(|q| q.index).collect();
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.registers.driver_features,
            queues,
            interrupt: interrupt.clone(),
        };
        // Whatever the driver made available while no worker looked.
        for index in &enabled {
            ring(&self.kicks[usize::from(*index)]);
        }
        if let Err(error) = self.device.activate(activation) {
            return interrupt.fail(&error);
        }
        self.active = true;
        if std::mem::take(&mut self.restored) {
            // An interrupt may have been on its way when the state was saved. One too many is
            // harmless, one too few stalls the driver.
            for index in enabled {
                if let Err(error) = interrupt.used(index) {
                    tracing::warn!(slot = self.slot, index, %error, "cannot raise an interrupt");
                }
            }
        }
    }

    fn build_queues(&self) -> Result<Vec<ActiveQueue>, String> {
        let event_idx = self.registers.event_idx();
        let mut queues = Vec::new();
        for (index, registers) in self.registers.queues.iter().enumerate() {
            if !registers.enabled {
                continue;
            }
            let queue = registers
                .build(event_idx, &self.memory)
                .map_err(|error| format!("queue {index}: {error}"))?;
            let kick = self.kicks[index]
                .try_clone()
                .map_err(|error| format!("cannot duplicate a doorbell: {error}"))?;
            queues.push(ActiveQueue {
                index: index as u16,
                queue,
                kick,
            });
        }
        Ok(queues)
    }

    /// A virtio device reset (virtio 1.2, 2.4): no worker touches a ring once this returns.
    fn reset_device(&mut self) {
        if self.active {
            self.stop();
        }
        self.registers.reset();
    }

    /// Stops the workers and notes how far each queue got.
    fn stop(&mut self) {
        use virtio_queue::QueueT;
        for ActiveQueue { index, queue, .. } in self.device.quiesce() {
            let registers = &mut self.registers.queues[usize::from(index)];
            registers.next_avail = queue.next_avail();
            registers.next_used = queue.next_used();
        }
        self.active = false;
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        let at = offset % bar::PAGE;
        match offset - at {
            bar::COMMON => self.registers.read(at, data),
            bar::ISR => {
                data.fill(0);
                if at == 0 {
                    // Reading acknowledges (4.1.4.5).
                    let isr = &self.registers.interrupt.isr;
                    data[0] = isr.swap(0, Ordering::AcqRel);
                }
            }
            bar::DEVICE => {
                data.fill(0);
                self.device.read_config(at, data);
            }
            bar::MSIX_TABLE => self.msix.read_table(at, data),
            bar::MSIX_PENDING => self.msix.read_pending(at, data),
            _ => data.fill(0),
        }
    }

    /// Writes anything but a doorbell.
    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let at = offset % bar::PAGE;
        match offset - at {
            bar::COMMON => match self.registers.write(at, data, &self.memory) {
                Effect::None => {}
                Effect::Status => self.reconcile(),
                Effect::Reset => self.reset_device(),
            },
            bar::DEVICE => self.device.write_config(at, data),
            bar::MSIX_TABLE => self.msix.write_table(at, data),
            _ => {}
        }
    }
}

/// Rings a doorbell. A full counter means that it rings already.
fn ring(kick: &EventFd) {
    let _ = kick.write(1);
}

fn identity(kind: DeviceType) -> Identity {
    // PCI Code and ID Assignment 1.11, 1.x.
    let class = match kind {
        DeviceType::Net => 0x02_0000,
        DeviceType::Block => 0x01_8000,
        DeviceType::Console => 0x07_8000,
        DeviceType::Rng => 0xff_0000,
    };
    let device = DEVICE_ID_BASE + kind as u16;
    Identity {
        vendor: VENDOR_VIRTIO,
        device,
        revision: 1,
        class,
        subsystem_vendor: VENDOR_VIRTIO,
        subsystem: device,
    }
}
