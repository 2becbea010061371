//! The difference between what is to be and what is.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::time::Duration;

use godwit_proto::cluster::{
    Command, DesiredGuest, GuestCommand, GuestReport, Ledger, ObservedState, Pledge, Role,
    RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId};

use super::{Action, Agent, Doing, End, Found, Launch};
use crate::ownership::Origin;

/// One look at everything: what is found is asked for, and what is to be pledged first.
pub(super) struct Look<'a> {
    pub(super) agent: &'a mut Agent,
    pub(super) now: Duration,
    /// The ledger as it is to be.
    pub(super) pledges: BTreeMap<GuestId, Pledge>,
    pub(super) actions: Vec<Action>,
}

impl Agent {
    /// What to do next. `found` are *all* guest processes of the node: without a complete list this
    /// must not be called, for a process that is missing is taken to be gone.
    ///
    /// To be called when something has changed and at [`Agent::next_wake`]; all actions of one call
    /// have been taken up, in their order, before the next one.
    pub fn decide(&mut self, now: Duration, found: &[Found]) -> Vec<Action> {
        let Some(desired) = self.desired.take() else {
            return Vec::new();
        };
        let pledges = self.ledger.clone();
        let mut look = Look {
            agent: self,
            now,
            pledges,
            actions: Vec::new(),
        };
        for guest in &desired.guests {
            look.guest(guest, found);
        }
        let listed: BTreeSet<GuestId> = desired.guests.iter().map(|guest| guest.id).collect();
        for process in found
            .iter()
            .filter(|process| !listed.contains(&process.guest))
        {
            look.unwanted(process);
        }
        // Whoever is neither listed nor found never comes back under an epoch of then.
        let is_found = |id: GuestId| found.iter().any(|process| process.guest == id);
        look.pledges
            .retain(|id, _| listed.contains(id) || is_found(*id));
        let Look {
            pledges,
            mut actions,
            ..
        } = look;
        if pledges != self.ledger {
            let ledger = Ledger {
                seen: desired.revision,
                pledges: pledges.into_values().collect(),
            };
            actions.insert(0, Action::Record(ledger));
        }
        self.due.retain(|(id, _)| listed.contains(id));
        self.desired = Some(desired);
        actions
    }

    /// When to call [`Agent::decide`] again if nothing happens: something that was proposed may have
    /// been lost.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.proposals.deadline()
    }
}

impl Look<'_> {
    fn guest(&mut self, desired: &DesiredGuest, found: &[Found]) {
        let of_guest = || found.iter().filter(|process| process.guest == desired.id);
        if of_guest().any(|process| process.epoch > desired.epoch) {
            // Newer than what is wanted: a newer desired state is on its way.
            return;
        }
        let own = of_guest().find(|process| process.epoch == desired.epoch);
        let mut in_the_way = false;
        for process in of_guest().filter(|process| process.epoch < desired.epoch) {
            let revivable = desired.revives == Some(process.epoch)
                && own.is_none()
                && !matches!(process.doing, Doing::Ended(_))
                && !matches!(desired.role, Role::Target(_));
            in_the_way |= revivable || !process.is_serving();
            match revivable {
                true => self.revive(desired, process),
                false => self.unwanted(process),
            }
        }
        match (&desired.role, own) {
            (Role::Owner, Some(process)) => self.owned(desired, process),
            (Role::Source(moving), Some(process)) => self.source(desired, moving, process),
            (Role::Target(moving), Some(process)) => self.target(desired, moving, process),
            _ if in_the_way => {}
            (Role::Owner, None) => self.missing(desired),
            (Role::Source(moving), None) => self.source_missing(desired, moving),
            (Role::Target(moving), None) => self.target_missing(desired, moving),
        }
    }

    /// A process whose guest is not this node's under its epoch.
    fn unwanted(&mut self, process: &Found) {
        // It cannot run any more, and somebody needs what it has; it ends by itself.
        if !process.is_serving() {
            self.destroy(process.guest, process.epoch);
        }
    }

    fn owned(&mut self, desired: &DesiredGuest, process: &Found) {
        if process.is_relinquished() {
            // Its target is gone as well: what was given up was lost there.
            let message = "the guest was handed over and lost there";
            let error = CodedError::new(ErrorCode::Unconfirmed, message);
            self.report(desired, Some(process), ObservedState::Failed(error));
            return;
        }
        match &process.doing {
            Doing::Ended(end) => self.report(desired, Some(process), ended(end)),
            // Nobody is left to hand it over.
            Doing::Receiving { .. } => self.destroy(desired.id, desired.epoch),
            Doing::Starting | Doing::Running | Doing::Paused => {
                self.cancel_other(desired, process, None);
                self.settle(desired, process);
            }
        }
    }

    /// A guest that this node owns, and whose process lives.
    pub(super) fn settle(&mut self, desired: &DesiredGuest, process: &Found) {
        let (guest, epoch) = (desired.id, desired.epoch);
        if desired.intent == RunIntent::Stopped {
            self.actions.push(Action::Stop { guest, epoch });
            return;
        }
        if process.leased != desired.leased {
            self.actions.push(Action::SetLeased {
                guest,
                epoch,
                leased: desired.leased,
            });
        }
        let state = match process.doing {
            Doing::Running => ObservedState::Running,
            Doing::Paused => ObservedState::Paused,
            _ => return,
        };
        let differs = discriminant(&desired.observed) != discriminant(&state);
        if differs || desired.observed_generation < real(desired, Some(process)) {
            self.report(desired, Some(process), state);
        }
    }

    /// A guest that this node owns, and no process.
    fn missing(&mut self, desired: &DesiredGuest) {
        let pledge = self.agent.ledger.get(&desired.id);
        let is_spent = pledge.is_some_and(|pledge| pledge.spent >= desired.epoch);
        if self.was_begun(desired) || is_spent && desired.intent == RunIntent::Running {
            self.report(desired, None, gone());
        } else if desired.intent == RunIntent::Stopped {
            if self.spend(desired) {
                self.report(desired, None, ObservedState::Stopped);
            }
        } else if self.begin(desired) {
            let has_disk_lease = self.agent.disk_leases && desired.lease_pool.is_some();
            // Who had it before may hold its lease on the disk still.
            let origin = match has_disk_lease {
                true => Origin::FailedOver { has_disk_lease },
                false => Origin::Fresh,
            };
            let launch = self.launch(desired, origin);
            self.actions.push(Action::Start(Box::new(launch)));
        }
    }

    fn revive(&mut self, desired: &DesiredGuest, process: &Found) {
        let (guest, epoch) = (desired.id, desired.epoch);
        let pledge = self.agent.ledger.get(&guest).copied();
        if pledge.is_some_and(|pledge| pledge.begun >= epoch) {
            self.agent.due.remove(&(guest, epoch));
            let from = process.epoch;
            self.actions.push(Action::Revive { guest, from, epoch });
        } else {
            self.pledge(guest).begun = epoch;
        }
    }

    /// Whether a process was made for this epoch before, or was said never to be.
    pub(super) fn was_begun(&self, desired: &DesiredGuest) -> bool {
        let key = (desired.id, desired.epoch);
        let pledge = self.agent.ledger.get(&desired.id);
        !self.agent.due.contains(&key) && pledge.is_some_and(|pledge| pledge.begun >= desired.epoch)
    }

    /// Whether a process may be made for this epoch, which is so once. If not, it is pledged now, or
    /// was said never to be.
    pub(super) fn begin(&mut self, desired: &DesiredGuest) -> bool {
        let key = (desired.id, desired.epoch);
        if self.agent.due.remove(&key) {
            return true;
        }
        let pledge = self.pledge(desired.id);
        if pledge.spent < desired.epoch {
            pledge.begun = pledge.begun.max(desired.epoch);
        }
        false
    }

    /// Whether it is on the disk that no process is made for this epoch; if not, it is pledged now.
    pub(super) fn spend(&mut self, desired: &DesiredGuest) -> bool {
        self.agent.due.remove(&(desired.id, desired.epoch));
        let recorded = self.agent.ledger.get(&desired.id);
        let is_spent = recorded.is_some_and(|pledge| pledge.spent >= desired.epoch);
        let pledge = self.pledge(desired.id);
        pledge.spent = pledge.spent.max(desired.epoch);
        is_spent
    }

    fn pledge(&mut self, guest: GuestId) -> &mut Pledge {
        let none = Pledge {
            guest,
            begun: Epoch::new(0),
            spent: Epoch::new(0),
        };
        self.pledges.entry(guest).or_insert(none)
    }

    pub(super) fn launch(&self, desired: &DesiredGuest, origin: Origin) -> Launch {
        Launch {
            guest: desired.id,
            name: desired.name.clone(),
            epoch: desired.epoch,
            leased: desired.leased,
            origin,
            lease_pool: desired.lease_pool.clone(),
            machine: desired.machine.clone(),
        }
    }

    pub(super) fn destroy(&mut self, guest: GuestId, epoch: Epoch) {
        self.actions.push(Action::Destroy { guest, epoch });
    }

    pub(super) fn report(
        &mut self,
        desired: &DesiredGuest,
        process: Option<&Found>,
        state: ObservedState,
    ) {
        let report = GuestReport {
            guest: desired.id,
            node: self.agent.node,
            epoch: desired.epoch,
            state,
            generation: real(desired, process),
            dirty_pages_per_second: process.and_then(|process| process.dirty_pages_per_second),
        };
        self.propose(Command::Guest(GuestCommand::Report(report)));
    }

    pub(super) fn propose(&mut self, command: Command) {
        if self.agent.proposals.begin(&command, self.now) {
            self.actions.push(Action::Propose(command));
        }
    }
}

/// The generation that is real: the process has what the guest's policy says, or there is none.
fn real(desired: &DesiredGuest, process: Option<&Found>) -> godwit_proto::id::Generation {
    match process {
        Some(process) if process.leased != desired.leased => desired.observed_generation,
        _ => desired.generation,
    }
}

fn ended(end: &End) -> ObservedState {
    match end {
        End::Stopped => ObservedState::Stopped,
        End::Failed(error) | End::NeverRan(error) => ObservedState::Failed(error.clone()),
    }
}

pub(super) fn gone() -> ObservedState {
    ObservedState::Failed(process_gone())
}

pub(super) fn process_gone() -> CodedError {
    CodedError::new(ErrorCode::Other, "the guest's process is gone")
}
