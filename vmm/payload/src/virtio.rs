//! Virtio devices over PCI (virtio 1.2, chapters 2.7, 3.1 and 4.1): modern
//! interface, split queues, MSI-X.

use core::sync::atomic::{
    AtomicU8, AtomicU16, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};

use crate::apic;
use crate::cpu::CpuBlock;
use crate::logic::ring::{self, Layout, MAX_SLOTS, Slots};
use crate::logic::span::{PAGE, Span};
use crate::paging;
use crate::pci::{Function, Pci};

const VENDOR: u32 = 0x1af4;
const FIRST_MODERN: u32 = 0x1040;

const VERSION_1: u64 = 1 << 32;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

const NO_VECTOR: u16 = 0xffff;
/// Longest wait for a reset, in reads of the status.
const RESET_READS: u32 = 10_000;

// Offsets in the common configuration (4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;

static NEXT_VECTOR: AtomicU8 = AtomicU8::new(apic::DEVICE_VECTOR);

/// A register of a device.
trait Register: Copy {}
impl Register for u8 {}
impl Register for u16 {}
impl Register for u32 {}
impl Register for u64 {}

fn read<T: Register>(address: u64) -> T {
    // SAFETY: within a register window that `window` mapped.
    unsafe { (address as *const T).read_volatile() }
}

fn write<T: Register>(address: u64, value: T) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Why a device cannot be used; becomes part of an `error` line.
pub type Refused = &'static str;

/// A device that was found and reset.
pub struct Device {
    function: Function,
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    /// Device-specific configuration; 0 when there is none.
    config: u64,
    msix: Option<(u16, u64)>,
    /// Interrupt vectors for queues and for the configuration.
    pub queue_vector: u8,
    pub config_vector: u8,
}

impl Device {
    /// The `nth` device of a type (5), reset and acknowledged.
    pub fn open(pci: &Pci, kind: u16, nth: u32) -> Result<Self, Refused> {
        let function = pci
            .find(nth, |function, id| is_kind(function, id, kind))
            .ok_or("no-device")?;
        function.enable();
        let mut device = Self {
            function,
            common: 0,
            notify: 0,
            notify_multiplier: 0,
            config: 0,
            msix: None,
            queue_vector: 0,
            config_vector: 0,
        };
        function.capabilities(|id, at| match id {
            0x09 => device.window(at),
            0x11 => {
                let table = function.read(at + 4);
                let entries = u64::from(function.read(at) >> 16 & 0x7ff) + 1;
                if let Some(bar) = function.bar((table & 7) as u8)
                    && paging::map(bar + u64::from(table & !7), entries * 16)
                {
                    device.msix = Some((at, bar + u64::from(table & !7)));
                }
            }
            _ => {}
        });
        if device.common == 0 || device.notify == 0 {
            return Err("no-modern-interface");
        }
        write(device.common + STATUS, 0u8);
        for _ in 0..RESET_READS {
            if read::<u8>(device.common + STATUS) == 0 {
                write(device.common + STATUS, ACKNOWLEDGE);
                write(device.common + STATUS, ACKNOWLEDGE | DRIVER);
                return Ok(device);
            }
        }
        Err("reset-timeout")
    }

    /// Takes note of a vendor capability (4.1.4).
    fn window(&mut self, at: u16) {
        let head = self.function.read(at);
        let bar = self.function.read(at + 4) as u8;
        let offset = u64::from(self.function.read(at + 8));
        let len = u64::from(self.function.read(at + 12));
        let Some(base) = self.function.bar(bar) else {
            return;
        };
        if !paging::map(base + offset, len) {
            return;
        }
        // The first of each kind counts.
        match head >> 24 {
            1 if self.common == 0 => self.common = base + offset,
            2 if self.notify == 0 => {
                self.notify = base + offset;
                self.notify_multiplier = self.function.read(at + 16).into();
            }
            4 if self.config == 0 => self.config = base + offset,
            _ => {}
        }
    }

    /// Accepts those of the `wanted` features that are offered; returns them.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, Refused> {
        let mut offered = 0;
        for half in 0..2u32 {
            write(self.common + DEVICE_FEATURE_SELECT, half);
            offered |= u64::from(read::<u32>(self.common + DEVICE_FEATURE)) << (32 * half);
        }
        if offered & VERSION_1 == 0 {
            return Err("not-version-1");
        }
        let accepted = offered & (wanted | VERSION_1);
        for half in 0..2u32 {
            write(self.common + DRIVER_FEATURE_SELECT, half);
            write(
                self.common + DRIVER_FEATURE,
                (accepted >> (32 * half)) as u32,
            );
        }
        write(self.common + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if read::<u8>(self.common + STATUS) & FEATURES_OK == 0 {
            return Err("features-refused");
        }
        Ok(accepted)
    }

    /// Sends the device's interrupts to a processor: those of all queues on one
    /// vector, changes of the configuration on another.
    pub fn route(&mut self, cpu: &CpuBlock) -> Result<(), Refused> {
        let (at, table) = self.msix.ok_or("no-msix")?;
        let first = NEXT_VECTOR.fetch_add(2, Relaxed);
        if first + 1 >= apic::SPURIOUS_VECTOR {
            return Err("no-vectors-left");
        }
        (self.queue_vector, self.config_vector) = (first, first + 1);
        let apic_id = cpu.apic_id.load(Relaxed);
        if apic_id > 0xff {
            return Err("apic-id-beyond-msi");
        }
        for (entry, vector) in [(0, self.config_vector), (1, self.queue_vector)] {
            write(table + 16 * entry, 0xfee0_0000 | apic_id << 12);
            write(table + 16 * entry + 4, 0u32);
            write(table + 16 * entry + 8, u32::from(vector));
            write(table + 16 * entry + 12, 0u32);
        }
        let control = self.function.read(at);
        self.function.write(at, control & !(1 << 30) | 1 << 31);
        write(self.common + CONFIG_VECTOR, 0u16);
        if read::<u16>(self.common + CONFIG_VECTOR) == NO_VECTOR {
            return Err("vector-refused");
        }
        Ok(())
    }

    /// Sets up queue `index` for up to `most` requests at a time, each of up to
    /// `chain` descriptors. Without interrupts where `poll`.
    pub fn queue(
        &self,
        free: &mut Span,
        index: u16,
        chain: u16,
        most: u16,
        poll: bool,
    ) -> Result<Queue, Refused> {
        if index >= read::<u16>(self.common + NUM_QUEUES) {
            return Err("no-queue");
        }
        write(self.common + QUEUE_SELECT, index);
        let size = read::<u16>(self.common + QUEUE_SIZE).min(MAX_SLOTS as u16);
        if size < chain || !size.is_power_of_two() {
            return Err("bad-queue-size");
        }
        write(self.common + QUEUE_SIZE, size);
        let layout = Layout::new(size);
        let pages = layout.bytes.div_ceil(PAGE);
        let memory = take(free, pages)?;
        write(self.common + QUEUE_DESC, memory);
        write(self.common + QUEUE_DRIVER, memory + layout.available);
        write(self.common + QUEUE_DEVICE, memory + layout.used);
        if self.queue_vector != 0 && !poll {
            write(self.common + QUEUE_VECTOR, 1u16);
            if read::<u16>(self.common + QUEUE_VECTOR) == NO_VECTOR {
                return Err("vector-refused");
            }
        }
        let offset =
            u64::from(read::<u16>(self.common + QUEUE_NOTIFY_OFF)) * self.notify_multiplier;
        write(self.common + QUEUE_ENABLE, 1u16);
        let queue = Queue {
            index,
            size,
            chain,
            memory,
            layout,
            doorbell: self.notify + offset,
            slots: Slots::new((size / chain).min(most)),
            offered: 0,
            seen: 0,
        };
        // VIRTQ_AVAIL_F_NO_INTERRUPT
        queue.word(layout.available).store(poll.into(), Relaxed);
        Ok(queue)
    }

    /// The device may start.
    pub fn start(&self) {
        write(
            self.common + STATUS,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        );
    }

    /// A byte of the device's own configuration; 0 where there is none.
    pub fn config8(&self, offset: u64) -> u8 {
        if self.config == 0 {
            0
        } else {
            read(self.config + offset)
        }
    }

    /// Two bytes of it.
    pub fn config16(&self, offset: u64) -> u16 {
        if self.config == 0 {
            0
        } else {
            read(self.config + offset)
        }
    }

    /// Eight bytes of it, read as two halves (4.1.3.1).
    pub fn config64(&self, offset: u64) -> u64 {
        if self.config == 0 {
            return 0;
        }
        u64::from(read::<u32>(self.config + offset))
            | u64::from(read::<u32>(self.config + offset + 4)) << 32
    }
}

fn is_kind(function: Function, id: u32, kind: u16) -> bool {
    let (vendor, device) = (id & 0xffff, id >> 16);
    let modern = device == FIRST_MODERN + u32::from(kind);
    let transitional = (0x1000..FIRST_MODERN).contains(&device) && function.subsystem() == kind;
    vendor == VENDOR && (modern || transitional)
}

/// Zeroed pages for good.
pub fn take(free: &mut Span, pages: u64) -> Result<u64, Refused> {
    let memory = free.take(pages).ok_or("no-memory")?;
    // SAFETY: mapped RAM that nobody else has.
    unsafe { (memory as *mut u8).write_bytes(0, (pages * PAGE) as usize) };
    Ok(memory)
}

/// A request that came back: its slot, and the bytes the device wrote.
pub struct Used {
    pub slot: u16,
    pub len: u32,
}

/// A split queue. Request slot `s` owns the descriptors from `s * chain`.
pub struct Queue {
    index: u16,
    size: u16,
    chain: u16,
    memory: u64,
    layout: Layout,
    doorbell: u64,
    slots: Slots,
    /// Next index of the available ring.
    offered: u16,
    /// Next index of the used ring.
    seen: u16,
}

impl Queue {
    fn word(&self, offset: u64) -> &'static AtomicU16 {
        // SAFETY: within this queue's memory, which is never freed.
        unsafe { AtomicU16::from_ptr((self.memory + offset) as *mut u16) }
    }

    /// A slot for a request.
    pub fn take(&mut self) -> Option<u16> {
        self.slots.take()
    }

    /// Makes `parts` (address, length, written by the device) the request in
    /// `slot` and offers it. The device hears of it by [`Self::kick`].
    pub fn offer(&mut self, slot: u16, parts: &[(u64, u32, bool)]) {
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        let head = slot * self.chain;
        let last = parts.len().min(self.chain.into()) - 1;
        for (id, (address, len, written)) in (head..head + self.chain).zip(parts) {
            let more = usize::from(id - head) < last;
            let flags = if more { NEXT } else { 0 } | if *written { WRITE } else { 0 };
            let at = self.memory + 16 * u64::from(id);
            // SAFETY: descriptor `id` is below `size` and the device does not
            // hold it.
            unsafe {
                (at as *mut u64).write_volatile(*address);
                ((at + 8) as *mut u32).write_volatile(*len);
                ((at + 12) as *mut u16).write_volatile(flags);
                ((at + 14) as *mut u16).write_volatile(id + 1);
            }
        }
        let entry = self.layout.available + 4 + 2 * u64::from(self.offered % self.size);
        self.word(entry).store(head, Relaxed);
        self.offered = self.offered.wrapping_add(1);
        self.word(self.layout.available + 2)
            .store(self.offered, Release);
    }

    /// Tells the device that there are requests, unless it asked not to be.
    pub fn kick(&self) {
        // The index must be out before the flag is read (2.7.13.4.1).
        core::sync::atomic::fence(SeqCst);
        if self.word(self.layout.used).load(Relaxed) & 1 == 0 {
            write(self.doorbell, self.index);
        }
    }

    /// The next request that came back. An error is a device that gave back
    /// what it did not hold.
    pub fn pop(&mut self) -> Option<Result<Used, Refused>> {
        let used = self.word(self.layout.used + 2).load(Acquire);
        match ring::pending(used, self.seen, self.size) {
            Some(0) => return None,
            Some(_) => {}
            None => {
                self.seen = used;
                return Some(Err("used-index"));
            }
        }
        let at = self.memory + self.layout.used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        // SAFETY: an element of the used ring, complete by the index above.
        let (id, len) = unsafe {
            (
                (at as *const u32).read_volatile(),
                ((at + 4) as *const u32).read_volatile(),
            )
        };
        let slot = u16::try_from(id)
            .ok()
            .filter(|id| id % self.chain == 0)
            .map(|id| id / self.chain);
        match slot.filter(|slot| self.slots.give(*slot)) {
            Some(slot) => Some(Ok(Used { slot, len })),
            None => Some(Err("used-id")),
        }
    }
}
