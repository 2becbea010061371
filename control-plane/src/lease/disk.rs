//! The lease of a guest on a disk that several nodes reach: taking it, keeping it, yielding it.
//!
//! One sector holds a [`DiskLease`]; it is read and written whole, past every cache. There is no
//! compare-and-swap. The scheme is that of sanlock's delta leases:
//!
//! ```text
//!            owner lapsed, released             not overwritten
//!  Watch ----------------------------> Take ----------------------> Hold ---> ended: a later epoch
//!    ^    or none, or handed over    write, settle, read again       |   ---> yielded
//!    |                                   |                           |
//!    '------- overwritten ---------------'                           |
//!    '------------------------- its own proof has run out -----------'
//! ```
//!
//! - *Hold*: read, then write the next count. A write proves ownership for a lease's length from the
//!   moment it was *issued*. Who finds a later epoch ends; who finds an earlier one was overwritten
//!   by a late write, and writes again.
//! - *Watch*: an owner whose count does not change for longer than a lease, by any clock, has no
//!   proof left, and none of its writes is under way.
//! - *Take*: two may write at once. Each waits until every write that can be under way has landed,
//!   and reads again: the last one finds its own, the other does not. A holder whose proof has run
//!   out does the same before it runs again.
//!
//! Assumed: from the issue of a read to the landing of the write that follows from it, and from the
//! issue of any other write to its landing, at most [`DiskTiming::io_bound`] passes in real time, or
//! the write never lands. A storage that cannot promise it needs fencing of its own.

use std::time::Duration;

use godwit_proto::cluster::{DiskLease, DiskOwner};
use godwit_proto::id::{Epoch, GuestId};

use super::bound::ClockBound;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskTiming {
    /// For how long a write proves ownership.
    pub lease: Duration,
    /// Between renewals.
    pub renew: Duration,
    /// The longest that a write is under way.
    pub io_bound: Duration,
}

/// What a lease on a disk is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    /// Time passed.
    Tick,
    /// The sector was read: the record, or `None` when there never was one.
    Read(Option<DiskLease>),
    /// The sector was written.
    Written,
    /// The last read or write failed, or took too long; a write may have landed, or may yet.
    Failed,
}

/// What a lease on a disk wants done; at most one at a time is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCommand {
    /// Read the sector.
    Read,
    /// Write the sector.
    Write(DiskLease),
}

/// The lease of a guest on a disk, as one node under one epoch goes about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DiskHolder {
    guest: GuestId,
    me: DiskOwner,
    timing: DiskTiming,
    bound: ClockBound,
    aim: Aim,
    io: Io,
    counter: u64,
    successor: Option<DiskOwner>,
    /// Whom it takes over from by agreement: they promised not to run the guest any more.
    relinquished_by: Option<DiskOwner>,
    /// Until when this node's ownership is proven.
    until: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Aim {
    /// Wait until it can be taken; who was seen with which count, since when.
    Watch(Option<Seen>),
    /// It was written, to be taken; of when the write is.
    Take { issued: Duration },
    /// Keep it.
    Hold,
    /// Stop keeping it: write that once more.
    Yield,
    /// Nothing more.
    Ended(Ended),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    owner: DiskOwner,
    counter: u64,
    since: Duration,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Somebody has a later epoch: this copy of the guest must never run again.
    Superseded(Epoch),
    /// It was given up.
    Yielded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Io {
    /// Nothing until then.
    Idle {
        until: Duration,
    },
    Reading {
        issued: Duration,
    },
    Writing {
        issued: Duration,
    },
}

impl DiskHolder {
    /// Goes about taking the lease for `me`. `relinquished_by` is set when the guest was handed over:
    /// its owner need not be watched then.
    #[must_use]
    pub const fn new(
        guest: GuestId,
        me: DiskOwner,
        timing: DiskTiming,
        bound: ClockBound,
        relinquished_by: Option<DiskOwner>,
        now: Duration,
    ) -> Self {
        Self {
            guest,
            me,
            timing,
            bound,
            aim: Aim::Watch(None),
            io: Io::Idle { until: now },
            counter: 0,
            successor: None,
            relinquished_by,
            until: None,
        }
    }

    /// The lease as it is right after it was renewed, for tests that begin there.
    #[cfg(test)]
    pub(crate) fn assume_held(&mut self, counter: u64, until: Duration) {
        self.aim = Aim::Hold;
        self.counter = counter;
        self.until = Some(until);
    }

    /// Until when ownership is proven; nothing before it is taken and after it was lost.
    #[must_use]
    pub const fn until(&self) -> Option<Duration> {
        match self.aim {
            Aim::Hold => self.until,
            Aim::Watch(_) | Aim::Take { .. } | Aim::Yield | Aim::Ended(_) => None,
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub const fn ended(&self) -> Option<Ended> {
        match self.aim {
            Aim::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// When it wants to be told that time passed.
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        match (self.aim, self.io) {
            (Aim::Ended(_), _) => None,
            (_, Io::Idle { until }) => Some(until),
            (_, Io::Reading { .. } | Io::Writing { .. }) => None,
        }
    }

    /// Names who takes over as soon as this node relinquishes; written with the next renewal.
    pub const fn name_successor(&mut self, successor: Option<DiskOwner>) {
        self.successor = successor;
    }

    /// Stops keeping the lease, and says so on the disk. The guest stands still already, and is not
    /// run again under this epoch.
    pub fn give_up(&mut self) {
        self.aim = match self.aim {
            Aim::Hold => Aim::Yield,
            // What others find there is not ours; there is nothing to say.
            Aim::Watch(_) | Aim::Take { .. } => Aim::Ended(Ended::Yielded),
            aim @ (Aim::Yield | Aim::Ended(_)) => aim,
        };
    }

    /// Takes an event, and answers what is to be done.
    pub fn handle(&mut self, event: DiskEvent, now: Duration) -> Option<DiskCommand> {
        if let Aim::Ended(_) = self.aim {
            return None;
        }
        self.notice_lapse(now);
        match (event, self.io) {
            (DiskEvent::Tick, Io::Idle { until }) if now >= until => self.read(now),
            (DiskEvent::Read(record), Io::Reading { issued }) => self.consider(record, issued, now),
            (DiskEvent::Written, Io::Writing { issued }) => {
                self.written(issued, now);
                None
            }
            (DiskEvent::Failed, Io::Reading { .. } | Io::Writing { .. }) => {
                // A write of ours that lands late is ours; but it proves nothing.
                if let Aim::Take { .. } = self.aim {
                    self.aim = Aim::Watch(None);
                }
                self.io = Io::Idle {
                    until: now + self.timing.renew,
                };
                None
            }
            _ => None,
        }
    }

    /// Without proof nothing is held: it has to be taken anew.
    fn notice_lapse(&mut self, now: Duration) {
        if self.aim == Aim::Hold && self.until.is_none_or(|until| now >= until) {
            self.until = None;
            self.aim = Aim::Watch(None);
        }
    }

    fn read(&mut self, now: Duration) -> Option<DiskCommand> {
        self.io = Io::Reading { issued: now };
        Some(DiskCommand::Read)
    }

    /// What was read decides.
    fn consider(
        &mut self,
        record: Option<DiskLease>,
        issued: Duration,
        now: Duration,
    ) -> Option<DiskCommand> {
        if let Some(found) = record
            && found.owner.epoch > self.me.epoch
        {
            self.aim = Aim::Ended(Ended::Superseded(found.owner.epoch));
            return None;
        }
        // What is written now would follow from something too old.
        if now.saturating_sub(issued) >= self.timing.io_bound {
            return self.read(now);
        }
        let mine = record.filter(|found| found.owner == self.me);
        match (self.aim, mine) {
            (Aim::Hold | Aim::Yield, _) => self.write(now),
            (Aim::Take { issued }, Some(found)) if found.counter == self.counter => {
                self.aim = Aim::Hold;
                self.until = Some(issued + self.timing.lease);
                self.notice_lapse(now);
                self.io = Io::Idle { until: now };
                None
            }
            (Aim::Take { .. }, _) => {
                self.aim = Aim::Watch(None);
                self.watch(record, issued, now)
            }
            (Aim::Watch(_), Some(found)) => {
                // Ours from before it lapsed, or from before this process was there.
                self.counter = self.counter.max(found.counter);
                self.take(now)
            }
            (Aim::Watch(_), None) => self.watch(record, issued, now),
            (Aim::Ended(_), _) => None,
        }
    }

    /// Somebody else's record, of an earlier epoch, or none.
    fn watch(
        &mut self,
        record: Option<DiskLease>,
        issued: Duration,
        now: Duration,
    ) -> Option<DiskCommand> {
        let Some(found) = record else {
            return self.take(now);
        };
        if found.released || self.relinquished_by == Some(found.owner) {
            return self.take(now);
        }
        let seen = match self.aim {
            Aim::Watch(Some(seen))
                if (seen.owner, seen.counter) == (found.owner, found.counter) =>
            {
                seen
            }
            _ => Seen {
                owner: found.owner,
                counter: found.counter,
                since: now,
            },
        };
        // From the end of the first read to the beginning of this one.
        let unchanged = issued.saturating_sub(seen.since);
        let lapsed =
            self.bound.outlast(self.timing.lease + self.timing.io_bound) + self.bound.margin;
        if unchanged >= lapsed {
            return self.take(now);
        }
        self.aim = Aim::Watch(Some(seen));
        self.io = Io::Idle {
            until: now + self.timing.renew,
        };
        None
    }

    fn take(&mut self, now: Duration) -> Option<DiskCommand> {
        self.aim = Aim::Take { issued: now };
        self.write(now)
    }

    fn write(&mut self, now: Duration) -> Option<DiskCommand> {
        self.counter += 1;
        self.io = Io::Writing { issued: now };
        Some(DiskCommand::Write(DiskLease {
            guest: self.guest,
            owner: self.me,
            counter: self.counter,
            successor: self.successor,
            released: self.aim == Aim::Yield,
        }))
    }

    fn written(&mut self, issued: Duration, now: Duration) {
        let next = match self.aim {
            Aim::Hold => {
                self.until = self.until.max(Some(issued + self.timing.lease));
                issued + self.timing.renew
            }
            // Every write that was under way has landed by then, and every one that follows from
            // what was read before ours was there.
            Aim::Take { .. } => now + self.bound.outlast(self.timing.io_bound),
            Aim::Yield => {
                self.aim = Aim::Ended(Ended::Yielded);
                now
            }
            // The proof ran out while the write was under way.
            Aim::Watch(_) | Aim::Ended(_) => now,
        };
        self.io = Io::Idle { until: next };
    }
}

#[cfg(test)]
mod tests {
    use godwit_proto::id::NodeId;

    use super::*;

    const A: DiskOwner = owner(0xa, 1);
    const B: DiskOwner = owner(0xb, 2);

    const fn owner(node: u8, epoch: u64) -> DiskOwner {
        DiskOwner {
            node: NodeId::from_bytes([node; 16]),
            epoch: Epoch::new(epoch),
        }
    }

    fn holder(me: DiskOwner) -> DiskHolder {
        let timing = DiskTiming {
            lease: Duration::from_secs(10),
            renew: Duration::from_secs(2),
            io_bound: Duration::from_secs(1),
        };
        let guest = GuestId::from_bytes([1; 16]);
        DiskHolder::new(guest, me, timing, ClockBound::DEFAULT, None, Duration::ZERO)
    }

    fn record(owner: DiskOwner, counter: u64) -> DiskLease {
        DiskLease {
            guest: GuestId::from_bytes([1; 16]),
            owner,
            counter,
            successor: None,
            released: false,
        }
    }

    /// Runs against a sector on which everything takes no time, until `end`; `each` sees the sector
    /// every tenth of a second.
    fn run(
        holder: &mut DiskHolder,
        sector: &mut Option<DiskLease>,
        from: u64,
        end: u64,
        mut each: impl FnMut(Duration, &mut Option<DiskLease>),
    ) {
        for tenth in from * 10..end * 10 {
            let now = Duration::from_millis(tenth * 100);
            each(now, sector);
            let mut next = holder.handle(DiskEvent::Tick, now);
            while let Some(command) = next {
                next = match command {
                    DiskCommand::Read => holder.handle(DiskEvent::Read(*sector), now),
                    DiskCommand::Write(record) => {
                        *sector = Some(record);
                        holder.handle(DiskEvent::Written, now)
                    }
                };
            }
        }
    }

    #[test]
    fn a_lease_that_nobody_had_is_taken_and_kept() {
        let (mut a, mut sector) = (holder(A), None);
        run(&mut a, &mut sector, 0, 60, |_, _| {});
        assert!(
            a.until()
                .is_some_and(|until| until > Duration::from_secs(67))
        );
        let found = sector.unwrap();
        assert_eq!(found.owner, A);
        assert!((28..34).contains(&found.counter), "every 2 s: {found:?}");
    }

    #[test]
    fn a_lease_that_changes_is_not_taken_and_one_that_stands_still_is() {
        let (mut b, mut sector) = (holder(B), Some(record(A, 5)));
        run(&mut b, &mut sector, 0, 60, |now, sector| {
            if now.as_millis().is_multiple_of(9_000) {
                let counter = sector.unwrap().counter + 1;
                *sector = Some(record(A, counter));
            }
        });
        assert_eq!((sector.unwrap().owner, b.until()), (A, None));
        run(&mut b, &mut sector, 60, 80, |_, _| {});
        assert_eq!(sector.unwrap().owner, B);
        assert!(b.until().is_some());
    }

    #[test]
    fn a_lease_that_was_released_is_taken_at_once() {
        let (mut a, mut sector) = (holder(A), None);
        run(&mut a, &mut sector, 0, 5, |_, _| {});
        a.give_up();
        run(&mut a, &mut sector, 5, 8, |_, _| {});
        assert_eq!(a.ended(), Some(Ended::Yielded));
        assert!(sector.unwrap().released);
        let mut b = holder(B);
        run(&mut b, &mut sector, 8, 10, |_, _| {});
        assert!(b.until().is_some() && !sector.unwrap().released);
    }

    #[test]
    fn a_guest_that_was_handed_over_is_not_watched() {
        let (mut b, mut sector) = (holder(B), Some(record(A, 5)));
        b.relinquished_by = Some(A);
        run(&mut b, &mut sector, 0, 2, |_, _| {});
        assert!(b.until().is_some());
    }

    #[test]
    fn an_owner_that_finds_a_later_epoch_ends() {
        let (mut a, mut sector) = (holder(A), None);
        run(&mut a, &mut sector, 0, 5, |_, _| {});
        sector = Some(record(B, 1));
        run(&mut a, &mut sector, 5, 9, |_, _| {});
        assert_eq!(a.ended(), Some(Ended::Superseded(B.epoch)));
        assert_eq!((a.until(), a.deadline()), (None, None));
        assert_eq!(sector.unwrap().owner, B, "it wrote nothing");
    }

    #[test]
    fn an_owner_that_was_overwritten_by_a_late_write_writes_again() {
        let (mut b, mut sector) = (holder(B), None);
        run(&mut b, &mut sector, 0, 5, |_, _| {});
        sector = Some(record(A, 77));
        run(&mut b, &mut sector, 5, 9, |_, _| {});
        assert_eq!(sector.unwrap().owner, B);
        assert!(b.until().is_some());
    }

    #[test]
    fn a_holder_whose_proof_ran_out_takes_its_lease_anew() {
        let (mut a, mut sector) = (holder(A), None);
        run(&mut a, &mut sector, 0, 5, |_, _| {});
        // Nothing is heard of the disk for a while.
        let late = Duration::from_secs(30);
        assert_eq!(a.handle(DiskEvent::Tick, late), Some(DiskCommand::Read));
        assert_eq!(a.until(), None);
        let Some(DiskCommand::Write(written)) = a.handle(DiskEvent::Read(sector), late) else {
            panic!("it is written anew");
        };
        sector = Some(written);
        a.handle(DiskEvent::Written, late);
        assert_eq!(a.until(), None, "somebody else may be writing");
        run(&mut a, &mut sector, 31, 34, |_, _| {});
        assert!(a.until().is_some());
    }
}
