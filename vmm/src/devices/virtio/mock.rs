//! A machine without a CPU, and a driver that goes through the registers a guest would.
//!
//! Everything but guest code is real: configuration ports, ECAM, BAR window, rings in guest memory.
//! Only KVM is replaced, by recorders of messages and doorbells. [`Driver`] plays by the rules when
//! its convenience functions are used; the raw ones let a test break every rule.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::transport::VirtioPciDevice;
use crate::bus::Bus;
use crate::devices::pci::PciRoot;
use crate::interrupt::{Doorbells, InterruptError, MsiController, MsiMessage, MsiVector};
use crate::memory::GuestMemory;
use crate::memory::layout::{PCI_CONFIG_PORT, PCI_ECAM_START};

/// How long a test waits for a worker before it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// Guest memory, bytes.
pub(crate) const MEMORY: u64 = 64 << 20;
/// Rings start here, one per 64 KiB.
const RINGS: u64 = 0x10_0000;
const RING_STRIDE: u64 = 0x10_0000;
const AVAIL: u64 = 0x8_0000;
const USED: u64 = 0xa_0000;
/// Where tests may put buffers.
pub(crate) const BUFFERS: u64 = 0x200_0000;

pub(crate) const F_NEXT: u16 = 1;
pub(crate) const F_WRITE: u16 = 2;
pub(crate) const F_INDIRECT: u16 = 4;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;

#[derive(Default)]
struct MsiRecord {
    delivered: Mutex<Vec<MsiMessage>>,
    arrived: Condvar,
    refuse: AtomicBool,
}

/// Records delivered messages; what is raised while disabled is lost, as in the kernel.
#[derive(Default)]
pub(crate) struct TestMsi(Arc<MsiRecord>);

struct TestVector {
    record: Arc<MsiRecord>,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiController for TestMsi {
    fn allocate(&self) -> Result<Arc<dyn MsiVector>, InterruptError> {
        Ok(Arc::new(TestVector {
            record: self.0.clone(),
            message: Mutex::new(None),
        }))
    }
}

impl MsiVector for TestVector {
    fn enable(&self, message: MsiMessage) -> Result<(), InterruptError> {
        if self.record.refuse.load(Ordering::SeqCst) {
            return Err(InterruptError::Exhausted { limit: 0 });
        }
        *self.message.lock().unwrap() = Some(message);
        Ok(())
    }
    fn disable(&self) -> Result<(), InterruptError> {
        *self.message.lock().unwrap() = None;
        Ok(())
    }
    fn trigger(&self) -> Result<(), InterruptError> {
        if let Some(message) = *self.message.lock().unwrap() {
            self.record.delivered.lock().unwrap().push(message);
            self.record.arrived.notify_all();
        }
        Ok(())
    }
}

impl TestMsi {
    pub(crate) fn delivered(&self) -> Vec<MsiMessage> {
        self.0.delivered.lock().unwrap().clone()
    }

    pub(crate) fn delivered_count(&self) -> usize {
        self.0.delivered.lock().unwrap().len()
    }

    /// How many messages with `data` were delivered.
    pub(crate) fn count(&self, data: u32) -> usize {
        let delivered = self.0.delivered.lock().unwrap();
        delivered.iter().filter(|m| m.data == data).count()
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.0.refuse.store(refuse, Ordering::SeqCst);
    }

    /// Waits until `done`, looking again at each interrupt; false when that never comes.
    pub(crate) fn wait(&self, mut done: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if done() {
                return true;
            }
            let delivered = self.0.delivered.lock().unwrap();
            let _ = self
                .0
                .arrived
                .wait_timeout(delivered, Duration::from_millis(2))
                .unwrap();
        }
        done()
    }
}

/// Doorbells as KVM would have them.
#[derive(Default)]
pub(crate) struct TestDoorbells {
    by_address: Mutex<HashMap<u64, EventFd>>,
    refuse: AtomicBool,
}

impl Doorbells for TestDoorbells {
    fn register(&self, address: u64, event: &EventFd) -> Result<(), InterruptError> {
        let mut map = self.by_address.lock().unwrap();
        if self.refuse.load(Ordering::SeqCst) || map.contains_key(&address) {
            return Err(InterruptError::Kernel {
                operation: format!("register a doorbell at {address:#x}"),
                source: io::ErrorKind::AlreadyExists.into(),
            });
        }
        map.insert(address, event.try_clone().unwrap());
        Ok(())
    }
    fn unregister(&self, address: u64, _event: &EventFd) -> Result<(), InterruptError> {
        match self.by_address.lock().unwrap().remove(&address) {
            Some(_) => Ok(()),
            None => Err(InterruptError::Kernel {
                operation: format!("unregister a doorbell at {address:#x}"),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

impl TestDoorbells {
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.by_address.lock().unwrap().keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Makes every later registration fail, so that doorbells come as exits.
    pub(crate) fn refuse(&self) {
        self.refuse.store(true, Ordering::SeqCst);
    }
}

/// Buses, memory and recorders, and devices in slots from 1 on.
pub(crate) struct Machine {
    pub(crate) root: Arc<PciRoot>,
    pub(crate) memory: GuestMemory,
    pub(crate) msi: Arc<TestMsi>,
    pub(crate) doorbells: Arc<TestDoorbells>,
    pio: Bus,
    mmio: Bus,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        Self::with_memory(memory)
    }

    /// A machine over memory that another one may share: the target of a restore.
    pub(crate) fn with_memory(memory: GuestMemory) -> Self {
        let root = PciRoot::new();
        let (mut pio, mut mmio) = (Bus::new(), Bus::new());
        root.register(&mut pio, &mut mmio).unwrap();
        Self {
            root,
            memory,
            msi: Arc::new(TestMsi::default()),
            doorbells: Arc::new(TestDoorbells::default()),
            pio,
            mmio,
        }
    }

    pub(crate) fn add(&self, slot: u8, device: Box<dyn VirtioDevice>) {
        let function = VirtioPciDevice::new(
            slot,
            device,
            self.memory.clone(),
            &*self.msi,
            self.doorbells.clone(),
        )
        .unwrap();
        self.root.add(slot, function).unwrap();
    }

    /// A machine with this device in slot 1, and a driver that has mapped it.
    pub(crate) fn with_device(device: Box<dyn VirtioDevice>) -> Self {
        let machine = Self::new();
        machine.add(1, device);
        machine
    }

    /// Reads through configuration mechanism #1.
    pub(crate) fn port_read(&self, slot: u8, register: u8, data: &mut [u8]) {
        self.select(slot, register);
        let port = u64::from(PCI_CONFIG_PORT) + 4 + u64::from(register & 3);
        self.pio.read(port, data);
    }

    /// Writes through configuration mechanism #1.
    pub(crate) fn port_write(&self, slot: u8, register: u8, data: &[u8]) {
        self.select(slot, register);
        let port = u64::from(PCI_CONFIG_PORT) + 4 + u64::from(register & 3);
        self.pio.write(port, data);
    }

    fn select(&self, slot: u8, register: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register & !3);
        self.pio
            .write(u64::from(PCI_CONFIG_PORT), &address.to_le_bytes());
    }

    /// A guest read of physical memory outside RAM.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        self.mmio.read(address, data);
    }

    /// A guest write outside RAM, with KVM's doorbells before the bus.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some(event) = self.doorbells.by_address.lock().unwrap().get(&address) {
            event.write(1).unwrap();
            return;
        }
        self.mmio.write(address, data);
    }

    pub(crate) fn ecam_read(&self, slot: u8, register: u64, data: &mut [u8]) {
        self.read(PCI_ECAM_START + (u64::from(slot) << 15) + register, data);
    }

    pub(crate) fn ecam_write(&self, slot: u8, register: u64, data: &[u8]) {
        self.write(PCI_ECAM_START + (u64::from(slot) << 15) + register, data);
    }

    /// A driver for the device in `slot`; finds its structures through the capability list.
    pub(crate) fn driver(&self, slot: u8) -> Driver<'_> {
        let mut driver = Driver {
            machine: self,
            slot,
            bar: 0,
            offsets: [0; 6],
            notify_stride: 0,
            window: 0,
            msix: 0,
            msix_table: 0,
        };
        driver.probe();
        driver
    }
}

/// A driver as a guest has it.
pub(crate) struct Driver<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) slot: u8,
    pub(crate) bar: u64,
    /// By `cfg_type`, offsets in the BAR.
    offsets: [u64; 6],
    notify_stride: u64,
    /// Configuration offsets of the access window and of the MSI-X capability.
    pub(crate) window: u64,
    pub(crate) msix: u64,
    pub(crate) msix_table: u64,
}

impl<'a> Driver<'a> {
    fn config<const N: usize>(&self, register: u64) -> [u8; N] {
        let mut data = [0; N];
        self.machine.ecam_read(self.slot, register, &mut data);
        data
    }

    fn probe(&mut self) {
        self.bar = u64::from_le_bytes(self.config(0x10)) & !0xf;
        self.set_command(0x6);
        let mut at = u64::from(u8::from_le_bytes(self.config(0x34)));
        for _ in 0..48 {
            if at == 0 {
                return;
            }
            let [id, next] = self.config(at);
            let [kind] = self.config(at + 3);
            let offset = u64::from(u32::from_le_bytes(self.config(at + 8)));
            match (id, kind) {
                (0x11, _) => {
                    self.msix = at;
                    self.msix_table = u64::from(u32::from_le_bytes(self.config(at + 4)));
                }
                (0x09, 5) => self.window = at,
                (0x09, 1..=4) => {
                    self.offsets[usize::from(kind)] = offset;
                    if kind == 2 {
                        let stride = u32::from_le_bytes(self.config(at + 16));
                        self.notify_stride = u64::from(stride);
                    }
                }
                _ => panic!("unknown capability {id:#x} at {at:#x}"),
            }
            at = u64::from(next);
        }
        panic!("the capability list has no end");
    }

    pub(crate) fn set_command(&self, command: u16) {
        self.machine
            .ecam_write(self.slot, 4, &command.to_le_bytes());
    }

    pub(crate) fn read_common<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.machine
            .read(self.bar + self.offsets[1] + offset, &mut data);
        data
    }

    pub(crate) fn write_common(&self, offset: u64, data: &[u8]) {
        self.machine
            .write(self.bar + self.offsets[1] + offset, data);
    }

    pub(crate) fn isr(&self) -> u8 {
        let mut data = [0];
        self.machine.read(self.bar + self.offsets[3], &mut data);
        data[0]
    }

    pub(crate) fn read_device_config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.machine
            .read(self.bar + self.offsets[4] + offset, &mut data);
        data
    }

    pub(crate) fn write_device_config(&self, offset: u64, data: &[u8]) {
        self.machine
            .write(self.bar + self.offsets[4] + offset, data);
    }

    pub(crate) fn status(&self) -> u8 {
        self.read_common::<1>(0x14)[0]
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.write_common(0x14, &[status]);
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.write_common(0x00, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read_common(0x04)))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        for select in [0u32, 1] {
            self.write_common(0x08, &select.to_le_bytes());
            let half = (features >> (32 * select)) as u32;
            self.write_common(0x0c, &half.to_le_bytes());
        }
    }

    /// Reset, then up to FEATURES_OK; false when the device refused the features.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        self.set_status(1);
        self.set_status(3);
        self.accept(features);
        self.set_status(11);
        self.status() == 11
    }

    pub(crate) fn select(&self, queue: u16) {
        self.write_common(0x16, &queue.to_le_bytes());
    }

    /// Enables MSI-X with every entry open; vector `n` delivers data `0x100 * slot + n`.
    pub(crate) fn enable_msix(&self) {
        let control = u16::from_le_bytes(self.config(self.msix + 2));
        for vector in 0..=u64::from(control & 0x7ff) {
            let data = 0x100 * u32::from(self.slot) + vector as u32;
            self.program_vector(vector, 0xfee0_0000, data, false);
        }
        self.set_msix_control(1 << 15);
    }

    pub(crate) fn set_msix_control(&self, control: u16) {
        self.machine
            .ecam_write(self.slot, self.msix + 2, &control.to_le_bytes());
    }

    pub(crate) fn program_vector(&self, vector: u64, address: u64, data: u32, masked: bool) {
        let at = self.bar + self.msix_table + vector * 16;
        self.machine.write(at, &(address as u32).to_le_bytes());
        self.machine
            .write(at + 4, &((address >> 32) as u32).to_le_bytes());
        self.machine.write(at + 8, &data.to_le_bytes());
        self.machine
            .write(at + 12, &u32::from(masked).to_le_bytes());
    }

    /// How often the interrupt of MSI-X vector `vector` arrived.
    pub(crate) fn interrupts(&self, vector: u32) -> usize {
        let data = 0x100 * u32::from(self.slot) + vector;
        self.machine.msi.count(data)
    }

    /// Zeroes the ring's memory and writes the queue's registers, but does not enable it. Vector
    /// `queue + 1` is its interrupt.
    pub(crate) fn describe_queue(&self, queue: u16, size: u16) -> Ring {
        let base = RINGS + u64::from(queue) * RING_STRIDE;
        let zero = vec![0; RING_STRIDE as usize];
        self.machine
            .memory
            .write_slice(&zero, GuestAddress(base))
            .unwrap();
        self.select(queue);
        self.write_common(0x18, &size.to_le_bytes());
        self.write_common(0x1a, &(queue + 1).to_le_bytes());
        for (register, address) in [(0x20, base), (0x28, base + AVAIL), (0x30, base + USED)] {
            self.write_common(register, &(address as u32).to_le_bytes());
            self.write_common(register + 4, &((address >> 32) as u32).to_le_bytes());
        }
        Ring {
            memory: self.machine.memory.clone(),
            base,
            size,
            avail: 0,
            used: 0,
        }
    }

    pub(crate) fn enable_queue(&self, queue: u16) {
        self.select(queue);
        self.write_common(0x1c, &1u16.to_le_bytes());
    }

    /// Everything a driver does until `DRIVER_OK`, with `size` entries in each of the first
    /// `queues` queues.
    pub(crate) fn start(&self, features: u64, queues: u16, size: u16) -> Vec<Ring> {
        assert!(self.negotiate(features), "features refused");
        self.enable_msix();
        self.write_common(0x10, &0u16.to_le_bytes());
        let rings = (0..queues)
            .map(|queue| {
                let ring = self.describe_queue(queue, size);
                self.enable_queue(queue);
                assert_eq!(u16::from_le_bytes(self.read_common(0x1c)), 1);
                ring
            })
            .collect();
        self.set_status(15);
        assert_eq!(self.status(), 15);
        rings
    }

    pub(crate) fn doorbell(&self, queue: u16) -> u64 {
        self.bar + self.offsets[2] + u64::from(queue) * self.notify_stride
    }

    pub(crate) fn kick(&self, queue: u16) {
        self.machine
            .write(self.doorbell(queue), &queue.to_le_bytes());
    }

    /// Waits for the next used element of `ring`: its head and length.
    pub(crate) fn wait_used(&self, ring: &mut Ring) -> (u16, u32) {
        let seen = ring.used;
        let arrived = self.machine.msi.wait(|| ring.used_idx() != seen);
        assert!(arrived, "the device used no buffer");
        ring.pop_used().unwrap()
    }

    /// Waits until the device asks for a reset.
    pub(crate) fn wait_needs_reset(&self) {
        assert!(
            self.machine.msi.wait(|| self.status() & 0x40 != 0),
            "the device did not ask for a reset"
        );
    }
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// The driver's side of a ring.
#[derive(Clone)]
pub(crate) struct Ring {
    memory: GuestMemory,
    pub(crate) base: u64,
    pub(crate) size: u16,
    pub(crate) avail: u16,
    used: u16,
}

impl Ring {
    pub(crate) fn write_desc(&self, index: u16, desc: Desc) {
        self.write_desc_at(self.base, index, desc);
    }

    /// Writes an entry of an indirect table.
    pub(crate) fn write_desc_at(&self, table: u64, index: u16, desc: Desc) {
        let at = table + u64::from(index) * 16;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Writes a chain of `(address, len, device-writable)` buffers from descriptor `head` on, and
    /// makes it available.
    pub(crate) fn push(&mut self, head: u16, buffers: &[(u64, u32, bool)]) {
        for (n, &(address, len, writable)) in (head..).zip(buffers) {
            let last = usize::from(n - head) + 1 == buffers.len();
            let mut flags = if writable { F_WRITE } else { 0 };
            flags |= if last { 0 } else { F_NEXT };
            self.write_desc(
                n,
                Desc {
                    address,
                    len,
                    flags,
                    next: n + 1,
                },
            );
        }
        self.offer(head);
    }

    /// Makes the chain at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail % self.size);
        self.write_u16(AVAIL + 4 + slot * 2, head);
        self.set_avail(self.avail.wrapping_add(1));
    }

    /// Sets the available index to anything.
    pub(crate) fn set_avail(&mut self, index: u16) {
        self.avail = index;
        self.memory
            .store(
                index,
                GuestAddress(self.base + AVAIL + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Asks for an interrupt once used index `index` is passed (`used_event`).
    pub(crate) fn set_used_event(&self, index: u16) {
        self.write_u16(AVAIL + 4 + u64::from(self.size) * 2, index);
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.memory
            .load(GuestAddress(self.base + USED + 2), Ordering::Acquire)
            .unwrap()
    }

    fn pop_used(&mut self) -> Option<(u16, u32)> {
        if self.used_idx() == self.used {
            return None;
        }
        let at = self.base + USED + 4 + u64::from(self.used % self.size) * 8;
        let [id, len]: [u32; 2] =
            [0, 4].map(|n| self.memory.read_obj(GuestAddress(at + n)).unwrap());
        self.used = self.used.wrapping_add(1);
        Some((id as u16, len))
    }

    fn write_u16(&self, offset: u64, value: u16) {
        self.memory
            .write_obj(value, GuestAddress(self.base + offset))
            .unwrap();
    }
}
