//! A guest that moves from process to process, as the migration engine does it, in outline: copy, ask
//! for the window, pause, hand over all of it, relinquish when the target is ready, say it again until
//! it is heard.

use std::time::Duration;

use godwit_proto::cluster::DiskOwner;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, GuestId, MigrationId};

use super::Broken;
use super::host::Key;
use super::process::Timer;
use super::world::{Message, Signal, World};
use crate::agent::{End, Stage};
use crate::ownership::RunEvent;

/// How long the target may take to be ready.
const SWITCH: Duration = Duration::from_secs(1);
/// How long the source goes on to say that it gave the guest up.
const RECOVERY_MS: (u64, u64) = (8_000, 25_000);
const RESEND: Duration = Duration::from_millis(400);

/// A guest that is given away.
pub(super) struct Move {
    pub(super) migration: MigrationId,
    pub(super) stage: Stage,
    target: usize,
    to: Key,
    /// The vCPUs stand still for the switch.
    pub(super) paused: bool,
    taken: bool,
}

fn error(code: ErrorCode, message: &str) -> CodedError {
    CodedError::new(code, message)
}

impl World {
    fn moving(&mut self, host: usize, key: Key, migration: MigrationId) -> Option<&mut Move> {
        let sending = self.process(host, key)?.sending.as_mut();
        sending.filter(|sending| sending.migration == migration)
    }

    pub(super) fn begin_send(
        &mut self,
        host: usize,
        key: Key,
        migration: MigrationId,
        successor: Epoch,
        token: &str,
    ) {
        let target = token.split(' ').next().and_then(|host| host.parse().ok());
        let target = target.expect("tokens here begin with the host");
        let Some(process) = self.process(host, key) else {
            return;
        };
        process.sending = Some(Move {
            migration,
            stage: Stage::Copying,
            target,
            to: (key.0, successor),
            paused: false,
            taken: false,
        });
        let delay = self.between(200, 4_000);
        self.timer(host, key, delay, Timer::Copied);
    }

    /// It did not come to a handover: the guest runs on.
    fn keep(&mut self, host: usize, key: Key, error: CodedError) {
        let Some(sending) = self.process(host, key).and_then(|p| p.sending.as_mut()) else {
            return;
        };
        if let Stage::Copying | Stage::WantsWindow | Stage::MaySwitch = sending.stage {
            sending.stage = Stage::Kept(error);
            sending.paused = false;
            self.count("moves that failed before the handover");
            self.look(host, key);
        }
    }

    pub(super) fn key_of(
        &self,
        host: usize,
        guest: GuestId,
        migration: MigrationId,
    ) -> Option<Key> {
        let processes = self.hosts[host].processes.iter();
        let sends = |(key, process): (&Key, &super::process::Process)| {
            let sending = process.sending.as_ref();
            (key.0 == guest && sending.is_some_and(|sending| sending.migration == migration))
                .then_some(*key)
        };
        processes.filter_map(sends).next()
    }

    pub(super) fn cancel(&mut self, host: usize, guest: GuestId, migration: MigrationId) {
        if let Some(key) = self.key_of(host, guest, migration) {
            self.keep(host, key, error(ErrorCode::Cancelled, "cancelled"));
        }
    }

    /// The window is open.
    pub(super) fn switch(&mut self, host: usize, guest: GuestId, migration: MigrationId) {
        let Some(key) = self.key_of(host, guest, migration) else {
            return;
        };
        let Some(sending) = self.moving(host, key, migration) else {
            return;
        };
        if sending.stage != Stage::WantsWindow {
            return;
        }
        sending.stage = Stage::MaySwitch;
        sending.paused = true;
        let (target, to) = (sending.target, sending.to);
        self.look(host, key);
        let signal = Signal::Switch {
            migration,
            from: key,
        };
        self.send(host, target, Message::ToProcess(to, signal));
        self.timer(host, key, SWITCH, Timer::SwitchOver);
        self.strike_handover((host, key), (target, to));
    }

    pub(super) fn move_timer(&mut self, host: usize, key: Key, timer: Timer) {
        match timer {
            Timer::Copied => self.copied(host, key),
            Timer::SwitchOver => {
                let sending = self.process(host, key).and_then(|p| p.sending.as_ref());
                if sending.is_some_and(|sending| sending.stage == Stage::MaySwitch) {
                    self.keep(
                        host,
                        key,
                        error(ErrorCode::TimedOut, "the target is silent"),
                    );
                }
            }
            Timer::Resend => self.say_again(host, key),
            Timer::RecoveryOver => {
                let sending = self.process(host, key).and_then(|p| p.sending.as_mut());
                if let Some(sending) = sending.filter(|sending| !sending.taken)
                    && let Stage::Relinquished { serving, lost } = &mut sending.stage
                {
                    *serving = false;
                    *lost = Some(error(ErrorCode::Unconfirmed, "the target is silent"));
                    self.count("handovers of unknown fate");
                }
            }
            Timer::Served => {
                let sending = self.process(host, key).and_then(|p| p.sending.as_mut());
                if let Some(sending) = sending
                    && let Stage::Relinquished { serving, .. } = &mut sending.stage
                {
                    *serving = false;
                }
            }
            Timer::Listening => {
                let receiving = self.process(host, key).and_then(|p| p.receiving.as_mut());
                if let Some(receiving) = receiving {
                    receiving.listens = true;
                }
            }
            Timer::PatienceOver => {
                let waits = self
                    .process(host, key)
                    .is_some_and(|p| p.receiving.is_some());
                if waits {
                    let error = error(ErrorCode::TimedOut, "nobody came");
                    self.end(host, key, Some(&End::NeverRan(error)));
                    self.count("targets that gave up");
                }
            }
            _ => {}
        }
    }

    fn copied(&mut self, host: usize, key: Key) {
        let sending = self.process(host, key).and_then(|p| p.sending.as_ref());
        let Some(sending) = sending.filter(|sending| sending.stage == Stage::Copying) else {
            return;
        };
        let (target, to) = (sending.target, sending.to);
        let is_there = self
            .process(target, to)
            .is_some_and(|p| p.receiving.is_some());
        if self.is_cut(host, target) || !is_there {
            self.keep(
                host,
                key,
                error(ErrorCode::LinkLost, "the target is not there"),
            );
            return;
        }
        let sending = self.process(host, key).and_then(|p| p.sending.as_mut());
        sending.expect("it was there").stage = Stage::WantsWindow;
    }

    fn say_again(&mut self, host: usize, key: Key) {
        let Some(process) = self.process(host, key) else {
            return;
        };
        let memory = process.memory;
        let Some(sending) = process.sending.as_ref() else {
            return;
        };
        let is_open = matches!(sending.stage, Stage::Relinquished { lost: None, .. });
        if sending.taken || !is_open {
            return;
        }
        let signal = Signal::Relinquish {
            migration: sending.migration,
            from: key,
            memory,
        };
        let (target, to) = (sending.target, sending.to);
        self.send(host, target, Message::ToProcess(to, signal));
        self.timer(host, key, RESEND, Timer::Resend);
    }

    /// A guest process hears from another one.
    pub(super) fn signalled(&mut self, from_host: usize, host: usize, key: Key, signal: Signal) {
        let Some(process) = self.process(host, key) else {
            return;
        };
        if let Some(until) = process.stopped_until {
            let message = Message::ToProcess(key, signal);
            let event = super::world::Event::Deliver {
                from: from_host,
                to: host,
                message,
            };
            self.at(until, event);
            return;
        }
        match signal {
            Signal::Switch { migration, from } => {
                let Some(receiving) = process.receiving.as_mut() else {
                    return;
                };
                receiving.ready = true;
                if self.setup.broken == Broken::NoRelinquish {
                    self.handed_over(host, key, None, (from_host, from));
                }
                let ready = Message::ToProcess(from, Signal::Ready { migration });
                self.send(host, from_host, ready);
            }
            Signal::Ready { migration } => self.relinquish(host, key, migration),
            Signal::Relinquish {
                migration,
                from,
                memory,
            } => {
                let ready = process.receiving.is_some_and(|receiving| receiving.ready);
                if ready {
                    self.handed_over(host, key, Some(memory), (from_host, from));
                }
                let taken = self
                    .process(host, key)
                    .is_some_and(|p| p.receiving.is_none());
                if taken {
                    let taken = Message::ToProcess(from, Signal::Taken { migration });
                    self.send(host, from_host, taken);
                }
            }
            Signal::Taken { migration } => {
                if let Some(sending) = self.moving(host, key, migration)
                    && !std::mem::replace(&mut sending.taken, true)
                {
                    let delay = self.between(0, 3_000);
                    self.timer(host, key, delay, Timer::Served);
                }
            }
            Signal::PagesLost => {
                let error = error(ErrorCode::PagesLost, "the source has died");
                self.end(host, key, Some(&End::Failed(error)));
                self.count("guests that lost pages");
            }
        }
        self.act(host);
    }

    fn handed_over(
        &mut self,
        host: usize,
        key: Key,
        memory: Option<u64>,
        (from_host, from): (usize, Key),
    ) {
        let hands = self.disks.get(&key.0).copied().unwrap_or(0);
        if let Some(process) = self.process(host, key) {
            process.receiving = None;
            process.memory = memory.unwrap_or(hands);
        }
        self.count("handovers");
        self.note(|| format!("host {host}: {} at {} is handed over", key.0, key.1));
        self.tell(host, key, RunEvent::HandedOver);
        if self.sectors.contains_key(&key.0) {
            let source = DiskOwner {
                node: self.hosts[from_host].id,
                epoch: from.1,
            };
            self.open_disk(host, key, Some(source));
        }
    }

    fn relinquish(&mut self, host: usize, key: Key, migration: MigrationId) {
        let Some(sending) = self.moving(host, key, migration) else {
            return;
        };
        if sending.stage != Stage::MaySwitch {
            return;
        }
        sending.stage = Stage::Relinquished {
            serving: true,
            lost: None,
        };
        self.note(|| format!("host {host}: {} at {} is given up", key.0, key.1));
        if let Some(process) = self.process(host, key) {
            process.runner.relinquish();
        }
        self.look(host, key);
        self.give_up_disk(host, key);
        let recovery = self.between(RECOVERY_MS.0, RECOVERY_MS.1);
        self.timer(host, key, recovery, Timer::RecoveryOver);
        self.say_again(host, key);
    }

    /// A process that crashes takes the pages with it that its guest's target still needs.
    pub(super) fn crash(&mut self, host: usize, key: Key) {
        let Some(process) = self.process(host, key) else {
            return;
        };
        let needs = process.sending.as_ref().filter(|sending| {
            sending.taken && matches!(sending.stage, Stage::Relinquished { serving: true, .. })
        });
        let needs = needs.map(|sending| (sending.target, sending.to));
        self.note(|| format!("host {host}: {} at {} crashes", key.0, key.1));
        let error = error(ErrorCode::GuestCrashed, "killed");
        self.end(host, key, Some(&End::Failed(error)));
        if let Some((target, to)) = needs {
            self.signalled(host, target, to, Signal::PagesLost);
        }
        self.act(host);
    }
}
