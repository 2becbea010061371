//! Requests to a block device (virtio 1.2, 5.2). Each request slot has a
//! header, a status byte and a data buffer of one block for good.

use crate::logic::span::PAGE;
use crate::tasks::Site;
use crate::virtio::{Device, Queue, Refused, take};

const KIND: u16 = 2;
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const SECTOR: u64 = 512;

/// Most requests in flight.
pub const MAX_DEPTH: usize = 64;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// A disk in blocks of a fixed size.
pub struct Disk {
    queue: Queue,
    control: u64,
    data: u64,
    block: u64,
    /// Blocks in use.
    pub blocks: u64,
    pub read_only: bool,
    pub can_flush: bool,
}

impl Disk {
    /// Opens the `nth` block device for `depth` requests of `block` bytes over
    /// its first `size` bytes (0: all).
    pub fn open(
        site: &mut Site<'_>,
        nth: u32,
        block: u32,
        depth: u16,
        size: u64,
        poll: bool,
    ) -> Result<Self, Refused> {
        let mut device = Device::open(&site.pci, KIND, nth)?;
        let features = device.negotiate(READ_ONLY | FLUSH)?;
        device.route(site.cpu)?;
        let queue = device.queue(site.free, 0, 3, depth.min(MAX_DEPTH as u16), poll)?;
        let block = u64::from(block);
        let capacity = device.config64(0).saturating_mul(SECTOR);
        let used = if size == 0 {
            capacity
        } else {
            size.min(capacity)
        };
        if used < block {
            return Err("disk-too-small");
        }
        let control = take(site.free, (u64::from(depth) * 32).div_ceil(PAGE))?;
        let data = take(site.free, (u64::from(depth) * block).div_ceil(PAGE))?;
        device.start();
        Ok(Self {
            queue,
            control,
            data,
            block,
            blocks: used / block,
            read_only: features & READ_ONLY != 0,
            can_flush: features & FLUSH != 0,
        })
    }

    /// A slot for a request.
    pub fn take(&mut self) -> Option<u16> {
        self.queue.take()
    }

    /// The data buffer of a slot that is not in flight.
    pub fn data(&mut self, slot: u16) -> &mut [u64] {
        let at = self.data + u64::from(slot) * self.block;
        // SAFETY: `block` is a multiple of 512, so the buffer is aligned; the
        // slot's owner alone uses it while the device does not.
        unsafe { core::slice::from_raw_parts_mut(at as *mut u64, self.block as usize / 8) }
    }

    /// Sends the request; [`Self::kick`] tells the device.
    pub fn submit(&mut self, slot: u16, operation: Operation, index: u64) {
        let control = self.control + u64::from(slot) * 32;
        let sector = if operation == Operation::Flush {
            0
        } else {
            index * (self.block / SECTOR)
        };
        // SAFETY: the slot's own control bytes; the device does not have them.
        unsafe {
            (control as *mut u32).write_volatile(operation as u32);
            ((control + 4) as *mut u32).write_volatile(0);
            ((control + 8) as *mut u64).write_volatile(sector);
            ((control + 16) as *mut u8).write_volatile(0xff);
        }
        let data = self.data + u64::from(slot) * self.block;
        let header = (control, 16, false);
        let status = (control + 16, 1, true);
        if operation == Operation::Flush {
            self.queue.offer(slot, &[header, status]);
        } else {
            let body = (data, self.block as u32, operation == Operation::Read);
            self.queue.offer(slot, &[header, body, status]);
        }
    }

    pub fn kick(&self) {
        self.queue.kick();
    }

    /// The next request that came back, and whether it succeeded. An error is
    /// a device that gave back what it did not hold.
    pub fn pop(&mut self) -> Option<Result<(u16, bool), Refused>> {
        Some(self.queue.pop()?.map(|used| {
            let status = self.control + u64::from(used.slot) * 32 + 16;
            // SAFETY: as in `submit`; the device is done with it.
            (
                used.slot,
                unsafe { (status as *const u8).read_volatile() } == 0,
            )
        }))
    }
}
