//! Reads from the entropy device (virtio 1.2, 5.4) and looks whether what
//! comes could be random at all.

use super::Site;
use crate::cpu::CpuBlock;
use crate::line;
use crate::logic::span::PAGE;
use crate::schedule::Next;
use crate::virtio::{Device, Queue, Refused, take};

const KIND: u16 = 4;

pub struct RngTask {
    queue: Queue,
    buffer: u64,
    wanted: u64,
    read: u64,
    ones: u64,
    waiting: bool,
    errors: u64,
}

impl RngTask {
    pub fn new(site: &mut Site<'_>, nth: u32, bytes: u64) -> Result<Self, Refused> {
        let mut device = Device::open(&site.pci, KIND, nth)?;
        device.negotiate(0)?;
        device.route(site.cpu)?;
        let queue = device.queue(site.free, 0, 1, 1, false)?;
        let buffer = take(site.free, 1)?;
        device.start();
        Ok(Self {
            queue,
            buffer,
            wanted: bytes,
            read: 0,
            ones: 0,
            waiting: false,
            errors: 0,
        })
    }

    pub fn poll(&mut self, cpu: &CpuBlock, _now: u64) -> Next {
        while let Some(used) = self.queue.pop() {
            self.waiting = false;
            match used {
                Ok(used) => self.count(u64::from(used.len).min(PAGE)),
                Err(_) => self.errors += 1,
            }
        }
        if self.read >= self.wanted || self.errors > 0 {
            // Half of the bits, give or take six standard deviations.
            let bits = self.read * 8;
            let off = self.ones.abs_diff(bits / 2);
            let fair = self.read > 0 && off * off <= 9 * bits;
            let verdict = if fair && self.errors == 0 {
                "ok"
            } else {
                "bad"
            };
            line!(
                cpu,
                "rng bytes={} ones_per_mille={} check={verdict} errors={}",
                self.read,
                self.ones * 1_000 / bits.max(1),
                self.errors
            );
            return Next::Done;
        }
        if !self.waiting
            && let Some(slot) = self.queue.take()
        {
            self.waiting = true;
            let len = (self.wanted - self.read).min(PAGE) as u32;
            self.queue.offer(slot, &[(self.buffer, len, true)]);
            self.queue.kick();
        }
        Next::Interrupt
    }

    fn count(&mut self, len: u64) {
        // A device that gives nothing would keep us asking.
        self.errors += u64::from(len == 0);
        for offset in 0..len {
            // SAFETY: within the buffer; the device is done with it.
            let byte = unsafe { ((self.buffer + offset) as *const u8).read_volatile() };
            self.ones += u64::from(byte.count_ones());
        }
        self.read += len;
    }
}
