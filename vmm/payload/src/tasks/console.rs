//! Sends back what comes in on the console device (virtio 1.2, 5.3).

use super::Site;
use crate::cpu::CpuBlock;
use crate::line;
use crate::schedule::Next;
use crate::virtio::{Device, Queue, Refused, take};

const KIND: u16 = 3;
const BUFFERS: u16 = 8;
const BYTES: u32 = 512;
const GREETING: &[u8] = b"godwit-payload console\n";

pub struct ConsoleTask {
    receive: Queue,
    transmit: Queue,
    /// Receive buffers, then as many to send from.
    memory: u64,
    echoed: u64,
    dropped: u64,
    errors: u64,
    reported: u64,
    every: u64,
    report: u64,
}

impl ConsoleTask {
    pub fn new(site: &mut Site<'_>, nth: u32, every: u64) -> Result<Self, Refused> {
        let mut device = Device::open(&site.pci, KIND, nth)?;
        device.negotiate(0)?;
        device.route(site.cpu)?;
        let receive = device.queue(site.free, 0, 1, BUFFERS, false)?;
        let transmit = device.queue(site.free, 1, 1, BUFFERS, false)?;
        let memory = take(site.free, 2)?;
        device.start();
        let mut task = Self {
            receive,
            transmit,
            memory,
            echoed: 0,
            dropped: 0,
            errors: 0,
            reported: 0,
            every,
            report: 0,
        };
        for _ in 0..BUFFERS {
            task.refill();
        }
        task.receive.kick();
        task.send(GREETING.as_ptr() as u64, GREETING.len() as u32);
        Ok(task)
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        while let Some(used) = self.transmit.pop() {
            self.errors += u64::from(used.is_err());
        }
        let mut some = false;
        while let Some(used) = self.receive.pop() {
            some = true;
            match used {
                Ok(used) => self.send(self.buffer(used.slot), used.len.min(BYTES)),
                Err(_) => self.errors += 1,
            }
            self.refill();
        }
        if some {
            self.receive.kick();
        }
        if self.echoed + self.dropped != self.reported && now >= self.report {
            self.reported = self.echoed + self.dropped;
            self.report = now + self.every;
            line!(
                cpu,
                "console echoed={} dropped={} errors={} time_ns={now}",
                self.echoed,
                self.dropped,
                self.errors
            );
        }
        if self.echoed + self.dropped != self.reported {
            Next::At(self.report)
        } else {
            Next::Interrupt
        }
    }

    fn buffer(&self, slot: u16) -> u64 {
        self.memory + u64::from(slot) * u64::from(BYTES)
    }

    fn refill(&mut self) {
        if let Some(slot) = self.receive.take() {
            let buffer = self.buffer(slot);
            self.receive.offer(slot, &[(buffer, BYTES, true)]);
        }
    }

    /// Sends a copy, so that the receive buffer can go back at once.
    fn send(&mut self, from: u64, len: u32) {
        let Some(slot) = self.transmit.take() else {
            self.dropped += u64::from(len);
            return;
        };
        let to = self.buffer(slot) + u64::from(BUFFERS) * u64::from(BYTES);
        // SAFETY: `len` is at most one buffer; the slot's buffer is not in flight.
        unsafe { core::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len as usize) };
        self.transmit.offer(slot, &[(to, len, false)]);
        self.transmit.kick();
        self.echoed += u64::from(len);
    }
}
