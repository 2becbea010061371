//! Taking a guest over.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use godwit_migration::driver::{self, Prepared, TargetHost};
use godwit_migration::fault::Faults;
use godwit_migration::target::{Limits, Outcome};
use godwit_migration::transport::{Invitation, Receiver, Tuning};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{GuestSpec, SerialSpec};
use godwit_proto::migrate::{Offer, VERSIONS};
use godwit_proto::process::{DiskOverride, NetOverride};
use godwit_proto::record::Record;
use godwit_vmm::guest::Guest;
use godwit_vmm::memory::ram::MAX_BYTES;
use tokio::sync::oneshot;

use super::{GuestPort, MemoryPort, RECOVERY_WINDOW, fault, fit, runtime};
use crate::foreground::signals::Signals;
use crate::guest_process::machine::Machine;
use crate::wait::{self, Flag, Watched};

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

/// Waits on `listen` for one guest, which then runs in `machine`. `invite` is told the address and the
/// token with which a source may come.
///
/// # Errors
/// Nobody came within `patience` or before a signal, or the guest did not get here; it is where it was then.
pub fn receive_guest(
    machine: &Arc<Machine>,
    listen: SocketAddr,
    patience: Duration,
    here: Here,
    faults: &Faults,
    signals: Signals,
    invite: impl FnOnce(SocketAddr, &str),
) -> Result<(), CodedError> {
    let failed =
        |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::PeerProtocol, error);
    let host = Arc::new(Host {
        machine: machine.clone(),
        here,
        guest: Mutex::new(None),
    });
    let over = Arc::new(Flag::new().map_err(|error| failed(&error))?);
    let stopped = signalled(signals, over.clone());
    let received = async {
        tokio::pin!(stopped);
        let tuning = Tuning {
            bulk_streams: 16,
            cable: faults.cable(),
            ..Tuning::default()
        };
        let mut receiver = Receiver::bind(listen, Invitation::default(), tuning, VERSIONS)
            .map_err(|error| failed(&error))?;
        let address = receiver.address().map_err(|error| failed(&error))?;
        machine.await_as(receiver.token().target);
        invite(address, &receiver.token().to_text());
        let mut link = tokio::select! {
            link = receiver.accept(patience) => link.map_err(|error| failed(&error))?,
            () = &mut stopped => {
                let text = "stopped while it waited for a guest";
                return Err(CodedError::new(ErrorCode::Cancelled, text));
            }
        };
        driver::settle(&mut link.control).await?;
        let limits = Limits {
            recovery_window: RECOVERY_WINDOW,
            ..Limits::new(MAX_BYTES / 4096)
        };
        Ok::<_, CodedError>(
            driver::receive(link, host.clone(), limits, faults.clone(), stopped).await,
        )
    };
    let outcome = runtime()?.block_on(received);
    over.raise();
    let outcome = outcome?;
    fault::report_missed(faults);
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

fn all(reasons: &[CodedError]) -> CodedError {
    let code = reasons.first().map_or(ErrorCode::Other, CodedError::code);
    let texts: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    CodedError::new(code, format!("refused the guest: {}", texts.join("; ")))
}

/// Builds the guest in this process.
struct Host {
    machine: Arc<Machine>,
    here: Here,
    guest: Mutex<Option<Arc<Guest>>>,
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
        let guest = self.machine.create_waiting(&spec);
        let guest = guest.map_err(|error| vec![error])?;
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest.clone());
        Ok(Prepared {
            memory: Arc::new(MemoryPort::new(&guest)),
            guest: Arc::new(GuestPort::new(guest)),
        })
    }

    fn announce(&self) {
        if let Some(guest) = self.guest()
            && let Err(error) = guest.announce()
        {
            tracing::warn!(%error, "the guest's networks were not told of its move");
        }
    }

    fn discard(&self) {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let error = CodedError::new(ErrorCode::PeerProtocol, "the guest did not get here");
        self.machine
            .end(godwit_proto::process::ExitReason::Failed(error));
    }
}
