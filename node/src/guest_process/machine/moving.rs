//! The guest of a process when it moves: away, or here from elsewhere.

use std::io;
use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use godwit_migration::driver::{Controls, Window};
use godwit_migration::fault::{Faults, Side};
use godwit_migration::forecast::Forecast;
use godwit_migration::report::{Outcome, Progress, Receipt};
use godwit_migration::transport::{Fingerprint, Token};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::MigrationId;
use godwit_proto::migrate::Mode;
use godwit_proto::process::{ExitReason, MigrateRequest};
use godwit_vmm::guest::{Guest, Heirloom};
use tokio::sync::watch;

use super::Machine;
use crate::guest_process::keeper;
use crate::migrate::{self, Arrived, Leaver};

/// Whether the guest is being moved.
pub(super) enum Migration {
    None,
    UnderWay {
        /// To another process of this host.
        local: bool,
        cancel: watch::Sender<bool>,
        shown: watch::Receiver<Option<Progress>>,
    },
    /// It came from elsewhere, and its memory is not all here.
    Arriving,
    /// It runs elsewhere, or may: it never runs here again.
    GivenAway,
}

impl Migration {
    /// Refuses what must not be done to a guest that is being moved.
    pub(super) fn refuse(&self) -> Result<(), CodedError> {
        let (message, fix) = match self {
            Self::None => return Ok(()),
            Self::UnderWay { .. } => (
                "the guest is being moved",
                "wait for the end of the migration, or cancel it",
            ),
            Self::Arriving => (
                "the guest has just come here, and its memory still follows",
                "wait until it is here",
            ),
            Self::GivenAway => (
                "the guest was given away and may run at the target",
                "look there; stop this process when it does",
            ),
        };
        Err(CodedError::new(ErrorCode::WrongState, message).with_fix(fix))
    }
}

impl Machine {
    /// The guest that came from elsewhere has all its memory; `arrived` tells how, if it may want to go
    /// back.
    pub fn has_arrived(&self, arrived: Option<Arrived>) {
        *self.arrived() = arrived;
        let mut migration = self.migration();
        if let Migration::Arriving = *migration {
            *migration = Migration::None;
        }
    }

    /// Ends the guest, which runs without memory that will never be here.
    pub fn lose_memory(&self, error: &CodedError) {
        self.end(ExitReason::Failed(error.clone()));
    }

    /// Moves the guest to where `request` says. The receipt tells what became of it; when the guest is
    /// gone, it has ended here.
    ///
    /// # Errors
    /// There is no guest, one migration is under way, or the target was not reached. The guest runs
    /// on here then.
    pub fn migrate(&self, request: &MigrateRequest) -> Result<Receipt, CodedError> {
        self.migrate_as(request, None, None)
    }

    /// As [`Machine::migrate`], by a migration that a cluster knows; it is handed over when `window` is
    /// open.
    pub(super) fn migrate_as(
        &self,
        request: &MigrateRequest,
        id: Option<MigrationId>,
        window: Option<Window>,
    ) -> Result<Receipt, CodedError> {
        let lease = self.lease()?;
        let owned = self.holder().mandate().is_some();
        let controls = self.begin_move(request, window)?;
        let guest = lease.present().guest.clone();
        // What the target has of it holds until pages have gone anywhere.
        let arrived = self.arrived().clone();
        let dialers = &self.acquaintances;
        let leaver = self.leaver(id);
        let mut moved =
            migrate::move_guest(guest.clone(), request, leaver, arrived, controls, dialers);
        if moved.is_ok() {
            *self.arrived() = None;
        }
        let outcome = moved
            .as_ref()
            .ok()
            .and_then(|receipt| receipt.outcome.clone());
        *self.migration() = match &outcome {
            Some(Outcome::Completed | Outcome::Unconfirmed(_)) => Migration::GivenAway,
            _ => Migration::None,
        };
        // What a cluster gave away runs here again only under a later epoch.
        if let (Some(Outcome::NeverStarted(_)), Ok(receipt)) = (&outcome, &mut moved)
            && !owned
            && let Err(error) = lease.resume()
        {
            let stuck = CodedError::from_error(ErrorCode::SourceStuck, &error).with_fix(
                "it did not start at the target either; resume it here when the cause is gone",
            );
            receipt.outcome = Some(Outcome::SourceStuck(stuck));
        }
        if let (Some(Outcome::Completed), Ok(receipt)) = (&outcome, &mut moved)
            && let Err(error) = keep_memory(&guest, receipt, request)
        {
            let warning = format!("the guest's memory is not kept for its way back: {error}");
            tracing::warn!("{warning}");
            receipt.warnings.push(warning);
        }
        drop((guest, lease));
        // A cluster ends the process when it has seen that the guest is elsewhere.
        if let Some(Outcome::Completed) = outcome
            && !owned
        {
            self.end(ExitReason::Migrated);
        }
        moved
    }

    /// Forecasts what [`Machine::migrate`] would do: watches the guest for about `watch` and sends samples of its
    /// memory. The guest stays as it is.
    ///
    /// # Errors
    /// As [`Machine::migrate`], or every reason for which the target does not take the guest.
    pub fn forecast(
        &self,
        request: &MigrateRequest,
        watch: Duration,
    ) -> Result<Forecast, CodedError> {
        let lease = self.lease()?;
        let controls = self.begin_move(request, None)?;
        let guest = lease.present().guest.clone();
        let dialers = &self.acquaintances;
        let leaver = self.leaver(None);
        let forecast = migrate::forecast(guest, request, watch, leaver, controls, dialers);
        *self.migration() = Migration::None;
        forecast
    }

    /// From here on no other change of the guest is let in.
    fn begin_move(
        &self,
        request: &MigrateRequest,
        window: Option<Window>,
    ) -> Result<Controls, CodedError> {
        let (cancel, cancelled) = watch::channel(false);
        let (progress, shown) = watch::channel(None);
        // Changes under way come first; later ones see the migration.
        let _alone = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut migration = self.migration();
        self.refuse_move(&migration, request)?;
        *migration = Migration::UnderWay {
            local: request.mode == Some(Mode::Local),
            cancel,
            shown,
        };
        Ok(Controls {
            cancel: cancelled,
            progress,
            faults: std::mem::take(&mut *self.faults()),
            window,
        })
    }

    fn leaver(&self, id: Option<MigrationId>) -> Leaver {
        Leaver {
            id,
            holder: self.holder().clone(),
        }
    }

    fn refuse_move(
        &self,
        migration: &Migration,
        request: &MigrateRequest,
    ) -> Result<(), CodedError> {
        let already = |text| CodedError::new(ErrorCode::AlreadyMigrating, text);
        if let Migration::UnderWay { .. } = migration {
            return Err(already("the guest is being moved already")
                .with_fix("wait for the end of the migration, or cancel it"));
        }
        let token = request.token.trim().parse::<Token>();
        if token.is_ok_and(|token| self.awaited_as.get() == Some(&token.target)) {
            return Err(already(
                "the guest is where it is to go: the token is that of its process",
            )
            .with_fix("give the token of another `godwit receive`"));
        }
        migration.refuse()
    }

    /// Tells by which certificate this process is known to the source of its guest.
    pub fn await_as(&self, certificate: Fingerprint) {
        // A process awaits one guest in its life.
        let _ = self.awaited_as.set(certificate);
    }

    /// Has the next migration meet `faults`.
    ///
    /// # Errors
    /// This process was not started for that, or a fault makes no sense.
    pub fn inject_faults(&self, faults: &[String]) -> Result<(), CodedError> {
        if !self.options.chaos {
            let text = "this process does not take faults: it was not started for chaos testing";
            return Err(CodedError::new(ErrorCode::WrongState, text)
                .with_fix("start the guest with --chaos"));
        }
        *self.faults() = migrate::fault::plan(faults, Side::Source)?;
        Ok(())
    }

    /// What the process that the guest moves to within this host takes over.
    ///
    /// # Errors
    /// No such migration is under way, or what the VMM says.
    pub fn heirloom(&self) -> Result<Heirloom, CodedError> {
        match &*self.migration() {
            Migration::UnderWay { local: true, .. } => {}
            _ => {
                let message = "the guest is not moving to another process of this host";
                return Err(CodedError::new(ErrorCode::WrongState, message)
                    .with_fix("move it with `godwit migrate --mode local`"));
            }
        }
        self.with_guest(Guest::heirloom)
    }

    /// How far a migration under way has come; `None` when none is.
    #[must_use]
    pub fn migration_progress(&self) -> Option<Progress> {
        match &*self.migration() {
            Migration::UnderWay { shown, .. } => shown.borrow().clone(),
            Migration::None | Migration::Arriving | Migration::GivenAway => None,
        }
    }

    /// Leaves the guest where it is, if that is still possible.
    pub fn cancel_migration(&self) {
        if let Migration::UnderWay { cancel, .. } = &*self.migration() {
            // Whoever moves the guest has ended: then there is nothing to cancel.
            let _ = cancel.send(true);
        }
    }

    pub(super) fn migration(&self) -> MutexGuard<'_, Migration> {
        self.migration
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrived(&self) -> MutexGuard<'_, Option<Arrived>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels a migration and waits until it is over: a guest that resets starts over here. One whose
    /// memory still follows waits for that.
    pub(super) fn end_migration(&self) {
        while matches!(
            *self.migration(),
            Migration::UnderWay { .. } | Migration::Arriving
        ) && self.exit_reason().is_none()
        {
            self.cancel_migration();
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Leaves the memory of a guest that was moved to a process that keeps it, if `request` wishes so.
fn keep_memory(guest: &Guest, receipt: &Receipt, request: &MigrateRequest) -> io::Result<()> {
    let time = Duration::from_millis(request.retain_ms.unwrap_or(0));
    if time.is_zero() || request.mode == Some(Mode::Local) {
        return Ok(());
    }
    let id = receipt.migration.parse().map_err(io::Error::other)?;
    keeper::start(guest.ram().file(), id, time)
}
