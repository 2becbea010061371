//! The target's driver: takes a guest over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::{Accept, FromSource, FromTarget, Offer, VERSIONS};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, block_in_place, spawn_blocking};
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::{MAX_HEARD, coded, digest_seed};
use crate::fault::{self, Faults};
use crate::page::{BatchReader, DigestTable, PAGE_VERSIONS, PageDecoder};
use crate::ports::{GuestMemory, Pausable, PortError};
use crate::target::{Command, Event, Limits, Outcome, Step, Target};
use crate::transport::{BulkReceiver, CloseCode, FrameReceiver, FrameSender, TargetLink};

/// A guest that was built for an offer and waits for its memory and state.
#[derive(Clone)]
pub struct Prepared {
    /// Its memory, all zero.
    pub memory: Arc<dyn GuestMemory>,
    /// The guest.
    pub guest: Arc<dyn Pausable>,
}

/// What builds guests at the target. Called on threads where it may block.
pub trait TargetHost: Send + Sync + 'static {
    /// Builds the guest of `offer`, without writing a disk.
    ///
    /// # Errors
    /// Every reason why not.
    fn prepare(&self, offer: &Offer) -> Result<Prepared, Vec<CodedError>>;
    /// The guest runs here now: tells its networks.
    fn announce(&self);
    /// Takes the guest apart; it never ran.
    fn discard(&self);
}

/// Bytes that are read from a bulk stream at a time.
const READ_BYTES: usize = 256 << 10;

/// Takes the guest over that `link` brings, and tells what became of it. It runs here exactly when that is
/// [`Outcome::Completed`].
///
/// Gives it up when `cancelled` ends, if the source has not given the guest up by then. Needs tokio's
/// multi-threaded runtime.
pub async fn receive(
    link: TargetLink,
    host: Arc<dyn TargetHost>,
    limits: Limits,
    faults: Faults,
    cancelled: impl Future<Output = ()>,
) -> Outcome {
    let begin = Instant::now();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let (said, mut heard) = mpsc::channel(MAX_HEARD);
    let listener = tokio::spawn(listen(link.control.receiver, said.clone()));
    let mut machine = Target::start(limits, begin.elapsed());
    let mut driver = Driver {
        host,
        events,
        said,
        control: link.control.sender,
        bulk: link.bulk,
        readers: JoinSet::new(),
        prepared: None,
        outcome: None,
        faults,
    };
    tokio::pin!(cancelled);
    let mut cancellable = true;
    while !machine.is_finished() {
        let due = machine
            .deadline()
            .map_or(begin + Duration::from_secs(86_400), |at| begin + at);
        let event = tokio::select! {
            event = inbox.recv() => event.expect("the driver holds a sender"),
            Some(event) = heard.recv() => Happening::Event(event),
            () = &mut cancelled, if cancellable => {
                cancellable = false;
                Happening::Event(Event::Cancel)
            }
            () = sleep_until(TokioInstant::from_std(due)) => Happening::Event(Event::Tick),
        };
        let event = match event {
            Happening::Event(event) => event,
            Happening::Prepared(prepared, digests) => {
                driver.read_bulk(&prepared, &digests);
                driver.prepared = Some(prepared);
                Event::Prepared(Accept::default())
            }
        };
        let commands = machine.handle(event, begin.elapsed());
        driver.carry_out(commands).await;
    }
    listener.abort();
    driver.readers.abort_all();
    // The source closes first when all went well: it has heard that it is complete.
    let _ = tokio::time::timeout(Duration::from_secs(1), link.peer.ended()).await;
    link.peer
        .close(CloseCode::Done, "the migration is over")
        .await;
    driver
        .outcome
        .expect("the machine finishes with an outcome")
}

/// What the driver hears of.
enum Happening {
    Event(Event),
    /// [`Command::Prepare`] is done; here is where the digests of its pages go.
    Prepared(Prepared, Arc<DigestTable>),
}

/// Turns what the source says into events, until the link ends.
async fn listen(mut control: FrameReceiver, events: mpsc::Sender<Event>) {
    loop {
        let event = match control.next().await {
            Ok(frame) => match FromSource::from_frame(&frame) {
                Ok(message) => Event::Control(message),
                Err(error) => {
                    tracing::warn!(%error, "the source breaks the protocol");
                    Event::LinkLost
                }
            },
            Err(error) => {
                tracing::debug!(%error, "the link to the source has ended");
                Event::LinkLost
            }
        };
        let over = matches!(event, Event::LinkLost);
        if events.send(event).await.is_err() || over {
            return;
        }
    }
}

struct Driver {
    host: Arc<dyn TargetHost>,
    events: mpsc::UnboundedSender<Happening>,
    /// For what comes of the peer.
    said: mpsc::Sender<Event>,
    control: FrameSender,
    /// Until there is memory to put pages in.
    bulk: Vec<BulkReceiver>,
    readers: JoinSet<()>,
    prepared: Option<Prepared>,
    outcome: Option<Outcome>,
    faults: Faults,
}

impl Driver {
    async fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            let Some(command) = self.faults.before(command, |event| self.tell(event)).await else {
                continue;
            };
            match command {
                Command::SendControl(message) => self.say(&message).await,
                Command::Prepare(offer) => self.prepare(offer),
                Command::RestoreState(state) => self.with_guest(Step::RestoreState, move |guest| {
                    guest.restore(&state)?;
                    Ok(Event::Restored)
                }),
                Command::ResumeGuest(_) => self.with_guest(Step::ResumeGuest, |guest| {
                    guest.resume()?;
                    Ok(Event::Resumed)
                }),
                Command::AnnounceNetwork => {
                    let host = self.host.clone();
                    spawn_blocking(move || host.announce());
                }
                // There is no control plane yet that the change of owner is committed to.
                Command::Commit(_) => self.tell(Event::Committed),
                Command::Discard => {
                    self.prepared = None;
                    let host = self.host.clone();
                    // The guest's locks are free before the outcome is told.
                    let _ = spawn_blocking(move || host.discard()).await;
                }
                Command::Finish(outcome) => self.outcome = Some(outcome),
                Command::CheckDigests(_) => self.not_offered(Step::CheckDigests),
                Command::RegisterMissing(_) => self.not_offered(Step::RegisterMissing),
                Command::RequestPages(_) => self.not_offered(Step::InstallPages),
                Command::CancelTooLate => {}
            }
        }
    }

    async fn say(&mut self, message: &FromTarget) {
        let version = VERSIONS.newest();
        let sent = match message.to_payload(version) {
            Ok(payload) => self
                .control
                .send(FrameKind::FromTarget, version, &payload)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!(error, "the source cannot be told");
            self.tell(Event::LinkLost);
        }
    }

    fn prepare(&self, offer: Box<Offer>) {
        let (host, events) = (self.host.clone(), self.events.clone());
        spawn_blocking(move || {
            let happening = match host.prepare(&offer) {
                Ok(prepared) if prepared.memory.pages() == offer.pages => {
                    let digests = DigestTable::new(offer.pages, digest_seed(&offer));
                    Happening::Prepared(prepared, Arc::new(digests))
                }
                Ok(prepared) => {
                    let text = format!(
                        "the guest has {} pages here, {} at the source",
                        prepared.memory.pages(),
                        offer.pages
                    );
                    let error = CodedError::new(ErrorCode::PeerProtocol, text);
                    Happening::Event(Event::Refused(vec![error]))
                }
                Err(reasons) => Happening::Event(Event::Refused(reasons)),
            };
            let _ = events.send(happening);
        });
    }

    /// Puts what comes on the bulk streams into memory from now on.
    fn read_bulk(&mut self, prepared: &Prepared, digests: &Arc<DigestTable>) {
        for (index, bulk) in std::mem::take(&mut self.bulk).into_iter().enumerate() {
            let reader = Reader {
                index: index as u16,
                bulk,
                batches: BatchReader::new(PAGE_VERSIONS.newest(), digests.pages()),
                decoder: PageDecoder::new(digests.clone()),
                memory: prepared.memory.clone(),
                events: self.said.clone(),
                faults: self.faults.clone(),
            };
            self.readers.spawn(reader.serve());
        }
    }

    /// Does something with the guest on a thread of its own.
    fn with_guest(
        &self,
        step: Step,
        work: impl FnOnce(&dyn Pausable) -> Result<Event, PortError> + Send + 'static,
    ) {
        let Some(prepared) = &self.prepared else {
            let error = CodedError::new(ErrorCode::WrongState, "no guest has been built");
            return self.tell(Event::Failed { step, error });
        };
        let (guest, events) = (prepared.guest.clone(), self.events.clone());
        spawn_blocking(move || {
            let event = work(&*guest).unwrap_or_else(|error| Event::Failed {
                step,
                error: coded(ErrorCode::Other, &*error),
            });
            let _ = events.send(Happening::Event(event));
        });
    }

    /// Only a source with options that this build does not offer leads to these commands.
    fn not_offered(&self, step: Step) {
        let error = CodedError::new(ErrorCode::Other, "this mode of migration is not built");
        self.tell(Event::Failed { step, error });
    }

    fn tell(&self, event: Event) {
        // The receiver outlives the driver.
        let _ = self.events.send(Happening::Event(event));
    }
}

/// Puts the pages of one bulk stream into memory.
struct Reader {
    index: u16,
    bulk: BulkReceiver,
    batches: BatchReader,
    decoder: PageDecoder,
    memory: Arc<dyn GuestMemory>,
    events: mpsc::Sender<Event>,
    faults: Faults,
}

impl Reader {
    async fn serve(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = match self.bulk.read(&mut buffer).await {
                Ok(0) => return,
                Ok(read) => read,
                // The control stream tells that the link has ended.
                Err(error) => return tracing::debug!(%error, "a bulk stream has ended"),
            };
            let struck = self.faults.at(fault::Step::ApplyBatch).await;
            let applied = struck.and_then(|()| block_in_place(|| self.apply(&buffer[..read])));
            let (events, over) = match applied {
                Ok(events) => (events, false),
                Err(error) => {
                    let step = Step::ApplyBatch;
                    (vec![Event::Failed { step, error }], true)
                }
            };
            for event in events {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            if over {
                return;
            }
        }
    }

    /// Puts what is whole of it into memory; what the machine is to be told of that.
    fn apply(&mut self, mut input: &[u8]) -> Result<Vec<Event>, CodedError> {
        let mut applied = Vec::new();
        loop {
            let batch = match self.batches.next(&mut input) {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(applied),
                Err(error) => return Err(coded(error.code(), &error)),
            };
            self.decoder
                .apply(&batch, &*self.memory)
                .map_err(|error| coded(error.code(), &error))?;
            applied.push(Event::BatchApplied {
                // Batches are numbered from round 0.
                round: batch.header.round.saturating_add(1),
                stream: self.index,
                pages: batch.header.pages.into(),
            });
        }
    }
}
