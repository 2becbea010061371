//! Reads or writes a disk as fast as it goes, and says how fast that was.

use super::Site;
use crate::cpu::CpuBlock;
use crate::disk::{Disk, MAX_DEPTH, Operation};
use crate::logic::histogram::Histogram;
use crate::logic::random::Random;
use crate::logic::span::PAGE;
use crate::logic::workload::BlkBench;
use crate::schedule::Next;
use crate::virtio::{Refused, take};
use crate::{clock, line};

const MS: u64 = 1_000_000;

pub struct BlkBenchTask {
    disk: Disk,
    options: BlkBench,
    sent_at: [u64; MAX_DEPTH],
    in_flight: u32,
    latency: &'static mut Histogram,
    random: Random,
    cursor: u64,
    begin: u64,
    end: u64,
    done: u64,
    errors: u64,
}

impl BlkBenchTask {
    pub fn new(site: &mut Site<'_>, options: BlkBench) -> Result<Self, Refused> {
        const _: () = assert!(size_of::<Histogram>() <= PAGE as usize);
        let mut disk = Disk::open(
            site,
            options.device,
            options.block,
            options.depth,
            options.size,
            options.poll,
        )?;
        if disk.read_only && options.write {
            return Err("disk-read-only");
        }
        let mut random = Random::new(1);
        for slot in 0..options.depth {
            disk.data(slot).fill_with(|| random.next());
        }
        let place = take(site.free, 1)? as *mut Histogram;
        // SAFETY: a fresh page of our own, large enough.
        let latency = unsafe {
            place.write(Histogram::new());
            &mut *place
        };
        Ok(Self {
            disk,
            options,
            sent_at: [0; MAX_DEPTH],
            in_flight: 0,
            latency,
            random,
            cursor: 0,
            begin: 0,
            end: 0,
            done: 0,
            errors: 0,
        })
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        if self.begin == 0 {
            self.begin = now;
            self.end = now + self.options.duration * MS;
        }
        let mut back = now;
        while let Some(result) = self.disk.pop() {
            back = clock::now(cpu);
            match result {
                Ok((slot, ok)) => {
                    self.in_flight -= 1;
                    self.latency
                        .add(back.saturating_sub(self.sent_at[usize::from(slot)]));
                    if ok { self.done += 1 } else { self.errors += 1 }
                }
                Err(_) => self.errors += 1,
            }
        }
        if back < self.end {
            self.send(cpu);
        } else if self.in_flight == 0 {
            self.say(cpu, back);
            return Next::Done;
        }
        if self.options.poll {
            Next::Busy
        } else {
            Next::Interrupt
        }
    }

    fn send(&mut self, cpu: &CpuBlock) {
        let mut some = false;
        while let Some(slot) = self.disk.take() {
            let index = if self.options.random {
                self.random.below(self.disk.blocks)
            } else {
                let index = self.cursor;
                self.cursor = (self.cursor + 1) % self.disk.blocks;
                index
            };
            let operation = if self.options.write {
                Operation::Write
            } else {
                Operation::Read
            };
            self.sent_at[usize::from(slot)] = clock::now(cpu);
            self.disk.submit(slot, operation, index);
            self.in_flight += 1;
            some = true;
        }
        if some {
            self.disk.kick();
        }
    }

    fn say(&self, cpu: &CpuBlock, now: u64) {
        let time = u128::from((now - self.begin).max(1));
        let iops = u128::from(self.done) * 1_000_000_000 / time;
        let operation = match (self.options.random, self.options.write) {
            (false, false) => "read",
            (false, true) => "write",
            (true, false) => "randread",
            (true, true) => "randwrite",
        };
        line!(
            cpu,
            "blk-bench op={operation} block={} depth={} poll={} iops={iops} mb_s={} p50_ns={} p99_ns={} max_ns={} \
             done={} errors={} duration_ns={time}",
            self.options.block,
            self.options.depth,
            u8::from(self.options.poll),
            iops * u128::from(self.options.block) / 1_000_000,
            self.latency.quantile(500),
            self.latency.quantile(990),
            self.latency.max(),
            self.done,
            self.errors
        );
    }
}
