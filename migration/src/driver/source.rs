//! The source's driver: gives a running guest away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::{Frame, FrameKind};
use godwit_proto::migrate::{FromSource, FromTarget, Offer, PageRun, VERSIONS};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::fault_stream::FaultStream;
use super::hello::settle;
use super::rounds::Rounds;
use super::{MAX_HEARD, coded, digest_seed, first_frame, verify};
use crate::PageSet;
use crate::fault::Faults;
use crate::options::{self, Options};
use crate::page::{Compression, DEFAULT_COPIES_BYTES, DigestTable, SentPages};
use crate::ports::{DirtyLog, GuestMemory, Pausable, PortError};
use crate::report::{Outcome, Progress, Receipt};
use crate::source::{Command, Event, Request, Source, Step};
use crate::transport::{
    CloseCode, Dialer, FrameReceiver, FrameSender, Peer, SourceLink, TransportError,
};

/// A guest that is moved away.
#[derive(Clone)]
pub struct SourceGuest {
    /// Its memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The log of what it writes.
    pub log: Arc<dyn DirtyLog>,
    /// The guest itself.
    pub guest: Arc<dyn Pausable>,
    /// What the target had of it when the guest came from there, if the offer says that it came.
    pub had: Option<Arc<DigestTable>>,
    /// Takes this part of their time from its vCPUs, percent.
    pub throttle: Arc<dyn Fn(u8) -> Result<(), PortError> + Send + Sync>,
}

/// How a migration is watched and stopped from outside.
pub struct Controls {
    /// Set to `true` to cancel.
    pub cancel: watch::Receiver<bool>,
    /// Is given the progress, some times a second.
    pub progress: watch::Sender<Option<Progress>>,
    /// What is to go wrong on purpose.
    pub faults: Faults,
    /// Who says when the guest may be handed over; `None`: it may at any moment.
    pub window: Option<Window>,
}

/// How the source asks whether the guest may be handed over.
pub struct Window {
    /// Set to `true` when the source would hand it over.
    pub asked: watch::Sender<bool>,
    /// Turns to `true` when it may.
    pub opened: watch::Receiver<bool>,
}

/// How long the target has to take what was said last.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How a link that was cut is made again.
pub struct Way {
    /// Whoever made the first.
    pub dialer: Arc<Dialer>,
    /// Where the target listens.
    pub address: SocketAddr,
}

/// Between two tries to reach a target.
const REDIAL_PAUSE: Duration = Duration::from_millis(250);

/// Moves `guest` over `link`, and returns the receipt when it is over, whatever became of it. Unless the
/// receipt says that it was moved, the guest runs here as before.
///
/// Needs tokio's multi-threaded runtime. `options` have been checked.
pub async fn migrate(
    link: SourceLink,
    way: Way,
    guest: SourceGuest,
    offer: Offer,
    options: Options,
    request: Request,
    mut controls: Controls,
) -> Receipt {
    let begin = Instant::now();
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let (said, mut heard) = mpsc::channel(MAX_HEARD);
    let digests = guest
        .had
        .clone()
        .unwrap_or_else(|| Arc::new(DigestTable::new(offer.pages, digest_seed(&offer))));
    let mut driver = Driver {
        pages: offer.pages,
        sent: Arc::new(SentPages::new(digests, DEFAULT_COPIES_BYTES)),
        compression: match options.compression {
            options::Compression::Auto => Compression::Auto,
            options::Compression::Off => Compression::Off,
            options::Compression::Level(level) => Compression::Level(level),
        },
        guest,
        way,
        sender,
        said,
        live: None,
        number: 0,
        redialling: None,
        faults: controls.faults,
        window: controls.window,
    };
    driver.connect(link);
    let (mut machine, commands) = Source::start(offer, options, request, begin.elapsed());
    driver.carry_out(commands).await;
    let mut show = tokio::time::interval(PROGRESS_EVERY);
    let mut cancellable = true;
    while !machine.is_finished() {
        let due = machine
            .deadline()
            .map_or(begin + Duration::from_secs(86_400), |at| begin + at);
        let happening = tokio::select! {
            happening = inbox.recv() => happening.expect("the driver holds a sender"),
            Some(happening) = heard.recv() => happening,
            // Read here and not by a task of its own: a vCPU waits.
            event = driver.next_request() => Happening::Event(event),
            () = sleep_until(TokioInstant::from_std(due)) => Happening::Event(Event::Tick),
            changed = controls.cancel.changed(), if cancellable => {
                cancellable = false;
                if changed.is_err() || !*controls.cancel.borrow() {
                    continue;
                }
                Happening::Event(Event::Cancel)
            }
            _ = show.tick() => {
                // Nobody may watch.
                let _ = controls.progress.send(Some(machine.progress()));
                continue;
            }
        };
        if let Some(event) = driver.take(happening) {
            let commands = machine.handle(event, begin.elapsed());
            driver.carry_out(commands).await;
        }
    }
    let mut receipt = machine.receipt();
    if receipt.outcome == Some(Outcome::Completed) {
        let of_link = |happening| match happening {
            Happening::FromLink(number, event) if number == driver.number => Some(event),
            _ => None,
        };
        let after_resume = first_frame::heard(&mut heard, of_link).await;
        // More than the whole migration took cannot be true.
        if let Some(after_resume) = after_resume.filter(|&time| time <= begin.elapsed()) {
            receipt.note_first_frame(after_resume);
        }
    }
    driver.end().await;
    receipt
}

/// What the driver hears of.
enum Happening {
    Event(Event),
    /// Of the link of this number; of no interest when there is another one.
    FromLink(u64, Event),
    /// [`Command::Redial`] is done.
    Link(Box<SourceLink>),
}

/// Turns what the target says into events, until the link ends.
async fn listen(mut control: FrameReceiver, number: u64, sender: mpsc::Sender<Happening>) {
    loop {
        let event = from_target(control.next().await);
        let over = matches!(event, Event::LinkLost);
        let told = sender.send(Happening::FromLink(number, event)).await;
        if told.is_err() || over {
            return;
        }
    }
}

fn from_target(frame: Result<Frame, TransportError>) -> Event {
    match frame {
        Ok(frame) => match FromTarget::from_frame(&frame) {
            Ok(message) => Event::Control(message),
            Err(error) => {
                tracing::warn!(%error, "the target breaks the protocol");
                Event::LinkLost
            }
        },
        Err(error) => {
            tracing::debug!(%error, "the link to the target has ended");
            Event::LinkLost
        }
    }
}

/// A link that is up, as far as is known.
struct Live {
    control: FrameSender,
    rounds: Rounds,
    faults: FaultStream,
    /// `None` once nothing can be read from it.
    requests: Option<FrameReceiver>,
    peer: Peer,
    listener: JoinHandle<()>,
}

struct Driver {
    guest: SourceGuest,
    pages: u64,
    sent: Arc<SentPages>,
    compression: Compression,
    way: Way,
    sender: mpsc::UnboundedSender<Happening>,
    /// For what the target says.
    said: mpsc::Sender<Happening>,
    live: Option<Live>,
    /// The number of the last link.
    number: u64,
    redialling: Option<JoinHandle<()>>,
    faults: Faults,
    window: Option<Window>,
}

impl Driver {
    /// What the machine is to hear of it.
    fn take(&mut self, happening: Happening) -> Option<Event> {
        match happening {
            Happening::Event(event) => Some(event),
            Happening::FromLink(number, event) if number == self.number && self.live.is_some() => {
                if let Event::Control(FromTarget::Accept(accept)) = &event
                    && !accept.retained
                {
                    self.sent.digests().forget(0, self.pages);
                }
                Some(event)
            }
            Happening::FromLink(..) => None,
            Happening::Link(link) => {
                self.connect(*link);
                Some(Event::LinkRestored)
            }
        }
    }

    /// Uses `link` from now on.
    fn connect(&mut self, link: SourceLink) {
        self.number += 1;
        let memory = &self.guest.memory;
        let control = link.control.receiver;
        self.live = Some(Live {
            control: link.control.sender,
            rounds: Rounds::start(link.bulk, memory, &self.sent, self.compression),
            faults: FaultStream::new(link.fault.sender, &self.sent),
            requests: Some(link.fault.receiver),
            peer: link.peer,
            listener: tokio::spawn(listen(control, self.number, self.said.clone())),
        });
    }

    /// Drops the link with all that is queued on it.
    fn disconnect(&mut self) {
        if let Some(live) = self.live.take() {
            live.listener.abort();
            live.rounds.stop_sending();
            tokio::spawn(async move { live.peer.close(CloseCode::Abandoned, "").await });
        }
    }

    /// The next request of the target for pages.
    async fn next_request(&mut self) -> Event {
        let Some(live) = &mut self.live else {
            return std::future::pending().await;
        };
        let Some(requests) = &mut live.requests else {
            return std::future::pending().await;
        };
        let event = from_target(requests.next().await);
        if matches!(event, Event::Control(FromTarget::PageRequest(_))) {
            return event;
        }
        live.requests = None;
        Event::LinkLost
    }

    fn redial(&mut self) {
        self.disconnect();
        let (dialer, address) = (self.way.dialer.clone(), self.way.address);
        let sender = self.sender.clone();
        self.redialling = Some(tokio::spawn(async move {
            // Ends with the migration, whose recovery window bounds it.
            loop {
                match dialer.resume(address).await {
                    Ok(mut link) => match settle(&mut link.control).await {
                        Ok(_) => {
                            let _ = sender.send(Happening::Link(Box::new(link)));
                            return;
                        }
                        Err(error) => tracing::debug!(%error, "the target does not greet"),
                    },
                    Err(error) => tracing::debug!(%error, "the target cannot be reached"),
                }
                tokio::time::sleep(REDIAL_PAUSE).await;
            }
        }));
    }

    /// It is over.
    async fn end(mut self) {
        if let Some(redialling) = self.redialling.take() {
            redialling.abort();
        }
        if let Some(mut live) = self.live.take() {
            live.listener.abort();
            live.rounds.stop_sending();
            // Else the reason might be lost with the link.
            if live.control.finish_within(LAST_WORDS).await {
                live.peer.leave().await;
            } else {
                live.peer
                    .close(CloseCode::Done, "the migration is over")
                    .await;
            }
            live.rounds.end().await;
        }
    }

    async fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            let Some(command) = self.faults.before(command, |event| self.tell(event)).await else {
                continue;
            };
            match command {
                Command::SendControl(message) => self.say(&message).await,
                Command::StartDirtyLog => {
                    let log = self.guest.log.clone();
                    self.work(Step::StartDirtyLog, move || {
                        log.start()?;
                        Ok(Event::DirtyLogStarted)
                    });
                }
                Command::CollectDirty => {
                    let (log, pages) = (self.guest.log.clone(), self.pages);
                    self.work(Step::CollectDirty, move || {
                        let mut dirty = PageSet::empty(pages);
                        log.collect(&mut dirty)?;
                        Ok(Event::Dirty(dirty))
                    });
                }
                Command::SendRound { round, pages, last } => self.send_round(round, pages, last),
                Command::StopSending => {
                    if let Some(live) = &self.live {
                        live.rounds.stop_sending();
                    }
                }
                Command::SetThrottle(percent) => {
                    if let Err(error) = (self.guest.throttle)(percent) {
                        self.failed(Step::SetThrottle, &*error);
                    }
                }
                Command::OpenWindow => self.open_window(),
                Command::CloseWindow => {}
                Command::PauseGuest => {
                    let guest = self.guest.guest.clone();
                    self.work(Step::PauseGuest, move || {
                        guest.pause()?;
                        Ok(Event::Paused)
                    });
                }
                Command::SaveState => {
                    let guest = self.guest.guest.clone();
                    self.work(Step::SaveState, move || Ok(Event::Saved(guest.save()?)));
                }
                Command::ResumeGuest => {
                    let guest = self.guest.guest.clone();
                    self.work(Step::ResumeGuest, move || {
                        guest.resume()?;
                        Ok(Event::Resumed)
                    });
                }
                Command::StopDirtyLog => {
                    let log = self.guest.log.clone();
                    spawn_blocking(move || {
                        if let Err(error) = log.stop() {
                            tracing::warn!(%error, "the dirty log goes on");
                        }
                    });
                }
                Command::DigestMemory(pages) => {
                    let memory = self.guest.memory.clone();
                    self.work(Step::DigestMemory, move || {
                        Ok(Event::Digests(verify::digests(&*memory, &pages)?))
                    });
                }
                Command::SendPages { run, requested } => self.send_pages(run, requested).await,
                Command::Redial => self.redial(),
                Command::Relinquish(epoch) => {
                    // When the kernel refuses, the target cannot take over either, and says so.
                    if let Err(error) = self.guest.guest.relinquish() {
                        tracing::error!(%error, ?epoch, "the guest's disks are not given up");
                    }
                }
                Command::FreeMemory | Command::CancelTooLate | Command::Finish(_) => {}
            }
        }
    }

    /// Asks whether the guest may be handed over. Who never answers is bounded by the migration's time.
    fn open_window(&self) {
        let Some(window) = &self.window else {
            return self.tell(Event::WindowOpened);
        };
        window.asked.send_replace(true);
        let (mut opened, sender) = (window.opened.clone(), self.sender.clone());
        tokio::spawn(async move {
            let event = match opened.wait_for(|&open| open).await {
                Ok(_) => Event::WindowOpened,
                Err(_) => Event::Failed {
                    step: Step::OpenWindow,
                    error: CodedError::new(ErrorCode::Cancelled, "nobody lets the guest go"),
                },
            };
            let _ = sender.send(Happening::Event(event));
        });
    }

    async fn say(&mut self, message: &FromSource) {
        let Some(live) = &mut self.live else { return };
        let version = VERSIONS.newest();
        let sent = match message.to_payload(version) {
            Ok(payload) => live
                .control
                .send(FrameKind::FromSource, version, &payload)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!(error, "the target cannot be told");
            self.tell_of_link(Event::LinkLost);
        }
    }

    fn send_round(&self, round: u32, pages: PageSet, last: bool) {
        let Some(live) = &self.live else { return };
        let armed = if last {
            Ok(())
        } else {
            self.guest.log.arm(&pages)
        };
        if let Err(error) = armed {
            return self.failed(Step::SendRound, &*error);
        }
        let (sending, sender) = (live.rounds.send(round, pages), self.sender.clone());
        tokio::spawn(async move {
            let event = match sending.await {
                Ok(sent) => Event::RoundSent(sent),
                Err(error) => Event::Failed {
                    step: Step::SendRound,
                    error,
                },
            };
            let _ = sender.send(Happening::Event(event));
        });
    }

    /// Sends pages after the guest: at once when somebody waits for them.
    async fn send_pages(&mut self, run: PageRun, requested: bool) {
        let Some(live) = &mut self.live else { return };
        let pages_sent = move |sent| match sent {
            Ok(bytes) => Event::PagesSent { run, bytes },
            Err(error) => Event::Failed {
                step: Step::SendPages,
                error,
            },
        };
        if requested {
            let sent = live.faults.send(&*self.guest.memory, run).await;
            self.tell_of_link(pages_sent(sent));
        } else {
            let pushing = live.rounds.push(run);
            let (sender, number) = (self.sender.clone(), self.number);
            tokio::spawn(async move {
                let event = pages_sent(pushing.await);
                let _ = sender.send(Happening::FromLink(number, event));
            });
        }
    }

    /// Runs `work` on a thread of its own.
    fn work(&self, step: Step, work: impl FnOnce() -> Result<Event, PortError> + Send + 'static) {
        let sender = self.sender.clone();
        spawn_blocking(move || {
            let event = work().unwrap_or_else(|error| Event::Failed {
                step,
                error: coded(ErrorCode::Other, &*error),
            });
            let _ = sender.send(Happening::Event(event));
        });
    }

    fn failed(&self, step: Step, error: &(dyn std::error::Error + 'static)) {
        self.tell(Event::Failed {
            step,
            error: coded(ErrorCode::Other, error),
        });
    }

    fn tell(&self, event: Event) {
        // The receiver outlives the driver.
        let _ = self.sender.send(Happening::Event(event));
    }

    fn tell_of_link(&self, event: Event) {
        let _ = self.sender.send(Happening::FromLink(self.number, event));
    }
}
