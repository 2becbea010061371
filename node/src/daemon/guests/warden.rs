//! The thread that has to do with one guest process: it makes or adopts it, tells it what the node
//! wants, and finds out what it does. A process that does not answer holds up nobody else.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_control_plane::agent::{Doing, End, Found, Launch, Sending, Stage};
use godwit_control_plane::ownership::Origin;
use godwit_migration::transport::Token;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame;
use godwit_proto::id::{Epoch, MigrationId};
use godwit_proto::process::{
    self, AwaitRequest, Departure, ExitReason, GuestState, Leaving, Mandate, MandateState,
    MigrateRequest, Overrides, Parting, Proof, RESPONSE_LIMITS, Response,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::spec;
use crate::guest_process::client::{Client, ClientError};
use crate::guest_process::spawn::GuestProcess;

/// How often is looked what a guest does.
const LOOK: Duration = Duration::from_millis(250);
/// The same, while something waits for it.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// How long a guest has to power itself off.
const POWER_OFF: Duration = Duration::from_secs(30);
/// How long somebody may take to send a guest that is awaited.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the guest ended, written by its process.
const END: &str = "end";

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// The node's lease holds until then, of `CLOCK_BOOTTIME`.
    Prove(Epoch, Duration),
    SetLeased(bool),
    Revive(Epoch),
    Send {
        migration: MigrationId,
        token: String,
        request: Box<MigrateRequest>,
    },
    AllowSwitch,
    CancelSend,
    Stop,
    Destroy,
}

/// How a process comes to be.
pub(super) enum Beginning {
    /// It is made, and the guest booted in it.
    Boot(Box<Launch>),
    /// It is made, and waits for the guest at this address.
    Receive(Box<Launch>, MigrationId, IpAddr),
    /// It is there from before.
    Adopt,
}

/// What is known of a process; shared with who asks.
pub(super) struct Known {
    pub(super) found: Found,
    /// To kill it with; once there is one.
    pub(super) process: Option<OwnedFd>,
    /// The progress of a migration away, JSON.
    pub(super) progress: Option<String>,
    /// The receipt of a migration away, JSON.
    pub(super) receipt: Option<(MigrationId, String)>,
    /// Of which migration the receipt was noted already.
    receipted: Option<MigrationId>,
    /// Nothing is left of it.
    gone: bool,
}

/// Shared between a warden and who looks at it.
pub(super) struct Shared {
    known: Mutex<Known>,
    changed: Arc<tokio::sync::Notify>,
}

impl Shared {
    pub(super) fn new(found: Found, changed: Arc<tokio::sync::Notify>) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::new(Known {
                found,
                process: None,
                progress: None,
                receipt: None,
                receipted: None,
                gone: false,
            }),
            changed,
        })
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process was destroyed, and its directory removed.
    pub(super) fn is_gone(&self) -> bool {
        self.known().gone
    }

    /// Notes that the guest is to be given away by `migration`. Whether that is news.
    pub(super) fn begin_sending(&self, migration: MigrationId) -> bool {
        let found = &mut self.known().found;
        let is_news = found
            .sending
            .as_ref()
            .is_none_or(|sending| sending.migration != migration);
        if is_news {
            let stage = Stage::Copying;
            found.sending = Some(Sending { migration, stage });
        }
        is_news
    }

    fn update(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known();
        let before = known.found.clone();
        change(&mut known);
        if known.found != before {
            self.changed.notify_one();
        }
    }
}

pub(super) struct Warden {
    pub(super) program: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: Receiver<Order>,
}

/// Why a warden has nothing more to do with its process.
enum Over {
    Ended(End),
    Destroyed,
}

impl Warden {
    /// Has to do with the process until it is destroyed, and its directory removed.
    pub(super) fn run(self, beginning: Beginning) {
        let mut process = None;
        let over = match self.begin(beginning, &mut process) {
            Ok(client) => self.steer(client),
            Err(error) => Over::Ended(self.failed(error)),
        };
        if let Over::Ended(end) = over {
            self.shared
                .update(|known| known.found.doing = Doing::Ended(end));
            // Its end is told until it is no longer asked for.
            while !matches!(self.orders.recv(), Ok(Order::Destroy) | Err(_)) {}
        }
        self.kill();
        if let Some(process) = &mut process {
            // Ours is to be waited for; of another one it is only to be seen that it is gone.
            let _ = process.wait(Duration::from_secs(10));
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot clean up after a guest");
        }
        self.shared.known().gone = true;
        self.shared.changed.notify_one();
    }

    fn begin(
        &self,
        beginning: Beginning,
        process: &mut Option<GuestProcess>,
    ) -> Result<Client, CodedError> {
        if let Beginning::Adopt = beginning {
            let adopted = GuestProcess::adopt(&self.dir.join("guest.sock"))
                .map_err(|error| self.end_of_dead().unwrap_or_else(|| error.coded()))?;
            self.hold(adopted.pid())?;
            let client = adopted.client().map_err(|error| error.coded())?;
            *process = Some(adopted);
            return Ok(client);
        }
        let failed = |error: std::io::Error| CodedError::from_error(ErrorCode::Other, &error);
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let end_file: OsString = self.dir.join(END).into();
        let arguments = ["--end-file".into(), end_file];
        let spawned = GuestProcess::spawn_with(&self.program, &self.dir, &arguments)
            .map_err(|error| error.coded())?;
        self.hold(spawned.pid())?;
        let mut client = spawned.client().map_err(|error| error.coded())?;
        *process = Some(spawned);
        let refused = |error: ClientError| error.coded();
        match beginning {
            Beginning::Boot(launch) => {
                client.mandate(mandate(&launch, None)).map_err(refused)?;
                let spec = spec::spec(&launch.name, &launch.machine, &self.dir)?;
                client.create(&spec).map_err(refused)?;
            }
            Beginning::Receive(launch, migration, address) => {
                let mandate = mandate(&launch, Some(migration));
                client.mandate(mandate).map_err(refused)?;
                let spec = spec::spec(&launch.name, &launch.machine, &self.dir)?;
                let (_, token) = client
                    .await_guest(AwaitRequest {
                        listen: std::net::SocketAddr::from((address, 0)).to_string(),
                        patience_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
                        overrides: Overrides {
                            serial: Some(spec.serial),
                            ..Overrides::default()
                        },
                        overcommit: true,
                    })
                    .map_err(refused)?;
                let token = Some(token);
                self.shared.update(|known| {
                    known.found.doing = Doing::Receiving { migration, token };
                });
            }
            Beginning::Adopt => {}
        }
        Ok(client)
    }

    /// Takes hold of the process, so that it can be killed and nobody else in its place.
    fn hold(&self, pid: i32) -> Result<(), CodedError> {
        let pid = Pid::from_raw(pid).expect("a process has a number");
        let process = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        self.shared.known().process = Some(process);
        Ok(())
    }

    fn kill(&self) {
        if let Some(process) = &self.shared.known().process {
            // It may have ended.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Tells the process what it is to do and looks what it does, until it ends or is to end.
    fn steer(&self, mut client: Client) -> Over {
        let mut stopping: Option<Instant> = None;
        loop {
            if let Err(error) = self.look(&mut client) {
                return Over::Ended(self.ended(&error));
            }
            let pause = match self.is_awaited() {
                true => LOOK_SOON,
                false => LOOK,
            };
            match self.orders.recv_timeout(pause) {
                Ok(Order::Destroy) => return Over::Destroyed,
                Ok(Order::Stop) => {
                    stopping.get_or_insert_with(|| Instant::now() + POWER_OFF);
                    if let Err(error) = client.press_power_button() {
                        tracing::debug!(%error, "the power button is not pressed");
                    }
                }
                Ok(order) => {
                    if let Err(error) = self.carry_out(&mut client, order) {
                        tracing::warn!(%error, dir = %self.dir.display(), "a guest process refuses");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The daemon ends; the guest does not.
                Err(RecvTimeoutError::Disconnected) => loop {
                    std::thread::park();
                },
            }
            if stopping.is_some_and(|at| Instant::now() >= at) {
                return match client.stop() {
                    Ok(_) => Over::Ended(End::Stopped),
                    Err(error) => Over::Ended(self.ended(&error)),
                };
            }
        }
    }

    /// Whether somebody waits for what the process does next.
    fn is_awaited(&self) -> bool {
        let known = self.shared.known();
        let sending = known.found.sending.as_ref().map(|sending| &sending.stage);
        let sends = matches!(
            sending,
            Some(Stage::Copying | Stage::WantsWindow | Stage::MaySwitch)
        );
        sends || matches!(known.found.doing, Doing::Receiving { .. } | Doing::Starting)
    }

    fn carry_out(&self, client: &mut Client, order: Order) -> Result<(), ClientError> {
        match order {
            Order::Prove(epoch, until) => client.prove(Proof {
                epoch,
                until_ns: u64::try_from(until.as_nanos()).unwrap_or(u64::MAX),
            }),
            Order::SetLeased(leased) => {
                client.set_leased(leased)?;
                self.shared.update(|known| known.found.leased = leased);
                Ok(())
            }
            Order::Revive(epoch) => {
                client.cancel_migration()?;
                let (guest, leased) = {
                    let known = self.shared.known();
                    (known.found.guest, known.found.leased)
                };
                client.mandate(Mandate {
                    guest,
                    epoch,
                    leased,
                    origin: process::Origin::Fresh,
                })?;
                self.shared.update(|known| {
                    known.found.epoch = epoch;
                    known.found.sending = None;
                });
                Ok(())
            }
            Order::Send {
                migration,
                token,
                mut request,
            } => {
                let address = token.parse::<Token>().ok();
                let address = address.and_then(|token| token.addresses().first().copied());
                if let Some(address) = address {
                    request.to = address.to_string();
                }
                request.token = token;
                let begun = client.leave(migration, *request);
                if let Err(error) = &begun {
                    let stage = Stage::Kept(error.coded());
                    let sending = Some(Sending { migration, stage });
                    self.shared.update(|known| known.found.sending = sending);
                }
                begun
            }
            Order::AllowSwitch => client.open_window(),
            Order::CancelSend => client.cancel_migration(),
            Order::Stop | Order::Destroy => Ok(()),
        }
    }

    /// Finds out what the process does.
    fn look(&self, client: &mut Client) -> Result<(), ClientError> {
        let standing = client.standing()?;
        if let MandateState::Ended(reason) = standing.state {
            return Err(ClientError::Exited(reason));
        }
        let runs = match client.stats() {
            Ok(stats) => Some(stats.state),
            // There is no guest yet.
            Err(ClientError::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        let progress = match &standing.departure {
            Some(Departure {
                stage: Leaving::Copying | Leaving::AwaitsWindow | Leaving::MaySwitch,
                ..
            }) => client.migration_progress()?,
            _ => None,
        };
        self.shared.update(|known| {
            known.progress = progress;
            let found = &mut known.found;
            if let Some(mandate) = standing.mandate {
                found.epoch = mandate.epoch;
                found.leased = mandate.leased;
            }
            let receiving = match (&found.doing, standing.mandate) {
                (Doing::Receiving { .. }, _) => true,
                (_, Some(mandate)) => matches!(mandate.origin, process::Origin::Moved(_)),
                _ => false,
            };
            let over = standing.state == MandateState::Over;
            found.doing = match (standing.state, runs) {
                (MandateState::Waiting, _) if receiving => match &found.doing {
                    Doing::Receiving { .. } => found.doing.clone(),
                    // Found again after a restart: its token is lost, so nobody can come.
                    _ => match standing.mandate.map(|mandate| mandate.origin) {
                        Some(process::Origin::Moved(migration)) => Doing::Receiving {
                            migration,
                            token: None,
                        },
                        _ => Doing::Starting,
                    },
                },
                (MandateState::Over, _) if receiving => {
                    Doing::Ended(End::NeverRan(CodedError::new(
                        ErrorCode::NoLease,
                        "the guest was handed over and could not run here",
                    )))
                }
                (_, Some(GuestState::Running)) => Doing::Running,
                (MandateState::Waiting, _) | (_, None) => Doing::Starting,
                _ => Doing::Paused,
            };
            // A migration that was asked for may not have begun yet.
            if let Some(Departure {
                migration,
                stage: leaving,
            }) = standing.departure
                && found
                    .sending
                    .as_ref()
                    .is_none_or(|sending| sending.migration == migration)
            {
                let stage = stage(&leaving, over);
                found.sending = Some(Sending { migration, stage });
                if let Leaving::Ended { receipt, .. } = leaving
                    && known.receipted.replace(migration) != Some(migration)
                {
                    known.receipt = Some((migration, receipt));
                }
            }
        });
        Ok(())
    }

    /// How the guest ended, as its process or its remains tell.
    fn ended(&self, error: &ClientError) -> End {
        match error {
            ClientError::Exited(reason) => self.end(reason),
            error => {
                let error = self.end_of_dead().unwrap_or_else(|| {
                    CodedError::from_error(ErrorCode::Other, error)
                        .with_fix("the guest's process is gone: look at its log")
                });
                self.failed(error)
            }
        }
    }

    fn failed(&self, error: CodedError) -> End {
        if let Some(reason) = written_end(&self.dir) {
            return self.end(&reason);
        }
        match self.shared.known().found.doing {
            Doing::Receiving { .. } => End::NeverRan(error),
            _ => End::Failed(error),
        }
    }

    fn end(&self, reason: &ExitReason) -> End {
        let receiving = matches!(self.shared.known().found.doing, Doing::Receiving { .. });
        let error = match reason {
            ExitReason::PowerOff
            | ExitReason::Reset
            | ExitReason::Stopped
            | ExitReason::Migrated
                if !receiving =>
            {
                return End::Stopped;
            }
            ExitReason::Failed(error) => error.clone(),
            ExitReason::TripleFault { vcpu, .. } => {
                let text = format!("triple fault on vCPU {vcpu}");
                CodedError::new(ErrorCode::GuestCrashed, text)
            }
            ExitReason::KvmError { vcpu, message, .. } => {
                let text = format!("KVM gave up on vCPU {vcpu}: {message}");
                CodedError::new(ErrorCode::KvmInternal, text)
            }
            _ => CodedError::new(
                ErrorCode::Cancelled,
                "the process ended before a guest came",
            ),
        };
        match receiving {
            true => End::NeverRan(error),
            false => End::Failed(error),
        }
    }

    /// Why there is no process, when it wrote down how its guest ended.
    fn end_of_dead(&self) -> Option<CodedError> {
        match written_end(&self.dir)? {
            ExitReason::Failed(error) => Some(error),
            reason => Some(CodedError::new(
                ErrorCode::Other,
                format!("the guest ended: {reason:?}"),
            )),
        }
    }
}

/// What the process wrote down at its end.
fn written_end(dir: &Path) -> Option<ExitReason> {
    let bytes = fs::read(dir.join(END)).ok()?;
    let (frame, _) = frame::decode(&bytes, &RESPONSE_LIMITS).ok()?;
    match Response::from_frame(&frame?).ok()? {
        Response::Exited(reason) => Some(reason),
        _ => None,
    }
}

/// `over`: the guest was given up.
fn stage(leaving: &Leaving, over: bool) -> Stage {
    let relinquished = |serving, lost| Stage::Relinquished { serving, lost };
    match leaving {
        Leaving::Copying | Leaving::AwaitsWindow | Leaving::MaySwitch if over => {
            relinquished(true, None)
        }
        Leaving::Copying => Stage::Copying,
        Leaving::AwaitsWindow => Stage::WantsWindow,
        Leaving::MaySwitch => Stage::MaySwitch,
        Leaving::Ended { parting, .. } => match parting {
            // Of one that never ran there, the target tells.
            Parting::Moved | Parting::NeverRan(_) => relinquished(false, None),
            Parting::Unconfirmed(error) => relinquished(false, Some(error.clone())),
            Parting::Kept(error) => Stage::Kept(error.clone()),
        },
    }
}

fn mandate(launch: &Launch, moved: Option<MigrationId>) -> Mandate {
    Mandate {
        guest: launch.guest,
        epoch: launch.epoch,
        leased: launch.leased,
        origin: match (moved, launch.origin) {
            (Some(migration), _) => process::Origin::Moved(migration),
            (None, Origin::FailedOver { .. }) => process::Origin::FailedOver,
            (None, _) => process::Origin::Fresh,
        },
    }
}
