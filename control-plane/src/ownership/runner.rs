//! Whether this copy of a guest may run.

use std::time::Duration;

use godwit_proto::id::Epoch;

/// What a guest process is told about its right to run the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// Time passed.
    Tick,
    /// The node holds a lease until then, and the guest belongs to it under `epoch` as of that lease.
    NodeLease {
        /// The epoch.
        epoch: Epoch,
        /// The end of the lease.
        until: Duration,
    },
    /// The lease on the disk is held under `epoch` until then.
    DiskLease {
        /// The epoch.
        epoch: Epoch,
        /// The end of the lease.
        until: Duration,
    },
    /// The source promised never to run the guest again, and this process has all of it.
    HandedOver,
    /// Somebody else may run the guest under this later epoch.
    NewerEpoch(Epoch),
    /// It was committed that the guest can be started elsewhere from now on, or cannot.
    Leased(bool),
}

/// What is to be done with the guest's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunCommand {
    /// Let them run.
    Run,
    /// Stop them, and keep the guest.
    Pause,
    /// Stop them, and destroy this copy of the guest.
    Destroy,
}

/// How a guest came to this process, and so what has to happen before it first runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nobody could run it when it was given to this node.
    Fresh,
    /// It was taken from a node whose lease had lapsed. Where guests have leases on disks, that node
    /// may hold one: this process must hold it before the guest runs.
    FailedOver {
        /// Whether this guest has one.
        has_disk_lease: bool,
    },
    /// It is handed over by a source that still runs it.
    Moved,
}

/// The right of one guest process to run its guest, under one epoch.
///
/// ```text
///          may begin                 no proof left
/// Waiting ----------> Running <----------------------> Suspended
///    |                   |        a proof comes            |
///    |                   | relinquish                      |
///    '----------------> Over <-----------------------------'
///           a later epoch: destroyed
/// ```
///
/// A guest that nobody else could start (`leased` is false) needs no proof and is never stopped
/// here. Invariants: it runs only between `may begin` and `Over`; after [`Runner::relinquish`] it
/// never runs again under this epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Runner {
    epoch: Epoch,
    leased: bool,
    state: State,
    node_lease: Option<Duration>,
    disk_lease: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Waiting(Origin),
    Running,
    Suspended,
    Over,
}

impl Runner {
    /// The right to run a guest under `epoch`; `leased` when it could be started elsewhere.
    #[must_use]
    pub const fn new(epoch: Epoch, leased: bool, origin: Origin) -> Self {
        Self {
            epoch,
            leased,
            state: State::Waiting(origin),
            node_lease: None,
            disk_lease: None,
        }
    }

    /// Whether the vCPUs run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When it wants to be told that time passed: the end of its last proof.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let running = self.leased && self.state == State::Running;
        self.node_lease.max(self.disk_lease).filter(|_| running)
    }

    /// Gives the guest up for good, in favour of who has the next epoch. The vCPUs stand still
    /// already. Answers whether there was anything to give up.
    pub fn relinquish(&mut self) -> bool {
        let had = matches!(self.state, State::Running | State::Suspended);
        self.state = State::Over;
        had
    }

    /// Takes an event, and answers what is to be done with the vCPUs.
    pub fn handle(&mut self, event: RunEvent, now: Duration) -> Option<RunCommand> {
        match event {
            RunEvent::Tick => {}
            RunEvent::NodeLease { epoch, until } if epoch == self.epoch => {
                self.node_lease = self.node_lease.max(Some(until));
            }
            RunEvent::DiskLease { epoch, until } if epoch == self.epoch => {
                self.disk_lease = self.disk_lease.max(Some(until));
            }
            RunEvent::NodeLease { epoch, .. }
            | RunEvent::DiskLease { epoch, .. }
            | RunEvent::NewerEpoch(epoch) => {
                if epoch > self.epoch && self.state != State::Over {
                    self.state = State::Over;
                    return Some(RunCommand::Destroy);
                }
                return None;
            }
            RunEvent::HandedOver => {
                if self.state == State::Waiting(Origin::Moved) {
                    self.state = State::Suspended;
                }
            }
            RunEvent::Leased(leased) => self.leased = leased,
        }
        self.settle(now)
    }

    fn settle(&mut self, now: Duration) -> Option<RunCommand> {
        let proven = self.node_lease.max(self.disk_lease) > Some(now);
        let held_on_disk = self.disk_lease > Some(now);
        let may_run = !self.leased || proven;
        let may_begin = match self.state {
            State::Waiting(Origin::Fresh) => may_run,
            State::Waiting(Origin::FailedOver { has_disk_lease }) => {
                may_run && (held_on_disk || !has_disk_lease)
            }
            State::Suspended => may_run,
            State::Waiting(Origin::Moved) | State::Running | State::Over => false,
        };
        if may_begin {
            self.state = State::Running;
            return Some(RunCommand::Run);
        }
        if self.state == State::Running && !may_run {
            self.state = State::Suspended;
            return Some(RunCommand::Pause);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn node_lease(epoch: u64, until: u64) -> RunEvent {
        let (epoch, until) = (Epoch::new(epoch), s(until));
        RunEvent::NodeLease { epoch, until }
    }

    fn disk_lease(epoch: u64, until: u64) -> RunEvent {
        let (epoch, until) = (Epoch::new(epoch), s(until));
        RunEvent::DiskLease { epoch, until }
    }

    fn runner(origin: Origin) -> Runner {
        Runner::new(Epoch::new(5), true, origin)
    }

    #[test]
    fn either_proof_keeps_a_guest_running_and_the_loss_of_both_pauses_it() {
        let mut runner = runner(Origin::Fresh);
        assert_eq!(runner.handle(RunEvent::Tick, s(0)), None);
        assert_eq!(
            runner.handle(node_lease(5, 10), s(0)),
            Some(RunCommand::Run)
        );
        assert_eq!(runner.handle(disk_lease(5, 20), s(5)), None);
        assert_eq!(runner.deadline(), Some(s(20)));
        assert_eq!(runner.handle(RunEvent::Tick, s(15)), None);
        assert_eq!(
            runner.handle(RunEvent::Tick, s(20)),
            Some(RunCommand::Pause)
        );
        assert_eq!(runner.deadline(), None);
        assert_eq!(
            runner.handle(node_lease(5, 30), s(25)),
            Some(RunCommand::Run)
        );
    }

    #[test]
    fn a_guest_that_nobody_else_can_start_is_never_stopped() {
        let mut runner = Runner::new(Epoch::new(1), false, Origin::Fresh);
        assert_eq!(runner.handle(RunEvent::Tick, s(0)), Some(RunCommand::Run));
        assert_eq!(runner.handle(RunEvent::Tick, s(1 << 30)), None);
        assert_eq!(runner.deadline(), None);
        // From the moment it is leased it needs a proof.
        let paused = runner.handle(RunEvent::Leased(true), s(1 << 30));
        assert_eq!(paused, Some(RunCommand::Pause));
    }

    #[test]
    fn a_later_epoch_destroys_this_copy_for_good_and_an_earlier_one_proves_nothing() {
        let mut runner = runner(Origin::Fresh);
        assert_eq!(runner.handle(node_lease(4, 10), s(0)), None);
        runner.handle(node_lease(5, 10), s(0));
        let newer = RunEvent::NewerEpoch(Epoch::new(6));
        assert_eq!(runner.handle(newer, s(1)), Some(RunCommand::Destroy));
        assert_eq!(runner.handle(node_lease(5, 99), s(2)), None);
        assert!(!runner.is_running());
    }

    #[test]
    fn who_takes_over_from_a_lost_node_waits_for_the_lease_on_the_disk() {
        let origin = Origin::FailedOver {
            has_disk_lease: true,
        };
        let mut taker = runner(origin);
        assert_eq!(taker.handle(node_lease(5, 99), s(0)), None);
        assert_eq!(taker.handle(disk_lease(5, 10), s(1)), Some(RunCommand::Run));
        assert_eq!(
            taker.handle(RunEvent::Tick, s(11)),
            None,
            "then either will do"
        );
    }

    #[test]
    fn a_target_runs_when_it_was_handed_the_guest_and_has_a_proof_of_its_own() {
        let mut target = runner(Origin::Moved);
        assert_eq!(target.handle(RunEvent::HandedOver, s(1)), None);
        assert_eq!(target.handle(node_lease(5, 9), s(2)), Some(RunCommand::Run));
        let mut target = runner(Origin::Moved);
        assert_eq!(target.handle(node_lease(5, 9), s(0)), None);
        assert_eq!(
            target.handle(RunEvent::HandedOver, s(1)),
            Some(RunCommand::Run)
        );
    }

    #[test]
    fn what_was_relinquished_never_runs_again() {
        let mut source = runner(Origin::Fresh);
        source.handle(node_lease(5, 9), s(0));
        assert!(source.relinquish());
        assert_eq!(source.handle(node_lease(5, 99), s(1)), None);
        assert_eq!(source.handle(RunEvent::Leased(false), s(1)), None);
        assert!(!source.is_running() && !source.relinquish());
    }
}
