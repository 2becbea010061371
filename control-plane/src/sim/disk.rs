//! Leases on shared disks: one sector for each guest that has one. Reads and writes take their time;
//! a write lands within what is assumed or never, is told or not, and lands whatever has become of who
//! wrote it.

use std::time::Duration;

use godwit_proto::cluster::{DiskLease, DiskOwner};

use super::LEASE;
use super::host::Key;
use super::process::Timer;
use super::world::{Event, World};
use crate::lease::{DiskCommand, DiskEvent, DiskHolder, DiskTiming, Ended};
use crate::ownership::RunEvent;

const IO_BOUND: Duration = Duration::from_secs(1);

/// One process's end of a lease on a disk.
pub(super) struct DiskEnd {
    holder: DiskHolder,
    /// When it last began to read.
    read_at: Duration,
    told: Option<Duration>,
}

impl World {
    /// A process goes about the lease of its guest.
    pub(super) fn open_disk(&mut self, host: usize, key: Key, relinquished_by: Option<DiskOwner>) {
        let (clock, now, bound) = (self.clock(host), self.now, self.setup.bound());
        let me = DiskOwner {
            node: self.hosts[host].id,
            epoch: key.1,
        };
        let timing = DiskTiming {
            lease: Duration::from_millis(LEASE.duration_ms.into()),
            renew: Duration::from_millis(LEASE.renew_ms.into()),
            io_bound: IO_BOUND,
        };
        if let Some(process) = self.process(host, key) {
            process.disk = Some(DiskEnd {
                holder: DiskHolder::new(key.0, me, timing, bound, relinquished_by, clock),
                read_at: now,
                told: None,
            });
            self.disk_event(host, key, DiskEvent::Tick);
        }
    }

    /// The guest was given up.
    pub(super) fn give_up_disk(&mut self, host: usize, key: Key) {
        if let Some(disk) = self.process(host, key).and_then(|p| p.disk.as_mut()) {
            disk.holder.give_up();
            self.disk_event(host, key, DiskEvent::Tick);
        }
    }

    /// A guest was stopped in good order: whoever starts it next need not wait.
    pub(super) fn release_disk(&mut self, host: usize, key: Key) {
        let me = DiskOwner {
            node: self.hosts[host].id,
            epoch: key.1,
        };
        let sector = self.sectors.get_mut(&key.0);
        if let Some(sector) = sector.filter(|sector| sector.owner == me) {
            sector.released = true;
        }
    }

    pub(super) fn disk_event(&mut self, host: usize, key: Key, event: DiskEvent) {
        let (clock, now) = (self.clock(host), self.now);
        let Some(process) = self.process(host, key) else {
            return;
        };
        let birth = process.birth;
        let Some(disk) = process.disk.as_mut() else {
            return;
        };
        let command = disk.holder.handle(event, clock);
        if command == Some(DiskCommand::Read) {
            disk.read_at = now;
        }
        let (read_at, deadline) = (disk.read_at, disk.holder.deadline());
        let until = disk.holder.until().filter(|until| disk.told < Some(*until));
        disk.told = disk.told.max(until);
        let ended = disk.holder.ended();
        match command {
            Some(DiskCommand::Read) => {
                let delay = self.between(0, 100);
                self.after(delay, Event::ReadSector { host, key, birth });
            }
            Some(DiskCommand::Write(record)) => {
                let delay = self.between(0, 100);
                let in_time = now + delay < read_at + IO_BOUND;
                let write = Event::WriteSector {
                    host,
                    key,
                    record,
                    lands: in_time && !self.random.one_in(50),
                    told: in_time && !self.random.one_in(50),
                };
                self.after(delay, write);
            }
            None => {
                if let Some(deadline) = deadline {
                    let at = self.hosts[host].true_time(deadline, now);
                    self.timer(host, key, at - now, Timer::Disk(DiskEvent::Tick));
                }
            }
        }
        if let Some(until) = until {
            let epoch = key.1;
            self.tell(host, key, RunEvent::DiskLease { epoch, until });
        }
        if let Some(Ended::Superseded(epoch)) = ended {
            self.tell(host, key, RunEvent::NewerEpoch(epoch));
        }
    }

    pub(super) fn read_sector(&mut self, host: usize, key: Key, birth: u64) {
        let record = self.sectors.get(&key.0).copied();
        let is_same = self.process(host, key).is_some_and(|p| p.birth == birth);
        if is_same {
            let event = match self.is_out(host) {
                true => DiskEvent::Failed,
                false => DiskEvent::Read(record),
            };
            let delay = self.between(0, 50);
            self.timer(host, key, delay, Timer::Disk(event));
        }
    }

    pub(super) fn write_sector(
        &mut self,
        host: usize,
        key: Key,
        record: DiskLease,
        lands: bool,
        told: bool,
    ) {
        let is_out = self.is_out(host);
        if lands && !is_out {
            self.sectors.insert(key.0, record);
        }
        let event = match lands && told && !is_out {
            true => DiskEvent::Written,
            false => DiskEvent::Failed,
        };
        self.timer(host, key, Duration::ZERO, Timer::Disk(event));
    }

    /// Whether a host does not reach the shared disks.
    fn is_out(&self, host: usize) -> bool {
        self.hosts[host].disks_out_until > self.now
    }
}
