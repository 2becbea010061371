//! Guest processes: they run their guest while their runner lets them, whatever becomes of the daemon.

use std::time::Duration;

use godwit_proto::cluster::DiskOwner;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::MigrationId;

use super::disk::DiskEnd;
use super::handover::Move;
use super::host::Key;
use super::world::{Event, World};
use super::{Broken, MARGIN};
use crate::agent::{Action, Doing, End, Found, Launch, Sending};
use crate::lease::DiskEvent;
use crate::ownership::{Origin, RunCommand, RunEvent, Runner};

/// What a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A proof runs out.
    Deadline,
    /// The guest is booted.
    Booted,
    /// The guest has powered itself off, as asked.
    Stopped,
    /// It listens.
    Listening,
    /// All of the guest was copied.
    Copied,
    /// The target has had its time to be ready.
    SwitchOver,
    /// Say again that the guest was given up.
    Resend,
    /// The source has tried for long enough.
    RecoveryOver,
    /// The target has waited for long enough.
    PatienceOver,
    /// The target has all pages.
    Served,
    /// Something of its lease on the disk.
    Disk(DiskEvent),
}

pub(super) struct Process {
    /// Tells processes apart that have the same key one after the other.
    pub(super) birth: u64,
    pub(super) runner: Runner,
    pub(super) leased: bool,
    pub(super) booted: bool,
    /// Boots from its disks when it first runs.
    pub(super) fresh: bool,
    /// How often its guest's disks had changed hands when it last had them.
    pub(super) memory: u64,
    /// Whether its vCPUs ran when that was last looked at.
    pub(super) ran: bool,
    pub(super) ended: Option<End>,
    /// While it is stopped (SIGSTOP).
    pub(super) stopped_until: Option<Duration>,
    /// What it was told meanwhile.
    pub(super) inbox: Vec<RunEvent>,
    /// Where the guest comes from, until it was handed over.
    pub(super) receiving: Option<Receiving>,
    pub(super) sending: Option<Move>,
    pub(super) disk: Option<DiskEnd>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Receiving {
    pub(super) migration: MigrationId,
    pub(super) listens: bool,
    /// It has all of the guest.
    pub(super) ready: bool,
}

impl Process {
    /// Whether its guest's vCPUs run, at this moment.
    pub(super) fn runs(&self) -> bool {
        let switching = self.sending.as_ref().is_some_and(|sending| sending.paused);
        self.runner.is_running()
            && self.booted
            && !switching
            && self.stopped_until.is_none()
            && self.ended.is_none()
    }
}

impl World {
    /// What an agent's daemon finds.
    pub(super) fn found(&self, host: usize) -> Vec<Found> {
        let processes = self.hosts[host].processes.iter();
        let found = processes.map(|((guest, epoch), process)| Found {
            guest: *guest,
            epoch: *epoch,
            leased: process.leased,
            doing: self.doing(host, (*guest, *epoch), process),
            sending: process.sending.as_ref().map(|sending| Sending {
                migration: sending.migration,
                stage: sending.stage.clone(),
            }),
            dirty_pages_per_second: None,
            receipt: None,
        });
        found.collect()
    }

    fn doing(&self, host: usize, key: Key, process: &Process) -> Doing {
        match (&process.ended, process.receiving) {
            (Some(end), _) => Doing::Ended(end.clone()),
            (None, Some(receiving)) => Doing::Receiving {
                migration: receiving.migration,
                token: receiving
                    .listens
                    .then(|| format!("{host} {} {}", key.0, key.1)),
            },
            (None, None) if !process.booted => Doing::Starting,
            (None, None) if process.runner.is_running() => Doing::Running,
            (None, None) if process.fresh => Doing::Starting,
            (None, None) => Doing::Paused,
        }
    }

    /// What the agent wants of guest processes.
    pub(super) fn ask_process(&mut self, host: usize, action: Action) {
        // One that is stopped hears nothing; it is told again.
        let to = match &action {
            Action::Stop { guest, epoch }
            | Action::SetLeased { guest, epoch, .. }
            | Action::BeginSend { guest, epoch, .. } => Some((*guest, *epoch)),
            Action::Revive { guest, from, .. } => Some((*guest, *from)),
            Action::AllowSwitch { guest, migration } | Action::CancelSend { guest, migration } => {
                self.key_of(host, *guest, *migration)
            }
            _ => None,
        };
        let process = to.and_then(|key| self.hosts[host].processes.get(&key));
        if process.is_some_and(|process| process.stopped_until.is_some()) {
            return;
        }
        match action {
            Action::Start(launch) => {
                let key = self.make(host, &launch, None);
                let delay = self.between(50, 400);
                self.timer(host, key, delay, Timer::Booted);
                self.count("starts");
            }
            Action::PrepareReceive {
                migration, launch, ..
            } => {
                let receiving = Receiving {
                    migration,
                    listens: false,
                    ready: false,
                };
                let key = self.make(host, &launch, Some(receiving));
                let delay = self.between(20, 300);
                self.timer(host, key, delay, Timer::Listening);
                let patience = self.between(10_000, 30_000);
                self.timer(host, key, patience, Timer::PatienceOver);
            }
            Action::Stop { guest, epoch } => {
                let delay = self.between(10, 800);
                self.timer(host, (guest, epoch), delay, Timer::Stopped);
            }
            Action::Destroy { guest, epoch } => self.end(host, (guest, epoch), None),
            Action::SetLeased {
                guest,
                epoch,
                leased,
            } => {
                self.tell(host, (guest, epoch), RunEvent::Leased(leased));
            }
            Action::Revive { guest, from, epoch } => self.revive(host, (guest, from), epoch),
            Action::BeginSend {
                migration,
                guest,
                epoch,
                successor,
                token,
            } => self.begin_send(host, (guest, epoch), migration, successor, &token),
            Action::AllowSwitch { migration, guest } => self.switch(host, guest, migration),
            Action::CancelSend { migration, guest } => self.cancel(host, guest, migration),
            Action::Record(_) | Action::Propose(_) => {}
        }
    }

    fn make(&mut self, host: usize, launch: &Launch, receiving: Option<Receiving>) -> Key {
        let key = (launch.guest, launch.epoch);
        self.births += 1;
        let origin = match (self.setup.broken, launch.origin) {
            (Broken::NoDisk, Origin::FailedOver { .. }) => Origin::Fresh,
            (_, origin) => origin,
        };
        let process = Process {
            birth: self.births,
            runner: Runner::new(launch.epoch, launch.leased, origin),
            leased: launch.leased,
            booted: receiving.is_some(),
            fresh: receiving.is_none(),
            memory: 0,
            ran: false,
            ended: None,
            stopped_until: None,
            inbox: Vec::new(),
            receiving,
            sending: None,
            disk: None,
        };
        self.hosts[host].processes.insert(key, process);
        self.check_begun(host, key);
        if launch.lease_pool.is_some() && receiving.is_none() {
            self.open_disk(host, key, None);
        }
        self.prove(host);
        key
    }

    fn revive(&mut self, host: usize, from: Key, epoch: godwit_proto::id::Epoch) {
        let Some(mut process) = self.hosts[host].processes.remove(&from) else {
            return;
        };
        self.count("revivals");
        process.runner = Runner::new(epoch, process.leased, Origin::Fresh);
        process.sending = None;
        process.inbox.clear();
        let had_disk = process.disk.take().is_some();
        let key = (from.0, epoch);
        self.hosts[host].processes.insert(key, process);
        self.check_begun(host, key);
        self.look(host, key);
        self.tell(host, key, RunEvent::Tick);
        if had_disk {
            let epoch = from.1;
            let node = self.hosts[host].id;
            self.open_disk(host, key, Some(DiskOwner { node, epoch }));
        }
        self.prove(host);
    }

    pub(super) fn timer(&mut self, host: usize, key: Key, delay: Duration, timer: Timer) {
        if let Some(process) = self.hosts[host].processes.get(&key) {
            let birth = process.birth;
            self.after(
                delay,
                Event::Process {
                    host,
                    key,
                    birth,
                    timer,
                },
            );
        }
    }

    /// The living process of that key, unless it is another one by now.
    pub(super) fn process(&mut self, host: usize, key: Key) -> Option<&mut Process> {
        let process = self.hosts[host].processes.get_mut(&key);
        process.filter(|process| process.ended.is_none())
    }

    pub(super) fn process_timer(&mut self, host: usize, key: Key, birth: u64, timer: Timer) {
        let now = self.now;
        let Some(process) = self.process(host, key).filter(|p| p.birth == birth) else {
            return;
        };
        if let Some(until) = process.stopped_until {
            let event = Event::Process {
                host,
                key,
                birth,
                timer,
            };
            self.at(until.max(now), event);
            return;
        }
        match timer {
            Timer::Deadline => self.tell(host, key, RunEvent::Tick),
            Timer::Booted if self.random.one_in(40) => {
                let error = CodedError::new(ErrorCode::Disk, "not today");
                self.end(host, key, Some(&End::Failed(error)));
            }
            Timer::Booted => {
                if let Some(process) = self.process(host, key) {
                    process.booted = true;
                }
                self.tell(host, key, RunEvent::Tick);
            }
            Timer::Stopped => {
                self.release_disk(host, key);
                self.end(host, key, Some(&End::Stopped));
            }
            Timer::Disk(event) => {
                self.disk_event(host, key, event);
                return;
            }
            timer => self.move_timer(host, key, timer),
        }
        self.act(host);
    }

    /// A process ends, or is gone without a trace.
    pub(super) fn end(&mut self, host: usize, key: Key, end: Option<&End>) {
        let is_seen = self.hosts[host].daemon.is_some();
        if let Some(process) = self.hosts[host].processes.get_mut(&key) {
            process.runner.relinquish();
            process.ended = Some(end.cloned().unwrap_or(End::Stopped));
        }
        self.look(host, key);
        if end.is_none() || !is_seen {
            self.hosts[host].processes.remove(&key);
        }
    }

    /// Passes on proofs to the guests that have them.
    pub(super) fn prove(&mut self, host: usize) {
        let Some(daemon) = &self.hosts[host].daemon else {
            return;
        };
        let proofs: Vec<_> = daemon.agent.proofs().collect();
        for proof in proofs {
            let (epoch, until) = (proof.epoch, proof.until);
            let event = RunEvent::NodeLease { epoch, until };
            self.tell(host, (proof.guest, epoch), event);
        }
    }

    /// Tells a process something, now or when it goes on.
    pub(super) fn tell(&mut self, host: usize, key: Key, event: RunEvent) {
        let clock = self.clock(host);
        let Some(process) = self.process(host, key) else {
            return;
        };
        if process.stopped_until.is_some() {
            process.inbox.push(event);
            return;
        }
        if let RunEvent::Leased(leased) = event {
            process.leased = leased;
        }
        let before = process.runner.deadline();
        let command = process.runner.handle(event, clock);
        let after = process.runner.deadline();
        let leased = process.leased;
        if command == Some(RunCommand::Pause) {
            self.check_pause(host, key, leased);
        }
        if command == Some(RunCommand::Destroy) {
            self.end(host, key, None);
            return;
        }
        if let Some(deadline) = after.filter(|_| after != before) {
            // It is late by as much as is allowed.
            let lateness = self.between(0, MARGIN.as_millis() as u64 - 1);
            let at = self.hosts[host].true_time(deadline, self.now);
            self.timer(host, key, at - self.now + lateness, Timer::Deadline);
        }
        self.look(host, key);
    }

    /// A process is stopped from outside.
    pub(super) fn stop(&mut self, host: usize, key: Key, length: Duration) {
        let until = self.now + length;
        let Some(process) = self.process(host, key) else {
            return;
        };
        if process.stopped_until.is_some() {
            return;
        }
        process.stopped_until = Some(until);
        let birth = process.birth;
        self.note(|| {
            format!(
                "host {host}: {} at {} is stopped for {length:?}",
                key.0, key.1
            )
        });
        self.look(host, key);
        self.at(until, Event::Continue { host, key, birth });
    }

    /// It goes on: before anything else it looks at the clock.
    pub(super) fn go_on(&mut self, host: usize, key: Key, birth: u64) {
        let Some(process) = self.process(host, key).filter(|p| p.birth == birth) else {
            return;
        };
        process.stopped_until = None;
        let inbox = std::mem::take(&mut process.inbox);
        self.note(|| format!("host {host}: {} at {} goes on", key.0, key.1));
        if self.setup.broken != Broken::LateClock {
            self.tell(host, key, RunEvent::Tick);
        }
        self.look(host, key);
        for event in inbox {
            self.tell(host, key, event);
        }
    }

    /// Looks whether vCPUs have begun or ceased to run.
    pub(super) fn look(&mut self, host: usize, key: Key) {
        let hands = self.disks.get(&key.0).copied().unwrap_or(0);
        let Some(process) = self.hosts[host].processes.get_mut(&key) else {
            return;
        };
        let runs = process.runs();
        match (process.ran, runs) {
            (false, true) => {
                let memory = process.memory;
                let fresh = std::mem::take(&mut process.fresh);
                process.ran = true;
                self.check_runs(host, key, fresh, memory, hands);
            }
            (true, false) => {
                process.ran = false;
                process.memory = hands + 1;
                self.disks.insert(key.0, hands + 1);
                self.note(|| format!("host {host}: {} at {} stands still", key.0, key.1));
            }
            _ => {}
        }
    }
}
