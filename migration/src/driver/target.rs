//! The target's driver: takes a guest over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::{Accept, FromTarget, Offer, PageRun, VERSIONS};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};

use super::arrivals::{Events, Happening, Told, await_again, hearing, listen};
use super::fault_around::FaultAround;
use super::first_frame::WATCH;
use super::pages::{Destination, Reader};
use super::{coded, digest_seed, verify};
use crate::PageSet;
use crate::fault::Faults;
use crate::page::DigestTable;
use crate::ports::{Arrival, FollowingMemory, GuestMemory, Pausable, PortError};
use crate::target::{Command, Event, Limits, Outcome, Step, Target};
use crate::transport::{
    BulkReceiver, CloseCode, FrameReceiver, FrameSender, Peer, Receiver, TargetLink,
};

/// A guest that was built for an offer and waits for its memory and state.
#[derive(Clone)]
pub struct Prepared {
    /// Its memory: all zero, or as it was at the end of the migration that the offer tells of.
    pub memory: Arc<dyn GuestMemory>,
    /// Whether it is the latter.
    pub retained: bool,
    /// The guest.
    pub guest: Arc<dyn Pausable>,
    /// Lets its memory follow it; `None` when this host cannot.
    pub following: Option<Arc<dyn FollowingMemory>>,
}

/// Tells how long after it was let run the guest's first frame left. Waits for one for at most so long;
/// `None` when there is none, at once when the guest uses no network. Holds on to nothing of the guest.
pub type FirstFrame = Box<dyn FnOnce(Duration) -> Option<Duration> + Send>;

/// What builds guests at the target. Called on threads where it may block.
pub trait TargetHost: Send + Sync + 'static {
    /// Builds the guest of `offer`, without writing a disk.
    ///
    /// # Errors
    /// Every reason why not.
    fn prepare(&self, offer: &Offer) -> Result<Prepared, Vec<CodedError>>;
    /// The guest runs here now: tells its networks. Returns what tells when it was heard on them.
    fn announce(&self) -> FirstFrame;
    /// All memory is here: nothing waits for it any more, and the guest may be moved on. `arrived` is
    /// what the source had, and has if it keeps it.
    fn memory_whole(&self, arrived: &Arc<DigestTable>);
    /// Memory that the running guest needs will never be here: it must not go on.
    fn memory_lost(&self, error: &CodedError);
    /// Takes the guest apart; it never ran.
    fn discard(&self);
}

const NO_POST_COPY: &str = "this host cannot run a guest before its memory is there";

/// What else matters to a guest that is taken over.
pub struct Watched {
    /// Set to `true` when the guest that ran here has ended.
    pub ended: watch::Receiver<bool>,
    /// What is to go wrong on purpose.
    pub faults: Faults,
}

/// How long the source may take to close a link on which all is said; longer than it takes to notice
/// that a link is dead.
const GOODBYE: Duration = Duration::from_secs(4);

/// Takes the guest over that `link` brings, and tells what became of it. It runs here exactly when that is
/// [`Outcome::Completed`]. A source that lost its link comes again through `receiver`. When `cancelled`
/// ends before the guest is ready to run here, it stays with the source.
///
/// Needs tokio's multi-threaded runtime. Returns when the source knows how it ended, or cannot be
/// told any more; the host learns everything as it happens. The receiver comes back, for a source that
/// only made a forecast may move the guest next.
pub async fn receive(
    link: TargetLink,
    receiver: Receiver,
    host: Arc<dyn TargetHost>,
    limits: Limits,
    mut watched: Watched,
    cancelled: impl Future<Output = ()>,
) -> (Outcome, Receiver) {
    let begin = Instant::now();
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let (told, mut heard) = hearing();
    let (shut, shutting) = oneshot::channel();
    let door = tokio::spawn(await_again(receiver, sender.clone(), shutting));
    let mut machine = Target::start(limits, begin.elapsed());
    let mut driver = Driver {
        host,
        sender,
        told,
        live: None,
        number: 0,
        lost: None,
        said: begin,
        readers: JoinSet::new(),
        prepared: None,
        announcing: None,
        resumed: begin,
        first_frame: None,
        ready: false,
        outcome: None,
        faults: watched.faults,
    };
    driver.connect(link);
    let mut ended = false;
    tokio::pin!(cancelled);
    let mut cancellable = true;
    while !machine.is_finished() {
        let due = machine
            .deadline()
            .map_or(begin + Duration::from_secs(86_400), |at| begin + at);
        let happening = tokio::select! {
            happening = inbox.recv() => happening.expect("the driver holds a sender"),
            Some(happening) = heard.next() => happening,
            () = sleep_until(TokioInstant::from_std(due)) => Happening::Event(Event::Tick),
            changed = watched.ended.changed(), if !ended => {
                ended = true;
                if changed.is_err() || !*watched.ended.borrow() {
                    continue;
                }
                Happening::Event(Event::GuestEnded)
            }
            () = &mut cancelled, if cancellable => {
                cancellable = false;
                Happening::Event(Event::Cancel)
            }
        };
        driver.take(happening, &mut machine, begin.elapsed()).await;
    }
    driver.tell_first_frame().await;
    let outcome = driver.outcome.take();
    let outcome = outcome.expect("the machine finishes with an outcome");
    // The source closes the link when it has heard how it ended, or comes again to ask. That of a
    // forecast has heard: it waits until it may begin again.
    let forecast = outcome.is_forecast();
    driver.said = Instant::now();
    while let Some(until) = driver.awaits_source(limits.recovery_window)
        && !forecast
    {
        let happening = tokio::select! {
            happening = inbox.recv() => happening.expect("the driver holds a sender"),
            Some(happening) = heard.next() => happening,
            () = sleep_until(TokioInstant::from_std(until)) => break,
        };
        if matches!(happening, Happening::Closed(number) if number == driver.number) {
            break;
        }
        driver.take(happening, &mut machine, begin.elapsed()).await;
    }
    // Who reads holds guest memory; but one may wait for memory that does not come.
    let _ = timeout(GOODBYE, driver.readers.shutdown()).await;
    drop(shut);
    let receiver = door.await.expect("waiting at the door does not fail");
    if forecast {
        receiver.reopen();
    }
    if let Some(live) = driver.live.take() {
        live.listener.abort();
        live.peer
            .close(CloseCode::Done, "the migration is over")
            .await;
    }
    (outcome, receiver)
}

/// A link that is up, as far as is known.
struct Live {
    control: FrameSender,
    faults: FrameSender,
    peer: Peer,
    events: Events,
    listener: JoinHandle<()>,
    /// Until there is memory to put pages in.
    pages: Option<(Vec<BulkReceiver>, FrameReceiver)>,
}

struct Driver {
    host: Arc<dyn TargetHost>,
    sender: mpsc::UnboundedSender<Happening>,
    /// For what comes of the source.
    told: Told,
    live: Option<Live>,
    /// The number of the last link.
    number: u64,
    /// When it was lost.
    lost: Option<Instant>,
    /// When all was said on the link.
    said: Instant,
    readers: JoinSet<()>,
    prepared: Option<(Prepared, Destination)>,
    announcing: Option<JoinHandle<FirstFrame>>,
    /// When the guest ran.
    resumed: Instant,
    first_frame: Option<FirstFrame>,
    /// The source was told that it may give the guest up.
    ready: bool,
    outcome: Option<Outcome>,
    faults: Faults,
}

impl Driver {
    /// Tells the machine what happened, and does what it says.
    async fn take(&mut self, happening: Happening, machine: &mut Target, now: Duration) {
        let event = match happening {
            Happening::Event(event) => event,
            Happening::FromLink(number, _) | Happening::Closed(number)
                if number != self.number || self.live.is_none() =>
            {
                return;
            }
            Happening::FromLink(_, Event::LinkLost) | Happening::Closed(_) => {
                self.disconnect();
                Event::LinkLost
            }
            Happening::FromLink(_, Event::Malformed(_)) if self.ready => {
                self.disconnect();
                Event::LinkLost
            }
            Happening::FromLink(_, event) => event,
            Happening::Prepared(prepared, destination) => {
                let accept = Accept {
                    post_copy: prepared.following.is_some(),
                    retained: prepared.retained,
                };
                self.prepared = Some((prepared, destination));
                self.read_pages();
                Event::Prepared(accept)
            }
            Happening::Link(_) if !self.ready => {
                return tracing::warn!("the source came again although it has the guest");
            }
            Happening::Link(link) => {
                if self.live.is_some() {
                    self.disconnect();
                    let commands = machine.handle(Event::LinkLost, now);
                    self.carry_out(commands).await;
                }
                self.connect(*link);
                self.read_pages();
                Event::LinkRestored
            }
        };
        let commands = machine.handle(event, now);
        self.carry_out(commands).await;
    }

    async fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            let tell = |event| {
                self.tell(match event {
                    Event::LinkLost => Happening::FromLink(self.number, Event::LinkLost),
                    event => Happening::Event(event),
                });
            };
            let Some(command) = self.faults.before(command, tell).await else {
                continue;
            };
            match command {
                Command::SendControl(message) => self.say(&message).await,
                Command::Prepare(offer) => self.prepare(offer),
                Command::RestoreState(state) => {
                    self.with_guest(Step::RestoreState, move |prepared| {
                        prepared.guest.restore(&state)?;
                        Ok(Event::Restored)
                    });
                }
                Command::ResumeGuest(_) => self.with_guest(Step::ResumeGuest, |prepared| {
                    prepared.guest.resume()?;
                    Ok(Event::Resumed)
                }),
                Command::AnnounceNetwork => {
                    let host = self.host.clone();
                    self.resumed = Instant::now();
                    self.announcing = Some(spawn_blocking(move || host.announce()));
                }
                // There is no control plane yet that the change of owner is committed to.
                Command::Commit(_) => self.tell(Happening::Event(Event::Committed)),
                Command::Discard => {
                    self.prepared = None;
                    // The guest's locks are free before the outcome is told.
                    self.with_host(<dyn TargetHost>::discard).await;
                }
                Command::MemoryWhole => {
                    if let Some(announcing) = self.announcing.take() {
                        match announcing.await {
                            Ok(first_frame) => self.first_frame = Some(first_frame),
                            Err(error) => {
                                tracing::error!(%error, "the host failed over the guest's networks");
                            }
                        }
                    }
                    if let Some((_, destination)) = &self.prepared {
                        let arrived = destination.digests.clone();
                        self.with_host(move |host| host.memory_whole(&arrived))
                            .await;
                    }
                }
                Command::Finish(outcome) => {
                    if let Outcome::PagesLost { error, .. } = &outcome {
                        let error = error.clone();
                        self.with_host(move |host| host.memory_lost(&error)).await;
                    }
                    // From here on the guest is its host's alone.
                    self.prepared = None;
                    self.outcome = Some(outcome);
                }
                Command::CheckDigests(digests) => {
                    self.with_guest(Step::CheckDigests, move |prepared| {
                        let wrong = verify::wrong(&*prepared.memory, &digests)?;
                        Ok(Event::DigestsChecked { wrong })
                    });
                }
                Command::GiveUp(pages) => self.with_guest(Step::GiveUp, move |prepared| {
                    let following = prepared.following.as_ref();
                    following.ok_or(NO_POST_COPY)?.give_up(&pages)?;
                    Ok(Event::GivenUp)
                }),
                Command::RegisterMissing(pages) => self.register_missing(pages),
                Command::RequestPages(run) => self.request(run).await,
                Command::CancelTooLate => {}
            }
        }
    }

    /// The last word of a migration that completed (MIG-39).
    async fn tell_first_frame(&mut self) {
        if self.outcome == Some(Outcome::Completed)
            && let Some(first_frame) = self.first_frame.take()
        {
            let patience = WATCH.saturating_sub(self.resumed.elapsed());
            let Ok(first) = spawn_blocking(move || first_frame(patience)).await else {
                return;
            };
            let after_resume_ns = first.map(|time| time.as_nanos() as u64);
            self.say(&FromTarget::FirstFrame { after_resume_ns }).await;
        }
    }

    /// Uses `link` from now on.
    fn connect(&mut self, link: TargetLink) {
        self.number += 1;
        let events = Events {
            told: self.told.clone(),
            number: self.number,
            peer: link.peer.clone(),
        };
        self.lost = None;
        self.said = Instant::now();
        self.live = Some(Live {
            control: link.control.sender,
            faults: link.fault.sender,
            peer: link.peer,
            listener: tokio::spawn(listen(link.control.receiver, events.clone())),
            events,
            pages: Some((link.bulk, link.fault.receiver)),
        });
    }

    /// The link is of no use any more.
    fn disconnect(&mut self) {
        self.lost = Some(Instant::now());
        if let Some(live) = self.live.take() {
            live.listener.abort();
            tokio::spawn(async move { live.peer.close(CloseCode::Abandoned, "").await });
        }
    }

    /// Puts what comes over the link into memory from now on, once there is some.
    fn read_pages(&mut self) {
        let (Some(live), Some((_, destination))) = (&mut self.live, &self.prepared) else {
            return;
        };
        let Some((bulk, faults)) = live.pages.take() else {
            return;
        };
        let reader = |stream| {
            Reader::new(
                stream,
                destination,
                live.events.clone(),
                self.faults.clone(),
            )
        };
        self.readers.spawn(reader(u16::MAX).serve_faults(faults));
        for (stream, bulk) in (0..).zip(bulk) {
            self.readers.spawn(reader(stream).serve_bulk(bulk));
        }
        // Those of links that are gone have ended.
        while self.readers.try_join_next().is_some() {}
    }

    async fn say(&mut self, message: &FromTarget) {
        self.ready |= matches!(message, FromTarget::Ready);
        let Some(live) = &mut self.live else { return };
        send(&mut live.control, &live.events, message).await;
    }

    /// Asks for pages that somebody waits for.
    async fn request(&mut self, run: PageRun) {
        let Some(live) = &mut self.live else { return };
        send(
            &mut live.faults,
            &live.events,
            &FromTarget::PageRequest(run),
        )
        .await;
    }

    fn prepare(&self, offer: Box<Offer>) {
        let (host, sender) = (self.host.clone(), self.sender.clone());
        spawn_blocking(move || {
            let happening = match host.prepare(&offer) {
                Ok(prepared) if prepared.memory.pages() == offer.pages => {
                    let digests = DigestTable::new(offer.pages, digest_seed(&offer));
                    if prepared.retained
                        && let Err(error) = verify::note(&*prepared.memory, &digests)
                    {
                        // The guest comes all the same; its next way back is a long one.
                        tracing::info!(%error, "what is kept of the guest cannot be read");
                    }
                    let destination = Destination::new(prepared.memory.clone(), digests);
                    Happening::Prepared(prepared, destination)
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
            let _ = sender.send(happening);
        });
    }

    /// From here on pages are installed, and faults heard.
    fn register_missing(&self, pages: PageSet) {
        let destination = self.prepared.as_ref().map(|(_, to)| to.clone());
        let sender = self.sender.clone();
        self.with_guest(Step::RegisterMissing, move |prepared| {
            let (Some(following), Some(destination)) = (&prepared.following, destination) else {
                return Err(NO_POST_COPY.into());
            };
            let mut around = FaultAround::new(following.unit_pages());
            let tell = move |arrival| {
                let tell = |event| {
                    let _ = sender.send(Happening::Event(event));
                };
                match arrival {
                    Arrival::Fault(page) => {
                        let (one, more) = around.fault(page);
                        tell(Event::Fault(one));
                        if let Some(more) = more {
                            tell(Event::Fault(more));
                        }
                    }
                    Arrival::Failed(error) => tell(Event::Failed {
                        step: Step::InstallPages,
                        error: coded(ErrorCode::PagesLost, &*error),
                    }),
                }
            };
            let arriving = following.make_absent(&pages, Box::new(tell))?;
            if destination.arriving.set(arriving).is_err() {
                return Err("memory follows the guest already".into());
            }
            Ok(Event::MissingRegistered)
        });
    }

    /// Does something with the guest on a thread of its own.
    fn with_guest(
        &self,
        step: Step,
        work: impl FnOnce(&Prepared) -> Result<Event, PortError> + Send + 'static,
    ) {
        let Some((prepared, _)) = &self.prepared else {
            let error = CodedError::new(ErrorCode::WrongState, "no guest has been built");
            return self.tell(Happening::Event(Event::Failed { step, error }));
        };
        let (prepared, sender) = (prepared.clone(), self.sender.clone());
        spawn_blocking(move || {
            let event = work(&prepared).unwrap_or_else(|error| Event::Failed {
                step,
                error: coded(ErrorCode::Other, &*error),
            });
            let _ = sender.send(Happening::Event(event));
        });
    }

    /// Tells the host something and waits until it has done what it does about it.
    async fn with_host(&self, tell: impl FnOnce(&dyn TargetHost) + Send + 'static) {
        let host = self.host.clone();
        if let Err(error) = spawn_blocking(move || tell(&*host)).await {
            tracing::error!(%error, "the host failed over what it was told");
        }
    }

    fn tell(&self, happening: Happening) {
        // The receiver outlives the driver.
        let _ = self.sender.send(happening);
    }

    /// Until when a source that lost its link may come again to ask how it ended; `None` when it
    /// has no reason to.
    fn awaits_source(&self, window: Duration) -> Option<Instant> {
        match self.lost {
            None => Some(self.said + GOODBYE),
            Some(lost) => self.ready.then(|| lost + window),
        }
    }
}

/// Sends a message; the link is lost when that fails.
async fn send(stream: &mut FrameSender, events: &Events, message: &FromTarget) {
    let version = VERSIONS.newest();
    let sent = match message.to_payload(version) {
        Ok(payload) => stream
            .send(FrameKind::FromTarget, version, &payload)
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        tracing::debug!(error, "the source cannot be told");
        events.tell(Happening::FromLink(events.number, Event::LinkLost));
    }
}
