//! A driver's side of a ring in guest memory, and an interrupt that only counts: what device tests
//! drive a [`VirtioDevice`](super::VirtioDevice) with, without a transport.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{ActiveQueue, VirtioInterrupt};
use crate::interrupt::InterruptError;
use crate::memory::GuestMemory;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Waits until `condition` holds; panics with `what` after [`PATIENCE`].
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Counts what the device tells the driver.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    used: AtomicU32,
    config: AtomicU32,
    reset: Mutex<Option<String>>,
}

impl Recorder {
    pub(crate) fn used_count(&self) -> u32 {
        self.used.load(Ordering::SeqCst)
    }
    pub(crate) fn config_count(&self) -> u32 {
        self.config.load(Ordering::SeqCst)
    }
    /// The cause, when the device needs a reset.
    pub(crate) fn reset_cause(&self) -> Option<String> {
        self.reset.lock().unwrap().clone()
    }
}

impl VirtioInterrupt for Recorder {
    fn used(&self, _queue: u16) -> Result<(), InterruptError> {
        self.used.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn config_changed(&self) -> Result<(), InterruptError> {
        self.config.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn needs_reset(&self, cause: &str) {
        *self.reset.lock().unwrap() = Some(cause.to_owned());
    }
}

/// A descriptor as the driver writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A buffer that the device reads.
pub(crate) fn readable(address: u64, len: u32) -> Desc {
    Desc {
        address,
        len,
        flags: 0,
        next: 0,
    }
}

/// A buffer that the device writes.
pub(crate) fn writable(address: u64, len: u32) -> Desc {
    Desc {
        address,
        len,
        flags: WRITE,
        next: 0,
    }
}

/// The driver's side of a split ring. Takes 0x3000 bytes of guest memory from `base`.
pub(crate) struct TestRing {
    memory: GuestMemory,
    base: u64,
    size: u16,
    next_desc: u16,
    avail: u16,
    used_seen: u16,
    pub(crate) kick: Arc<EventFd>,
}

impl TestRing {
    pub(crate) fn new(memory: &GuestMemory, base: u64, size: u16) -> Self {
        Self {
            memory: memory.clone(),
            base,
            size,
            next_desc: 0,
            avail: 0,
            used_seen: 0,
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        }
    }

    /// The device's side.
    pub(crate) fn active(&self, index: u16, event_idx: bool) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.base))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.base + 0x1000))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.base + 0x2000))
            .unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        let kick = self.kick.try_clone().unwrap();
        ActiveQueue { index, queue, kick }
    }

    pub(crate) fn put_desc(&self, index: u16, desc: Desc) {
        self.put_desc_at(self.base, index, desc);
    }

    /// Writes a descriptor into a table anywhere, for indirect ones.
    pub(crate) fn put_desc_at(&self, table: u64, index: u16, desc: Desc) {
        let at = GuestAddress(table + u64::from(index) * 16);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Makes a chain available without a kick; returns its head. Descriptors are used in turn, so at
    /// most `size` may be outstanding.
    pub(crate) fn post(&mut self, chain: &[Desc]) -> u16 {
        let head = self.next_desc % self.size;
        for (i, desc) in chain.iter().enumerate() {
            let index = self.next_desc % self.size;
            self.next_desc = (self.next_desc + 1) % self.size;
            let mut desc = *desc;
            if i + 1 < chain.len() {
                desc.flags |= NEXT;
                desc.next = (index + 1) % self.size;
            }
            self.put_desc(index, desc);
        }
        self.publish(head);
        head
    }

    /// The head that the next [`TestRing::post`] uses.
    pub(crate) fn next_head(&self) -> u16 {
        self.next_desc
    }

    /// Puts any head into the available ring.
    pub(crate) fn publish(&mut self, head: u16) {
        let slot = self.base + 0x1004 + u64::from(self.avail % self.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(self.avail);
    }

    /// Writes any index into the available ring.
    pub(crate) fn set_avail_index(&self, index: u16) {
        let at = GuestAddress(self.base + 0x1002);
        self.memory.store(index, at, Ordering::SeqCst).unwrap();
    }

    /// Writes the flags of the available ring.
    pub(crate) fn set_avail_flags(&self, flags: u16) {
        let at = GuestAddress(self.base + 0x1000);
        self.memory.store(flags, at, Ordering::SeqCst).unwrap();
    }

    /// Asks for an interrupt once the used index passes `index` (EVENT_IDX).
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = GuestAddress(self.base + 0x1004 + u64::from(self.size) * 2);
        self.memory.store(index, at, Ordering::SeqCst).unwrap();
    }

    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// How many chains the device has put into the used ring in all (mod 2^16).
    pub(crate) fn used_index(&self) -> u16 {
        let at = GuestAddress(self.base + 0x2002);
        self.memory.load(at, Ordering::SeqCst).unwrap()
    }

    /// The next used chain: head and length.
    pub(crate) fn pop_used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.used_seen {
            return None;
        }
        let slot = self.base + 0x2004 + u64::from(self.used_seen % self.size) * 8;
        let [head, len] = self
            .memory
            .read_obj::<[u32; 2]>(GuestAddress(slot))
            .unwrap();
        self.used_seen = self.used_seen.wrapping_add(1);
        Some((head as u16, len))
    }

    /// Waits for the next used chain.
    pub(crate) fn wait_used(&mut self) -> (u16, u32) {
        let mut found = None;
        eventually("a used buffer", || {
            found = self.pop_used();
            found.is_some()
        });
        found.unwrap()
    }
}
