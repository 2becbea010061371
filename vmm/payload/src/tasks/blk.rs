//! Writes numbered blocks and reads them back: no acknowledged write may be
//! missing, no write may come twice. See `logic::block`.

use super::Site;
use crate::cpu::CpuBlock;
use crate::disk::{Disk, Operation};
use crate::line;
use crate::logic::block::{self, Survey, Verdict};
use crate::logic::options::Blk;
use crate::logic::random::Random;
use crate::logic::rate::Rate;
use crate::schedule::Next;
use crate::virtio::Refused;

/// Requests in flight; fewer than `MIN_BLOCKS`.
const DEPTH: usize = 8;
const MIN_BLOCKS: u64 = 2 * DEPTH as u64;
/// Most blocks in use, so that the first reading ends soon.
const MAX_BLOCKS: u64 = 4096;
/// Failed requests before the task gives up.
const MAX_ERRORS: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Idle,
    Survey { index: u64 },
    Write { sequence: u64 },
    Read { index: u64, acknowledged: u64 },
    Flush { up_to: u64 },
}

pub struct BlkTask {
    disk: Disk,
    options: Blk,
    blocks: u64,
    requests: [Request; DEPTH],
    survey: Survey,
    surveying: bool,
    /// First and next sequence number of this run.
    first: u64,
    next: u64,
    random: Random,
    rate: Rate,
    writes: u64,
    reads: u64,
    verified: u64,
    lost: u64,
    repeated: u64,
    errors: u64,
    /// Writes known to be on the disk after a flush.
    durable: u64,
    unflushed: u64,
    every: u64,
    report: u64,
}

impl BlkTask {
    pub fn new(site: &mut Site<'_>, options: Blk, every: u64) -> Result<Self, Refused> {
        let depth = DEPTH as u16;
        let disk = Disk::open(
            site,
            options.device,
            options.block,
            depth,
            options.size,
            options.poll,
        )?;
        let blocks = disk.blocks.min(MAX_BLOCKS);
        if blocks < MIN_BLOCKS {
            return Err("disk-too-small");
        }
        if disk.read_only && !options.verify_only {
            return Err("disk-read-only");
        }
        Ok(Self {
            blocks,
            disk,
            options,
            requests: [Request::Idle; DEPTH],
            survey: Survey::new(blocks),
            surveying: true,
            first: 0,
            next: 0,
            random: Random::new(1),
            rate: Rate::new(options.rate),
            writes: 0,
            reads: 0,
            verified: 0,
            lost: 0,
            repeated: 0,
            errors: 0,
            durable: 0,
            unflushed: 0,
            every,
            report: 0,
        })
    }

    pub fn ends_by_itself(&self) -> bool {
        self.options.verify_only
    }

    pub fn poll(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        while let Some(back) = self.disk.pop() {
            match back {
                Ok((slot, done)) => self.finish(slot, done),
                Err(_) => self.repeated += 1,
            }
        }
        if self.errors > MAX_ERRORS {
            line!(
                cpu,
                "error blk={} reason=too-many-errors",
                self.options.device
            );
            return Next::Done;
        }
        if self.surveying {
            if self.survey.finished() {
                return self.begin(cpu, now);
            }
            if !self.requests.contains(&Request::Survey {
                index: self.survey.next(),
            }) {
                let index = self.survey.next();
                self.send(Request::Survey { index });
                self.disk.kick();
            }
            return if self.options.poll {
                Next::Busy
            } else {
                Next::Interrupt
            };
        }
        let sent = self.send_due(now);
        if sent {
            self.disk.kick();
        }
        if now >= self.report {
            self.say(cpu, now);
        }
        if self.options.poll || sent {
            return Next::Busy;
        }
        // Either full, waiting for the device, or ahead of the rate.
        Next::At(
            self.rate
                .next(now)
                .map_or(self.report, |time| time.min(self.report)),
        )
    }

    /// The disk was read; start to write, or stop.
    fn begin(&mut self, cpu: &CpuBlock, now: u64) -> Next {
        self.surveying = false;
        line!(
            cpu,
            "blk-verify device={} blocks={} last={} complete={} empty={} bad={}",
            self.options.device,
            self.blocks,
            self.survey.last,
            self.survey.complete(),
            self.survey.empty,
            self.survey.bad
        );
        if self.options.verify_only {
            return Next::Done;
        }
        // Writes that were in flight when the last run ended may be missing
        // in between; they are done again so that no hole stays.
        self.first = self
            .survey
            .complete()
            .max(self.survey.last.saturating_sub(DEPTH as u64))
            + 1;
        self.next = self.first;
        self.rate.start(now);
        self.report = now + self.every;
        Next::Busy
    }

    fn send_due(&mut self, now: u64) -> bool {
        let mut sent = false;
        if self.disk.can_flush && self.options.flush != 0 && self.unflushed >= self.options.flush {
            sent |= self.send(Request::Flush {
                up_to: self.acknowledged(),
            });
            if sent {
                self.unflushed = 0;
            }
        }
        // As many reads as writes.
        let mut due = self.rate.due(now).min(DEPTH as u64);
        while due > 0 && self.reads >= self.writes.saturating_sub(DEPTH as u64) {
            // A write must not overtake an earlier one to the same block.
            let oldest = self.acknowledged() + 1;
            if self.next - oldest >= self.blocks
                || !self.send(Request::Write {
                    sequence: self.next,
                })
            {
                break;
            }
            self.next += 1;
            self.rate.done(1);
            due -= 1;
            sent = true;
        }
        while self.reads < self.writes {
            // One of the last writes to each block.
            let oldest = self.first.max(self.next.saturating_sub(self.blocks));
            let sequence = oldest + self.random.below(self.next - oldest);
            if self.requests.contains(&Request::Write { sequence }) {
                break;
            }
            let index = sequence % self.blocks;
            if !self.send(Request::Read {
                index,
                acknowledged: sequence,
            }) {
                break;
            }
            self.reads += 1;
            sent = true;
        }
        sent
    }

    /// The last write before the oldest in flight.
    fn acknowledged(&self) -> u64 {
        let in_flight = self.requests.iter().filter_map(|request| match request {
            Request::Write { sequence } => Some(*sequence),
            _ => None,
        });
        in_flight.min().unwrap_or(self.next) - 1
    }

    /// False when too many requests are in flight.
    fn send(&mut self, request: Request) -> bool {
        let Some(slot) = self.disk.take() else {
            return false;
        };
        let (operation, index) = match request {
            Request::Write { sequence } => {
                let index = sequence % self.blocks;
                block::stamp(self.disk.data(slot), index, sequence);
                (Operation::Write, index)
            }
            Request::Read { index, .. } | Request::Survey { index } => (Operation::Read, index),
            Request::Flush { .. } | Request::Idle => (Operation::Flush, 0),
        };
        self.disk.submit(slot, operation, index);
        self.requests[usize::from(slot)] = request;
        true
    }

    fn finish(&mut self, slot: u16, done: bool) {
        let request = core::mem::replace(&mut self.requests[usize::from(slot)], Request::Idle);
        if !done {
            self.errors += 1;
            // The number was not acknowledged: the same again.
            if matches!(request, Request::Write { .. }) && self.send(request) {
                self.disk.kick();
            }
            return;
        }
        match request {
            Request::Survey { index } => {
                let found = block::read(self.disk.data(slot), index);
                self.survey.add(found);
            }
            Request::Write { .. } => {
                self.writes += 1;
                self.unflushed += 1;
            }
            Request::Read {
                index,
                acknowledged,
            } => {
                let found = block::read(self.disk.data(slot), index);
                let issued = block::expected(index, self.next - 1, self.blocks);
                match block::judge(found, acknowledged, issued) {
                    Verdict::Right => self.verified += 1,
                    Verdict::Lost => self.lost += 1,
                    Verdict::Repeated => self.repeated += 1,
                }
            }
            Request::Flush { up_to } => self.durable = self.durable.max(up_to),
            Request::Idle => {}
        }
    }

    fn say(&mut self, cpu: &CpuBlock, now: u64) {
        self.report = now + self.every;
        line!(
            cpu,
            "blk writes={} verified={} lost={} repeated={} errors={} last={} durable={} time_ns={now}",
            self.writes,
            self.verified,
            self.lost,
            self.repeated,
            self.errors,
            self.acknowledged(),
            self.durable
        );
    }
}
