//! The one guest of this process, and what may be asked of it, by any number of threads.
//!
//! ```text
//!            create, restore            power-off, crash, stop
//!   Empty -------------------> Present -----------------------> Ended
//!     ^            |                                              ^
//!     '--- failed -'          stop, also while empty -------------'
//!     '--- was only awaited, and does not come
//! ```
//!
//! Whether the guest in it runs or is paused, the guest itself knows. One change happens at a time:
//! whoever asks for another waits, so that nobody resumes a guest that is being written to disk. The
//! end comes once and has one reason; it is told only after the guest is gone, with its locks on disks
//! and taps. A request that is under way is let finish first, within bounds.

mod moving;
mod owned;

use std::io::{self, PipeWriter};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use godwit_migration::fault::Faults;
use godwit_migration::report::Outcome;
use godwit_migration::transport::Fingerprint;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::GuestSpec;
use godwit_proto::process::{
    ConsoleKind, ExitReason, GuestState, Request, Response, SnapshotReport,
};
use godwit_vmm::devices::terminal::InputPump;
use godwit_vmm::guest::{
    self, Attachments, DirtyTracking, Guest, GuestError, GuestEvent, Heirloom, RestoreOptions,
};
use tokio::sync::watch;

use self::moving::Migration;
use self::owned::Cluster;
use super::console::{Consoles, Ends};
use super::exit;
use crate::migrate::{Acquaintances, Arrived};
use crate::wait::Flag;

/// How long the end waits for requests that are under way: as long as a large snapshot may take.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// How a machine treats its guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineOptions {
    /// A guest that resets itself has ended.
    pub end_on_reset: bool,
    /// Clients may attach to its consoles.
    pub attachable: bool,
    /// Clients may have its migrations meet faults.
    pub chaos: bool,
    /// How pages that it writes are found while it moves.
    pub dirty_tracking: DirtyTracking,
}

/// The one guest of this process.
pub struct Machine {
    inner: Mutex<Inner>,
    /// Notified when a lease is given back.
    returned: Condvar,
    /// Held while the guest is changed.
    change: Mutex<()>,
    /// The migration under way, or the one after which the guest is not ours any more.
    migration: Mutex<Migration>,
    /// What the next migration meets.
    faults: Mutex<Faults>,
    /// By what targets know this process that have only forecast a move.
    acquaintances: Mutex<Acquaintances>,
    /// The certificate by which sources know this process, if it awaited its guest.
    awaited_as: OnceLock<Fingerprint>,
    /// How the guest came here, if it did and has not tried to leave since.
    arrived: Mutex<Option<Arrived>>,
    /// What a cluster says of it.
    cluster: Cluster,
    /// Raised when the end is complete.
    ended: Flag,
    /// Whether it has begun.
    ending: watch::Sender<bool>,
    options: MachineOptions,
}

struct Inner {
    slot: Slot,
    /// Uses of the guest that are under way.
    leases: usize,
}

enum Slot {
    Empty,
    /// A request builds it.
    Building,
    Present(Present),
    Ended(ExitReason),
}

#[derive(Clone)]
struct Present {
    guest: Arc<Guest>,
    consoles: Arc<Consoles>,
}

impl Machine {
    /// A machine without a guest.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn new(options: MachineOptions) -> io::Result<Arc<Self>> {
        let (ended, ending) = (Flag::new()?, watch::Sender::new(false));
        Ok(Arc::new_cyclic(|machine: &Weak<Self>| Self {
            inner: Mutex::new(Inner {
                slot: Slot::Empty,
                leases: 0,
            }),
            returned: Condvar::new(),
            change: Mutex::new(()),
            migration: Mutex::new(Migration::None),
            faults: Mutex::new(Faults::default()),
            acquaintances: Mutex::default(),
            awaited_as: OnceLock::new(),
            arrived: Mutex::new(None),
            cluster: Cluster::new(machine.clone()),
            ended,
            ending,
            options,
        }))
    }

    /// Builds a guest, ready to start.
    ///
    /// # Errors
    /// What the VMM says, or that there is a guest already; nothing is left of it then.
    pub fn create(self: &Arc<Self>, spec: &GuestSpec) -> Result<(), CodedError> {
        self.build(|| {
            let (ends, attachments) = self.open_ends(spec)?;
            let guest = Guest::build(spec, attachments).map_err(|error| error.coded())?;
            Ok((guest, ends))
        })?;
        self.cluster.holder().built();
        Ok(())
    }

    /// Builds a guest from the snapshot in `dir`, ready to start.
    ///
    /// # Errors
    /// As [`Machine::create`].
    pub fn restore(
        self: &Arc<Self>,
        dir: &Path,
        options: &RestoreOptions,
    ) -> Result<(), CodedError> {
        self.build(|| {
            let spec = guest::snapshot_spec(dir, &options.overrides);
            let spec = spec.map_err(|error| error.coded())?;
            let (ends, attachments) = self.open_ends(&spec)?;
            let guest = Guest::restore(dir, options, attachments);
            Ok((guest.map_err(|error| error.coded())?, ends))
        })
    }

    /// Builds a guest that waits for the memory and the state of one that is elsewhere, and returns it.
    /// With `heirloom` memory and taps are there already.
    ///
    /// # Errors
    /// As [`Machine::create`].
    pub fn create_waiting(
        self: &Arc<Self>,
        spec: &GuestSpec,
        heirloom: Option<Heirloom>,
    ) -> Result<Arc<Guest>, CodedError> {
        self.build(|| {
            let (ends, mut attachments) = self.open_ends(spec)?;
            attachments.heirloom = heirloom;
            let guest = Guest::build_waiting(spec, attachments).map_err(|error| error.coded())?;
            *self.migration() = Migration::Arriving;
            Ok((guest, ends))
        })?;
        Ok(self.lease()?.present().guest.clone())
    }

    /// Takes a guest apart that was built by [`Machine::create_waiting`] and never ran: there may be
    /// another one then. Nothing of it is left in this process, unless the caller has something of it.
    pub fn discard_waiting(&self) {
        let mut inner = self.inner();
        let before = match std::mem::replace(&mut inner.slot, Slot::Building) {
            Slot::Present(present) => present,
            other => {
                inner.slot = other;
                return;
            }
        };
        drop(inner);
        before.consoles.leave();
        before.guest.interrupt();
        drop(before);
        let mut inner = self.await_leases();
        // Unless it was ended meanwhile.
        if let Slot::Building = inner.slot {
            inner.slot = Slot::Empty;
        }
    }

    /// Waits for uses of the guest that are under way, within bounds.
    fn await_leases(&self) -> MutexGuard<'_, Inner> {
        let (inner, late) = self
            .returned
            .wait_timeout_while(self.inner(), END_PATIENCE, |inner| inner.leases > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            tracing::warn!(requests = inner.leases, "the guest ends under requests");
        }
        inner
    }

    /// Turns to `true` when the guest ends.
    #[must_use]
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Whether the guest's vCPUs run.
    ///
    /// # Errors
    /// There is no guest.
    pub fn is_running(&self) -> Result<bool, CodedError> {
        self.with_guest(|guest| Ok(guest.stats().state == GuestState::Running))
    }

    /// Lets a guest run that was created or restored and never ran here.
    ///
    /// # Errors
    /// There is none, or what the VMM says.
    pub fn start(&self) -> Result<(), CodedError> {
        self.change_as(|guest| {
            let run = || guest.resume().map_err(|error| error.coded());
            self.cluster.holder().goes_on(run)
        })
    }

    /// Writes a snapshot to `dir`, which must not exist.
    ///
    /// # Errors
    /// There is no guest, or what the VMM says; nothing is left at `dir` then.
    pub fn snapshot(&self, dir: &Path) -> Result<SnapshotReport, CodedError> {
        self.change(|guest| guest.snapshot(dir))
    }

    /// Serves a request, [`Request::AttachConsole`] and [`Request::HandOver`] excepted: those need the
    /// stream.
    pub fn serve(self: &Arc<Self>, request: Request) -> Response {
        let served = match request {
            Request::Create(spec) => self.create(&spec),
            Request::Restore {
                dir,
                lazy,
                overrides,
            } => self.restore(Path::new(&dir), &RestoreOptions { lazy, overrides }),
            Request::Start | Request::Resume => self.start(),
            Request::Pause => self.change(Guest::pause),
            Request::Reset => self.change(Guest::reset),
            Request::PowerButton => self.with_guest(Guest::press_power_button),
            Request::Save => return respond(self.change(Guest::save), Response::Saved),
            Request::Snapshot { dir } => {
                return respond(self.snapshot(Path::new(&dir)), Response::Snapshot);
            }
            Request::Stats => {
                return respond(self.with_guest(|guest| Ok(guest.stats())), Response::Stats);
            }
            Request::Migrate(request) => {
                return respond(self.migrate(&request), |receipt| Response::Migrated {
                    moved: matches!(receipt.outcome, Some(Outcome::Completed)),
                    receipt: json(&receipt),
                    table: receipt.to_string(),
                });
            }
            Request::Forecast { migrate, watch_ms } => {
                let watch = Duration::from_millis(watch_ms);
                return respond(self.forecast(&migrate, watch), |forecast| {
                    Response::Forecast {
                        forecast: json(&forecast),
                        table: forecast.to_string(),
                    }
                });
            }
            Request::MigrationProgress => {
                let progress = self.migration_progress();
                return Response::Migrating(progress.map(|progress| json(&progress)));
            }
            Request::CancelMigration => {
                self.cancel_migration();
                Ok(())
            }
            Request::InjectFaults { faults } => self.inject_faults(&faults),
            Request::Mandate(mandate) => self.cluster.holder().take(mandate),
            Request::Prove(proof) => {
                self.cluster.holder().prove(proof);
                Ok(())
            }
            Request::SetLeased(leased) => {
                self.cluster.holder().set_leased(leased);
                Ok(())
            }
            Request::Revoke(epoch) => {
                self.cluster.holder().revoke(epoch);
                Ok(())
            }
            Request::Standing => return Response::Standing(self.standing()),
            Request::Await(request) => {
                return respond(self.await_guest(&request), |(address, token)| {
                    Response::Awaiting { address, token }
                });
            }
            Request::Leave { migration, request } => self.leave(migration, request),
            Request::OpenWindow => {
                self.open_window();
                Ok(())
            }
            Request::Stop => return Response::Exited(self.end(ExitReason::Stopped)),
            Request::AttachConsole { .. } | Request::HandOver => Err(CodedError::new(
                ErrorCode::WrongState,
                "consoles and files need the stream",
            )),
        };
        respond(served, |()| Response::Ok)
    }

    /// Whether a client could attach to a console.
    ///
    /// # Errors
    /// There is no guest, or it has no such console.
    pub fn can_attach(&self, which: ConsoleKind) -> Result<(), CodedError> {
        self.lease()?.present().consoles.can_attach(which)
    }

    /// Connects `stream` with a console of the guest, for as long as it stays open.
    ///
    /// # Errors
    /// As [`Machine::can_attach`].
    pub fn attach(&self, which: ConsoleKind, stream: UnixStream) -> Result<(), CodedError> {
        self.lease()?.present().consoles.attach(which, stream)
    }

    /// The way for input to the console that is on stdio; `None` when none is.
    ///
    /// # Errors
    /// There is no guest, or no thread or pipe to be had.
    pub fn stdin(&self) -> Result<Option<(PipeWriter, InputPump)>, CodedError> {
        let stdin = self.lease()?.present().consoles.stdin();
        stdin.map_err(|error| {
            CodedError::new(ErrorCode::Console, "cannot carry input to the guest")
                .with_fix(error.to_string())
        })
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// There is no guest, or what the VMM says.
    pub fn press_power_button(&self) -> Result<(), CodedError> {
        self.with_guest(Guest::press_power_button)
    }

    /// Resets the guest, which then runs.
    ///
    /// # Errors
    /// There is no guest, or what the VMM says.
    pub fn reset(&self) -> Result<(), CodedError> {
        self.change(Guest::reset)
    }

    /// Ends the guest for `reason`, or for the reason it has ended for already, which is returned.
    /// Afterwards nothing of it is left in this process.
    pub fn end(&self, reason: ExitReason) -> ExitReason {
        let mut inner = self.inner();
        if let Slot::Ended(reason) = &inner.slot {
            return reason.clone();
        }
        let before = std::mem::replace(&mut inner.slot, Slot::Ended(reason.clone()));
        drop(inner);
        if let Slot::Present(present) = before {
            self.cancel_migration();
            present.consoles.leave();
            present.guest.interrupt();
            if matches!(*self.migration(), Migration::Arriving) {
                // A device may wait for memory: it goes with the process, not with zeros.
                present.guest.abandon();
                std::mem::forget(present.clone());
            }
            self.ending.send_replace(true);
            drop(self.await_leases());
        }
        self.ended.raise();
        reason
    }

    /// Why the guest ended; `None` while it has not. May be known before the end is complete.
    #[must_use]
    pub fn exit_reason(&self) -> Option<ExitReason> {
        match &self.inner().slot {
            Slot::Ended(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Readable once the end is complete.
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Whether there is no guest, nor was one, nor is one being built.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.inner().slot, Slot::Empty) && !self.cluster.awaits_guest()
    }

    fn open_ends(&self, spec: &GuestSpec) -> Result<(Ends, Attachments), CodedError> {
        let (ends, mut attachments) =
            Ends::open(spec, self.options.attachable).map_err(|error| error.coded())?;
        attachments.dirty_tracking = self.options.dirty_tracking;
        Ok((ends, attachments))
    }

    fn build(
        self: &Arc<Self>,
        build: impl FnOnce() -> Result<(Guest, Ends), CodedError>,
    ) -> Result<(), CodedError> {
        {
            let mut inner = self.inner();
            if !matches!(inner.slot, Slot::Empty) {
                let message = "this process has, or had, a guest already";
                return Err(CodedError::new(ErrorCode::WrongState, message)
                    .with_fix("use one guest process per guest"));
            }
            inner.slot = Slot::Building;
        }
        let built = build().and_then(|(guest, ends)| {
            let consoles = ends.connect(&guest).map_err(|error| error.coded())?;
            Ok(Present {
                guest: Arc::new(guest),
                consoles: Arc::new(consoles),
            })
        });
        let placed = self.place(built);
        placed.and_then(|()| self.watch())
    }

    /// Puts what was built in its place, unless the machine was stopped meanwhile.
    fn place(&self, built: Result<Present, CodedError>) -> Result<(), CodedError> {
        let mut inner = self.inner();
        if !matches!(inner.slot, Slot::Building) {
            drop(inner);
            return built.and(Err(CodedError::new(
                ErrorCode::WrongState,
                "the guest was stopped while it was built",
            )));
        }
        let (slot, placed) = match built {
            Ok(present) => (Slot::Present(present), Ok(())),
            Err(error) => (Slot::Empty, Err(error)),
        };
        inner.slot = slot;
        placed
    }

    /// Starts the thread that learns how the guest ends.
    fn watch(self: &Arc<Self>) -> Result<(), CodedError> {
        let machine = self.clone();
        let watcher = thread::Builder::new()
            .name("watch".into())
            .spawn(move || machine.watch_guest());
        watcher.map(drop).map_err(|error| {
            let error = CodedError::from_error(ErrorCode::Other, &error);
            self.end(ExitReason::Failed(error.clone()));
            error
        })
    }

    fn watch_guest(self: Arc<Self>) {
        // Without a lease the guest has ended already.
        let Ok(lease) = self.lease() else { return };
        let reason = loop {
            match lease.wait(None) {
                None if !self.is_present(lease.present()) => return,
                None => {}
                Some(GuestEvent::Reset) if !self.options.end_on_reset => {
                    self.end_migration();
                    if let Err(error) = self.reset() {
                        break ExitReason::Failed(error);
                    }
                }
                Some(event) => {
                    if let GuestEvent::MemoryLost { .. } = event {
                        // A thread may wait for that memory for ever; nobody may wait for the thread.
                        std::mem::forget(lease.present().clone());
                    }
                    break exit::reason_of(event);
                }
            }
        };
        drop(lease);
        self.end(reason);
    }

    /// Whether this is still the guest, which has not ended.
    fn is_present(&self, known: &Present) -> bool {
        matches!(&self.inner().slot, Slot::Present(present) if Arc::ptr_eq(&present.guest, &known.guest))
    }

    /// Does what changes the guest, one at a time.
    fn change<T>(
        &self,
        action: impl FnOnce(&Guest) -> Result<T, GuestError>,
    ) -> Result<T, CodedError> {
        self.change_as(|guest| action(guest).map_err(|error| error.coded()))
    }

    fn change_as<T>(
        &self,
        action: impl FnOnce(&Guest) -> Result<T, CodedError>,
    ) -> Result<T, CodedError> {
        let _alone = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.migration().refuse()?;
        action(&*self.lease()?)
    }

    fn with_guest<T>(
        &self,
        action: impl FnOnce(&Guest) -> Result<T, GuestError>,
    ) -> Result<T, CodedError> {
        action(&*self.lease()?).map_err(|error| error.coded())
    }

    /// The guest, for as long as the lease is held.
    fn lease(&self) -> Result<Lease<'_>, CodedError> {
        let mut inner = self.inner();
        let (message, fix) = match &inner.slot {
            Slot::Present(present) => {
                let present = Some(present.clone());
                inner.leases += 1;
                return Ok(Lease {
                    machine: self,
                    present,
                });
            }
            Slot::Empty => ("there is no guest yet", "create or restore one first"),
            Slot::Building => ("the guest is not built yet", "wait for the answer"),
            Slot::Ended(_) => ("the guest has ended", "start another guest process"),
        };
        Err(CodedError::new(ErrorCode::WrongState, message).with_fix(fix))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A use of the guest, which the end waits for.
struct Lease<'machine> {
    machine: &'machine Machine,
    /// `None` only while it is dropped.
    present: Option<Present>,
}

impl Lease<'_> {
    fn present(&self) -> &Present {
        self.present.as_ref().expect("taken only by drop")
    }
}

impl Deref for Lease<'_> {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.present().guest
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // First the guest, then the word that it is given back.
        self.present = None;
        self.machine.inner().leases -= 1;
        self.machine.returned.notify_all();
    }
}

/// A receipt or progress for programs.
fn json(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).expect("receipts have only names for keys")
}

fn respond<T>(result: Result<T, CodedError>, response: impl FnOnce(T) -> Response) -> Response {
    result.map_or_else(Response::Error, response)
}
