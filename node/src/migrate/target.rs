//! Taking a guest over.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use godwit_migration::driver::{self, FirstFrame, Prepared, TargetHost};
use godwit_migration::fault::Faults;
use godwit_migration::page::DigestTable;
use godwit_migration::ports::FollowingMemory;
use godwit_migration::target::{Limits, Outcome};
use godwit_migration::transport::{Invitation, Receiver, TransportError, Tuning};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{GuestSpec, SerialSpec};
use godwit_proto::id::{GuestId, MigrationId};
use godwit_proto::migrate::{Mode, Offer, VERSIONS};
use godwit_proto::process::{DiskOverride, ExitReason, NetOverride};
use godwit_proto::record::Record;
use godwit_vmm::guest::{Guest, Heirloom};
use godwit_vmm::memory::post_copy;
use godwit_vmm::memory::ram::MAX_BYTES;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::{Arrived, FollowingPort, GuestPort, MemoryPort, fault, fit, runtime};
use crate::foreground::signals::Signals;
use crate::guest_process::client::Client;
use crate::guest_process::keeper;
use crate::guest_process::machine::{Machine, MachineOptions};
use crate::wait::{self, Flag, Watched};

/// The most forecasts that may be made with a token before the guest comes.
const MAX_FORECASTS: u32 = 1000;

/// The most guests that are taken over for a measurement.
const MAX_BENCH_GUESTS: u32 = 10_000;

/// What is different about the guest on this host.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// Disks at other paths.
    pub disks: Vec<DiskOverride>,
    /// Network cards on other taps.
    pub nets: Vec<NetOverride>,
    /// Another end of the serial port.
    pub serial: Option<SerialSpec>,
    /// Whether a guest is taken that may come to use more memory than is free.
    pub overcommit: bool,
}

/// Where a guest is awaited, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// The address.
    pub listen: SocketAddr,
    /// How long somebody may take to come.
    pub patience: Duration,
    /// How long a source that lost its link may take to come again; `None`: 300 s.
    pub recovery_window: Option<Duration>,
    /// The only guest that may come; `None`: any.
    pub guest: Option<GuestId>,
}

/// What is left of a migration whose guest runs here.
pub struct Rest(mpsc::Receiver<Told>);

impl Rest {
    /// How long a source is waited for that has not heard how it ended.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// To be called before the process ends: the source may not know yet that it can go.
    pub fn settle(self) {
        // Nothing is told any more when it is over.
        let _ = self.0.recv_timeout(Self::PATIENCE);
    }
}

/// What the thread that takes a guest over tells.
enum Told {
    /// It runs here; its memory may still follow.
    Runs,
    Ended(Result<Outcome, CodedError>),
}

/// Waits at `door` for one guest, and returns when it runs in `machine`. What is left of its
/// migration is done by a thread that ends the machine if memory is lost. `invite` is told the
/// address and the token with which a source may come.
///
/// # Errors
/// Nobody came in time or before a signal, or the guest did not get here; it is where it was then.
pub fn receive_guest(
    machine: &Arc<Machine>,
    door: Door,
    here: Here,
    faults: Faults,
    signals: Signals,
    invite: impl FnOnce(SocketAddr, &str),
) -> Result<Rest, CodedError> {
    let Listening {
        runtime,
        mut receiver,
        limits,
    } = Listening::at(&door, &faults, invite)?;
    machine.await_as(receiver.token().target);
    let (teller, told) = mpsc::channel();
    let host = Arc::new(Host {
        machine: machine.clone(),
        here,
        guest: Mutex::new(None),
        by: Mutex::new(None),
        teller: teller.clone(),
    });
    let over = Flag::new().map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    let over = Arc::new(over);
    let stopped = signalled(signals, over.clone());
    let machine = machine.clone();
    let take_over = move || {
        let ended = runtime.block_on(async {
            tokio::pin!(stopped);
            for _ in 0..=MAX_FORECASTS {
                let watched = driver::Watched {
                    ended: machine.ending(),
                    faults: faults.clone(),
                };
                let link = tokio::select! {
                    link = receiver.accept(door.patience) => link,
                    () = &mut stopped => {
                        let text = "stopped while it waited for a guest";
                        return Err(CodedError::new(ErrorCode::Cancelled, text));
                    }
                };
                let mut link =
                    link.map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error))?;
                driver::settle(&mut link.control).await?;
                let cancelled = stopped.as_mut();
                let received =
                    driver::receive(link, receiver, host.clone(), limits, watched, cancelled);
                let (outcome, again) = received.await;
                if !outcome.is_forecast() {
                    fault::report_missed(&faults);
                    return Ok(outcome);
                }
                tracing::info!("a move to here was forecast; waiting for the guest");
                receiver = again;
            }
            let text = format!("{MAX_FORECASTS} forecasts were made, and no guest came");
            Err(CodedError::new(ErrorCode::PeerProtocol, text))
        });
        if let Ok(Outcome::NeverRan(error)) = &ended {
            machine.end(ExitReason::Failed(error.clone()));
        }
        over.raise();
        // Nobody may listen.
        let _ = teller.send(Told::Ended(ended));
        // A thread may wait for memory that does not come.
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name("receive".into())
        .spawn(take_over)
        .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    match told.recv() {
        Ok(Told::Runs) => Ok(Rest(told)),
        Ok(Told::Ended(Ok(outcome))) => outcome_of(outcome).map(|()| Rest(told)),
        Ok(Told::Ended(Err(error))) => Err(error),
        Err(mpsc::RecvError) => Err(CodedError::new(
            ErrorCode::Other,
            "the thread that takes the guest over failed",
        )),
    }
}

/// Takes guests over at `door` by one token, one after the other, and ends each when all of it is here. Returns how
/// many there were when nobody came in time any more, or with a signal.
///
/// # Errors
/// A guest did not get here, or nothing could be listened on.
pub fn receive_for_bench(
    door: Door,
    here: &Here,
    signals: Signals,
    invite: impl FnOnce(SocketAddr, &str),
) -> Result<u32, CodedError> {
    let other = |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::Other, error);
    let Listening {
        runtime,
        mut receiver,
        limits,
    } = Listening::at(&door, &Faults::default(), invite)?;
    let over = Arc::new(Flag::new().map_err(|error| other(&error))?);
    let stopped = signalled(signals, over.clone());
    let taken = runtime.block_on(async {
        tokio::pin!(stopped);
        for taken in 0..=MAX_BENCH_GUESTS {
            let link = tokio::select! {
                link = receiver.accept(door.patience) => link,
                () = &mut stopped => return Ok(taken),
            };
            let mut link = match link {
                Ok(link) => link,
                Err(TransportError::Stalled { .. }) if taken > 0 => return Ok(taken),
                Err(error) => {
                    return Err(CodedError::from_error(ErrorCode::PeerProtocol, &error));
                }
            };
            driver::settle(&mut link.control).await?;
            let machine = Machine::new(MachineOptions::default()).map_err(|error| other(&error))?;
            let (teller, _) = mpsc::channel();
            let host = Arc::new(Host {
                machine: machine.clone(),
                here: here.clone(),
                guest: Mutex::new(None),
                by: Mutex::new(None),
                teller,
            });
            let watched = driver::Watched {
                ended: machine.ending(),
                faults: Faults::default(),
            };
            let cancelled = stopped.as_mut();
            let received = driver::receive(link, receiver, host, limits, watched, cancelled);
            let (outcome, again) = received.await;
            again.renew();
            receiver = again;
            let ended = spawn_blocking(move || machine.end(ExitReason::Stopped));
            ended.await.map_err(|error| other(&error))?;
            if !outcome.is_forecast() {
                outcome_of(outcome)?;
            }
        }
        Ok(MAX_BENCH_GUESTS)
    });
    over.raise();
    runtime.shutdown_background();
    taken
}

/// Who listens for a guest.
struct Listening {
    runtime: Runtime,
    receiver: Receiver,
    limits: Limits,
}

impl Listening {
    /// Listens at `door`, and tells by `invite` where that is and with which token.
    fn at(
        door: &Door,
        faults: &Faults,
        invite: impl FnOnce(SocketAddr, &str),
    ) -> Result<Self, CodedError> {
        let failed =
            |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::PeerProtocol, error);
        let usual = Limits::new(MAX_BYTES / 4096);
        let limits = Limits {
            recovery_window: door.recovery_window.unwrap_or(usual.recovery_window),
            ..usual
        };
        let tuning = Tuning {
            bulk_streams: 16,
            cable: faults.cable(),
            ..Tuning::default()
        };
        let invitation = Invitation {
            guest: door.guest,
            ..Invitation::default()
        };
        let runtime = runtime()?;
        let receiver = {
            let _entered = runtime.enter();
            let bound = Receiver::bind(door.listen, invitation, tuning, VERSIONS);
            bound.map_err(|error| failed(&error))?
        };
        let address = receiver.address().map_err(|error| failed(&error))?;
        invite(address, &receiver.token().to_text());
        Ok(Self {
            runtime,
            receiver,
            limits,
        })
    }
}

/// # Errors
/// Why the guest is not here.
fn outcome_of(outcome: Outcome) -> Result<(), CodedError> {
    match outcome {
        Outcome::Completed => Ok(()),
        Outcome::Refused(reasons) => Err(all(&reasons)),
        Outcome::NeverRan(error) | Outcome::PagesLost { error, .. } => Err(error),
    }
}

/// Ends when a signal asks for the end, never when `over` is raised before.
fn signalled(signals: Signals, over: Arc<Flag>) -> impl Future<Output = ()> {
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        let watched = [Watched::readable(&signals), Watched::readable(&*over)];
        if let Ok([true, _]) = wait::ready(watched, None) {
            // Nobody may wait for it any more.
            let _ = tell.send(());
        }
    });
    async {
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One error for all of `reasons`.
pub(crate) fn all(reasons: &[CodedError]) -> CodedError {
    let code = reasons.first().map_or(ErrorCode::Other, CodedError::code);
    let texts: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    CodedError::new(code, format!("refused the guest: {}", texts.join("; ")))
}

/// Builds the guest in this process.
struct Host {
    machine: Arc<Machine>,
    here: Here,
    guest: Mutex<Option<Arc<Guest>>>,
    /// The migration by which it comes.
    by: Mutex<Option<MigrationId>>,
    teller: mpsc::Sender<Told>,
}

impl Host {
    fn spec(&self, offer: &Offer) -> Result<GuestSpec, CodedError> {
        let mut spec = GuestSpec::decode(&offer.spec)
            .map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error))?;
        let no_such =
            |id: &str| CodedError::new(ErrorCode::Usage, format!("the guest has no device {id:?}"));
        for change in &self.here.disks {
            let disk = spec.disks.iter_mut().find(|disk| disk.id == change.id);
            disk.ok_or_else(|| no_such(&change.id))?
                .path
                .clone_from(&change.path);
        }
        for change in &self.here.nets {
            let net = spec.nets.iter_mut().find(|net| net.id == change.id);
            net.ok_or_else(|| no_such(&change.id))?
                .tap
                .clone_from(&change.tap);
        }
        if let Some(serial) = &self.here.serial {
            spec.serial = serial.clone();
        }
        Ok(spec)
    }

    /// The memory and taps of a guest of another process of this host.
    fn hand_over(socket: &str) -> Result<Heirloom, CodedError> {
        let client = Client::connect(Path::new(socket)).map_err(|error| {
            error.coded().with_fix(
                "a guest moves in mode local only within a host, and between processes of one user",
            )
        })?;
        match client.take_over() {
            Ok((heirloom, None)) => Ok(heirloom),
            Ok((_, Some(_))) => Err(CodedError::new(
                ErrorCode::PeerProtocol,
                "the guest is not in the process that its offer names",
            )),
            Err(error) => Err(error.coded()),
        }
    }

    /// The memory that the guest left here by `migration`, if it is still kept.
    fn kept_memory(migration: MigrationId) -> Option<Heirloom> {
        let socket = keeper::socket_of(migration).ok()?;
        let taken = Client::connect(&socket).and_then(Client::take_over);
        match taken {
            Ok((heirloom, left_by)) => (left_by == Some(migration)).then_some(heirloom),
            Err(error) => {
                tracing::debug!(%error, "the guest's memory is not kept here");
                None
            }
        }
    }

    /// What there is of the guest on this host.
    fn heirloom(offer: &Offer) -> Result<Option<Heirloom>, CodedError> {
        match (offer.mode, &offer.local) {
            (Mode::Local, Some(socket)) => Self::hand_over(socket).map(Some),
            (Mode::Local, None) => {
                let text = "a guest that moves within this host comes without a socket";
                Err(CodedError::new(ErrorCode::PeerProtocol, text))
            }
            _ => Ok(offer
                .retained
                .and_then(|retained| Self::kept_memory(retained.migration))),
        }
    }

    fn take_guest(&self) -> Option<Arc<Guest>> {
        self.guest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn guest(&self) -> Option<Arc<Guest>> {
        self.guest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl TargetHost for Host {
    fn prepare(&self, offer: &Offer) -> Result<Prepared, Vec<CodedError>> {
        let spec = self.spec(offer).map_err(|error| vec![error])?;
        let reasons = fit::reasons(offer, &spec, self.here.overcommit);
        // Nothing is built for a guest that cannot run here.
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let heirloom = Self::heirloom(offer).map_err(|error| vec![error])?;
        let retained = heirloom.is_some() && offer.mode != Mode::Local;
        let guest = self.machine.create_waiting(&spec, heirloom);
        let guest = guest.map_err(|error| vec![error])?;
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest.clone());
        *self.by.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer.migration);
        let following = post_copy::check().map(|()| {
            let port: Arc<dyn FollowingMemory> = Arc::new(FollowingPort::new(guest.clone()));
            port
        });
        if let Err(error) = &following {
            tracing::info!(%error, "memory cannot follow the guest");
        }
        Ok(Prepared {
            memory: Arc::new(MemoryPort::new(&guest)),
            retained,
            following: following.ok(),
            guest: Arc::new(GuestPort::arriving(guest, self.machine.holder().clone())),
        })
    }

    fn announce(&self) -> FirstFrame {
        // Nobody may listen.
        let _ = self.teller.send(Told::Runs);
        let Some(guest) = self.guest() else {
            return Box::new(|_| None);
        };
        if let Err(error) = guest.announce() {
            tracing::warn!(%error, "the guest's networks were not told of its move");
        }
        let watch = guest.watch_first_frame();
        Box::new(move |patience| watch.wait(patience))
    }

    fn memory_whole(&self, arrived: &Arc<DigestTable>) {
        let guest = self.take_guest();
        // A guest that has ended may lack memory, and its devices may not go on with zeros.
        if let Some(guest) = guest
            && self.machine.exit_reason().is_none()
        {
            guest.memory_arrived();
        }
        let by = *self.by.lock().unwrap_or_else(PoisonError::into_inner);
        self.machine.has_arrived(by.map(|by| Arrived {
            by,
            digests: arrived.clone(),
        }));
    }

    fn memory_lost(&self, error: &CodedError) {
        self.machine.lose_memory(error);
    }

    fn discard(&self) {
        drop(self.take_guest());
        // It never ran, so nothing waits for its memory.
        self.machine.has_arrived(None);
        self.machine.discard_waiting();
    }
}
