//! Whether the guest of this process may run, when a cluster gave it the guest.
//!
//! ```text
//!  daemon: Mandate, Prove, Revoke ---.
//!                                    v
//!  migration: relinquish, resume -> Holder -> the guest: run, pause, destroy
//!                                    ^
//!  guard: the proof has run out -----'
//! ```
//!
//! The rule is [`Runner`]'s; here it gets a clock and a guest. All that changes the right to run goes
//! through one lock, so that a guest is never let run after it was told to stand still. The clock is
//! `CLOCK_BOOTTIME`: it goes on while the host sleeps, and all processes of the host share it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use godwit_control_plane::ownership::{self, RunCommand, RunEvent, Runner};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::Epoch;
use godwit_proto::process::{ExitReason, Mandate, MandateState, Origin, Proof};

/// How long the guard sleeps when nothing is due.
const LONG: Duration = Duration::from_secs(3600);

/// Time since this host was started, sleep included: what proofs are good until.
#[must_use]
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What is done with a guest. Called with the right to run held still.
pub(super) trait Ward: Send + Sync {
    /// Lets it run; of one that is not there yet, nothing.
    fn run(&self) -> Result<(), CodedError>;
    /// Stops its vCPUs.
    fn pause(&self) -> Result<(), CodedError>;
    /// Ends it.
    fn destroy(&self, reason: ExitReason);
}

/// The right of this process to run its guest.
pub struct Holder {
    inner: Mutex<Inner>,
    /// Notified when the guard may have to wake at another time.
    changed: Condvar,
    ward: Weak<dyn Ward>,
}

struct Inner {
    held: Option<Held>,
    guarded: bool,
}

struct Held {
    mandate: Mandate,
    runner: Runner,
    /// Whether the guest has ever run under this mandate.
    ran: bool,
    /// It was given up, or somebody has a later epoch.
    over: bool,
}

impl Holder {
    pub(super) fn new(ward: Weak<dyn Ward>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                held: None,
                guarded: false,
            }),
            changed: Condvar::new(),
            ward,
        })
    }

    /// Takes a mandate: the first, or one of a higher epoch after one that is over.
    ///
    /// # Errors
    /// There is one that is not over, or the epoch is not higher.
    pub(super) fn take(self: &Arc<Self>, mandate: Mandate) -> Result<(), CodedError> {
        let mut inner = self.inner();
        if let Some(held) = &inner.held {
            if held.mandate == mandate {
                return Ok(());
            }
            if held.mandate.guest != mandate.guest || mandate.epoch <= held.mandate.epoch {
                let text = format!(
                    "this process has guest {} under epoch {}",
                    held.mandate.guest, held.mandate.epoch
                );
                return Err(CodedError::new(ErrorCode::WrongState, text)
                    .with_fix("use one guest process per guest, and a later epoch"));
            }
            if !held.over {
                let text = format!("epoch {} of the guest was not given up", held.mandate.epoch);
                return Err(CodedError::new(ErrorCode::WrongState, text)
                    .with_fix("revoke it, or wait for the end of the migration"));
            }
        }
        let origin = match mandate.origin {
            Origin::Fresh => ownership::Origin::Fresh,
            Origin::FailedOver => ownership::Origin::FailedOver {
                has_disk_lease: false,
            },
            Origin::Moved(_) => ownership::Origin::Moved,
        };
        inner.held = Some(Held {
            mandate,
            runner: Runner::new(mandate.epoch, mandate.leased, origin),
            ran: false,
            over: false,
        });
        if !inner.guarded {
            inner.guarded = true;
            let holder = self.clone();
            let guard = thread::Builder::new()
                .name("guard".into())
                .spawn(move || holder.guard());
            guard.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        }
        self.handle(&mut inner, RunEvent::Tick);
        Ok(())
    }

    /// The right holds for longer.
    pub(super) fn prove(&self, proof: Proof) {
        let until = Duration::from_nanos(proof.until_ns);
        let epoch = proof.epoch;
        self.handle(&mut self.inner(), RunEvent::NodeLease { epoch, until });
    }

    /// Whether it could be started elsewhere has changed.
    pub(super) fn set_leased(&self, leased: bool) {
        let mut inner = self.inner();
        if let Some(held) = &mut inner.held {
            held.mandate.leased = leased;
        }
        self.handle(&mut inner, RunEvent::Leased(leased));
    }

    /// Somebody else may run it under `epoch`.
    pub(super) fn revoke(&self, epoch: Epoch) {
        self.handle(&mut self.inner(), RunEvent::NewerEpoch(epoch));
    }

    /// The guest was built: it runs if it may.
    pub(super) fn built(&self) {
        let inner = self.inner();
        if inner
            .held
            .as_ref()
            .is_some_and(|held| held.runner.is_running())
        {
            self.carry_out(RunCommand::Run);
        }
    }

    /// The mandate, and what became of it.
    pub(super) fn standing(&self) -> Option<(Mandate, MandateState)> {
        let inner = self.inner();
        let held = inner.held.as_ref()?;
        let state = match () {
            () if held.over => MandateState::Over,
            () if held.runner.is_running() => MandateState::Running,
            () if held.ran => MandateState::Suspended,
            () => MandateState::Waiting,
        };
        Some((held.mandate, state))
    }

    /// The mandate.
    pub(crate) fn mandate(&self) -> Option<Mandate> {
        self.inner().held.as_ref().map(|held| held.mandate)
    }

    /// A migration here has all of the guest and the source's promise: `run` lets it run, if it may.
    ///
    /// # Errors
    /// There is no live proof, or `run` fails; the guest then never runs under this epoch.
    pub(crate) fn handed_over(
        &self,
        run: impl FnOnce() -> Result<(), CodedError>,
    ) -> Result<(), CodedError> {
        let mut inner = self.inner();
        let Some(held) = &mut inner.held else {
            return run();
        };
        let outcome = match held.runner.handle(RunEvent::HandedOver, boot_time()) {
            Some(RunCommand::Run) => run(),
            _ => Err(CodedError::new(
                ErrorCode::NoLease,
                "this node holds no live lease, so the guest may not run here",
            )
            .with_fix("the guest stays at its source; look whether this node reaches the leader")),
        };
        held.ran |= outcome.is_ok();
        if outcome.is_err() {
            held.runner.relinquish();
            held.over = true;
        }
        self.changed.notify_all();
        outcome
    }

    /// A migration to elsewhere did not happen: `run` lets the guest go on here, if it may now. If not it
    /// goes on when it may.
    ///
    /// # Errors
    /// The guest was relinquished, or `run` fails.
    pub(crate) fn goes_on(
        &self,
        run: impl FnOnce() -> Result<(), CodedError>,
    ) -> Result<(), CodedError> {
        let inner = self.inner();
        match &inner.held {
            Some(held) if held.over => Err(CodedError::new(
                ErrorCode::StaleEpoch,
                "the guest was given up under this epoch",
            )
            .with_fix("it may run here again only under a later one")),
            Some(held) if !held.runner.is_running() => Ok(()),
            _ => run(),
        }
    }

    /// The guest, which stands still, is given up for good under this epoch.
    pub(crate) fn relinquish(&self) {
        if let Some(held) = &mut self.inner().held {
            held.runner.relinquish();
            held.over = true;
        }
        self.changed.notify_all();
    }

    fn handle(&self, inner: &mut Inner, event: RunEvent) {
        let Some(held) = &mut inner.held else { return };
        let command = held.runner.handle(event, boot_time());
        match command {
            Some(RunCommand::Run) => held.ran = true,
            Some(RunCommand::Destroy) => held.over = true,
            _ => {}
        }
        if let Some(command) = command {
            self.carry_out(command);
        }
        self.changed.notify_all();
    }

    fn carry_out(&self, command: RunCommand) {
        let Some(ward) = self.ward.upgrade() else {
            return;
        };
        let done = match command {
            RunCommand::Run => ward.run(),
            RunCommand::Pause => {
                tracing::warn!("the proof of ownership has run out: the guest stands still");
                ward.pause()
            }
            RunCommand::Destroy => {
                // The end waits for requests under way, of which the caller may be one.
                thread::spawn(move || ward.destroy(ExitReason::Failed(superseded())));
                Ok(())
            }
        };
        if let Err(error) = done {
            // A guest that cannot be stopped must not be left running.
            tracing::error!(%error, ?command, "the guest does not do as it must");
            if command == RunCommand::Pause {
                std::process::abort();
            }
        }
    }

    /// Stops the guest when its proof has run out, whoever else is dead by then.
    fn guard(&self) {
        let mut inner = self.inner();
        while self.ward.strong_count() > 0 {
            let due = inner.held.as_ref().and_then(|held| held.runner.deadline());
            let wait = due.map_or(LONG, |due| due.saturating_sub(boot_time()));
            if wait.is_zero() {
                self.handle(&mut inner, RunEvent::Tick);
                continue;
            }
            let waited = self.changed.wait_timeout(inner, wait);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a copy of a guest is destroyed whose epoch is past.
fn superseded() -> CodedError {
    CodedError::new(
        ErrorCode::StaleEpoch,
        "the guest belongs to somebody else now, under a later epoch",
    )
}
