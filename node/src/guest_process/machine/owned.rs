//! The guest of a process that a cluster gave it to: whether it may run, and its moves as steps that
//! do not keep anybody waiting.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

use godwit_migration::driver::Window;
use godwit_migration::fault::Faults;
use godwit_migration::report::Outcome;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::MigrationId;
use godwit_proto::process::{
    AwaitRequest, Departure, ExitReason, GuestState, Leaving, MandateState, MigrateRequest,
    Parting, Standing,
};
use tokio::sync::watch;

use super::{Machine, json};
use crate::foreground::signals::Signals;
use crate::guest_process::mandate::{Holder, Ward};
use crate::migrate::{self, Door, Here};

/// How long a guest process takes to listen for a guest.
const LISTENS: Duration = Duration::from_secs(10);

/// What a cluster says of the guest of this process.
pub(super) struct Cluster {
    holder: Arc<Holder>,
    /// A guest may be moved here.
    awaits: AtomicBool,
    leaving: Mutex<Going>,
}

enum Going {
    Nowhere,
    UnderWay {
        migration: MigrationId,
        asked: watch::Receiver<bool>,
        open: watch::Sender<bool>,
    },
    Over(Departure),
}

impl Going {
    fn departure(&self) -> Option<Departure> {
        let (migration, stage) = match self {
            Self::Nowhere => return None,
            Self::Over(departure) => return Some(departure.clone()),
            Self::UnderWay {
                migration,
                asked,
                open,
            } => match (*asked.borrow(), *open.borrow()) {
                (_, true) => (*migration, Leaving::MaySwitch),
                (true, false) => (*migration, Leaving::AwaitsWindow),
                (false, false) => (*migration, Leaving::Copying),
            },
        };
        Some(Departure { migration, stage })
    }
}

impl Cluster {
    pub(super) fn new(machine: Weak<Machine>) -> Self {
        Self {
            holder: Holder::new(machine),
            awaits: AtomicBool::new(false),
            leaving: Mutex::new(Going::Nowhere),
        }
    }

    pub(super) fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }

    pub(super) fn awaits_guest(&self) -> bool {
        self.awaits.load(Ordering::Acquire)
    }

    fn leaving(&self) -> MutexGuard<'_, Going> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ward for Machine {
    fn run(&self) -> Result<(), CodedError> {
        match self.lease() {
            Ok(guest) => guest.resume().map_err(|error| error.coded()),
            // It is run when it is built.
            Err(_) => Ok(()),
        }
    }

    fn pause(&self) -> Result<(), CodedError> {
        let Ok(guest) = self.lease() else {
            return Ok(());
        };
        match guest.pause() {
            Err(error) if guest.stats().state == GuestState::Running => Err(error.coded()),
            // A migration may have stopped it.
            _ => Ok(()),
        }
    }

    fn destroy(&self, reason: ExitReason) {
        self.end(reason);
    }
}

impl Machine {
    /// The right under which the guest runs here.
    #[must_use]
    pub fn holder(&self) -> &Arc<Holder> {
        self.cluster.holder()
    }

    pub(super) fn standing(&self) -> Standing {
        let held = self.cluster.holder().standing();
        let (mandate, state) = match held {
            Some((mandate, state)) => (Some(mandate), state),
            None => (None, MandateState::Waiting),
        };
        let state = match self.exit_reason() {
            Some(reason) => MandateState::Ended(reason),
            None => state,
        };
        let departure = self.cluster.leaving().departure();
        Standing {
            mandate,
            state,
            departure,
        }
    }

    /// Waits for a guest in a thread of its own; returns where, and the permission to come.
    pub(super) fn await_guest(
        self: &Arc<Self>,
        request: &AwaitRequest,
    ) -> Result<(String, String), CodedError> {
        let listen: SocketAddr = request.listen.parse().map_err(|_| {
            let text = format!("cannot listen on {:?}", request.listen);
            CodedError::new(ErrorCode::Usage, text).with_fix("give ADDRESS:PORT")
        })?;
        let signals =
            Signals::install().map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        if !self.is_empty() || self.cluster.awaits.swap(true, Ordering::AcqRel) {
            let text = "this process has, had, or awaits a guest already";
            return Err(CodedError::new(ErrorCode::WrongState, text)
                .with_fix("use one guest process per guest"));
        }
        let door = Door {
            listen,
            patience: Duration::from_millis(request.patience_ms),
            recovery_window: None,
            guest: self.cluster.holder().mandate().map(|mandate| mandate.guest),
        };
        let here = Here {
            disks: request.overrides.disks.clone(),
            nets: request.overrides.nets.clone(),
            serial: request.overrides.serial.clone(),
            overcommit: request.overcommit,
        };
        let machine = self.clone();
        let (tell, told) = mpsc::sync_channel(1);
        let receive = move || {
            let invited = tell.clone();
            let invite = move |address: SocketAddr, token: &str| {
                // Who asked may be gone.
                let _ = invited.try_send(Ok((address.to_string(), token.to_owned())));
            };
            let received =
                migrate::receive_guest(&machine, door, here, Faults::default(), signals, invite);
            if let Err(error) = received {
                tracing::info!(%error, "no guest came");
                let _ = tell.try_send(Err(error.clone()));
                machine.end(ExitReason::Failed(error));
            }
        };
        let spawned = thread::Builder::new().name("await".into()).spawn(receive);
        spawned.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        told.recv_timeout(LISTENS).unwrap_or_else(|_| {
            Err(CodedError::new(
                ErrorCode::Other,
                "the guest process does not listen for the guest",
            ))
        })
    }

    /// Moves the guest in a thread of its own; it is not handed over before [`Machine::open_window`].
    pub(super) fn leave(
        self: &Arc<Self>,
        migration: MigrationId,
        request: MigrateRequest,
    ) -> Result<(), CodedError> {
        let (ask, asked) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        {
            let mut leaving = self.cluster.leaving();
            if let Going::UnderWay { .. } = *leaving {
                let text = "the guest is being moved already";
                return Err(CodedError::new(ErrorCode::AlreadyMigrating, text)
                    .with_fix("wait for the end of the migration, or cancel it"));
            }
            *leaving = Going::UnderWay {
                migration,
                asked,
                open,
            };
        }
        let window = Window { asked: ask, opened };
        let machine = self.clone();
        let go = move || {
            let moved = machine.migrate_as(&request, Some(migration), Some(window));
            let (parting, receipt) = match moved {
                Ok(receipt) => (parting(receipt.outcome.as_ref()), json(&receipt)),
                Err(error) => (Parting::Kept(error), "{}".to_owned()),
            };
            let stage = Leaving::Ended { parting, receipt };
            *machine.cluster.leaving() = Going::Over(Departure { migration, stage });
        };
        let spawned = thread::Builder::new().name("leave".into()).spawn(go);
        spawned.map(drop).map_err(|error| {
            *self.cluster.leaving() = Going::Nowhere;
            CodedError::from_error(ErrorCode::Other, &error)
        })
    }

    /// Lets a migration under way hand the guest over.
    pub(super) fn open_window(&self) {
        if let Going::UnderWay { open, .. } = &*self.cluster.leaving() {
            // The migration may be over.
            open.send_replace(true);
        }
    }
}

fn parting(outcome: Option<&Outcome>) -> Parting {
    match outcome {
        Some(Outcome::Completed) => Parting::Moved,
        Some(Outcome::NeverStarted(error)) => Parting::NeverRan(error.clone()),
        Some(Outcome::Unconfirmed(error)) => Parting::Unconfirmed(error.clone()),
        Some(Outcome::StayedAtSource(error) | Outcome::SourceStuck(error)) => {
            Parting::Kept(error.clone())
        }
        Some(Outcome::Refused(reasons)) => Parting::Kept(migrate::all(reasons)),
        None => Parting::Kept(CodedError::new(
            ErrorCode::Other,
            "the migration ended without an outcome",
        )),
    }
}
