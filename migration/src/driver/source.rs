//! The source's driver: gives a running guest away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::{FromSource, FromTarget, Offer, VERSIONS};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::rounds::Rounds;
use super::{MAX_HEARD, coded, digest_seed};
use crate::PageSet;
use crate::fault::Faults;
use crate::options::{self, Options};
use crate::page::{Compression, DEFAULT_COPIES_BYTES, DigestTable, SentPages};
use crate::ports::{DirtyLog, GuestMemory, Pausable, PortError};
use crate::report::{Progress, Receipt};
use crate::source::{Command, Event, Request, Source, Step};
use crate::transport::{CloseCode, FrameReceiver, FrameSender, SourceLink};

/// A guest that is moved away.
#[derive(Clone)]
pub struct SourceGuest {
    /// Its memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The log of what it writes.
    pub log: Arc<dyn DirtyLog>,
    /// The guest itself.
    pub guest: Arc<dyn Pausable>,
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
}

/// How long the target has to take what was said last.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Moves `guest` over `link`, and returns the receipt when it is over, whatever became of it. Unless the
/// receipt says that it was moved, the guest runs here as before.
///
/// Needs tokio's multi-threaded runtime. `options` have been checked.
pub async fn migrate(
    link: SourceLink,
    guest: SourceGuest,
    offer: Offer,
    options: Options,
    request: Request,
    mut controls: Controls,
) -> Receipt {
    let begin = Instant::now();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let pages = offer.pages;
    let digests = Arc::new(DigestTable::new(pages, digest_seed(&offer)));
    let sent = Arc::new(SentPages::new(digests, DEFAULT_COPIES_BYTES));
    let compression = match options.compression {
        options::Compression::Auto => Compression::Auto,
        options::Compression::Off => Compression::Off,
        options::Compression::Level(level) => Compression::Level(level),
    };
    let rounds = Rounds::start(link.bulk, &guest.memory, &sent, compression);
    let (said, mut heard) = mpsc::channel(MAX_HEARD);
    let listener = tokio::spawn(listen(link.control.receiver, said));
    let (mut machine, commands) = Source::start(offer, options, request, begin.elapsed());
    let mut driver = Driver {
        guest,
        pages,
        events,
        control: link.control.sender,
        rounds,
        faults: controls.faults,
    };
    driver.carry_out(commands).await;
    let mut show = tokio::time::interval(PROGRESS_EVERY);
    let mut cancellable = true;
    while !machine.is_finished() {
        let due = machine
            .deadline()
            .map_or(begin + Duration::from_secs(86_400), |at| begin + at);
        let event = tokio::select! {
            event = inbox.recv() => event.expect("the driver holds a sender"),
            Some(event) = heard.recv() => event,
            () = sleep_until(TokioInstant::from_std(due)) => Event::Tick,
            changed = controls.cancel.changed(), if cancellable => {
                cancellable = false;
                if changed.is_err() || !*controls.cancel.borrow() {
                    continue;
                }
                Event::Cancel
            }
            _ = show.tick() => {
                // Nobody may watch.
                let _ = controls.progress.send(Some(machine.progress()));
                continue;
            }
        };
        let commands = machine.handle(event, begin.elapsed());
        driver.carry_out(commands).await;
    }
    listener.abort();
    driver.rounds.stop_sending();
    // Else the reason might be lost with the link.
    driver.control.finish_within(LAST_WORDS).await;
    link.peer
        .close(CloseCode::Done, "the migration is over")
        .await;
    driver.rounds.end().await;
    machine.receipt()
}

/// Turns what the target says into events, until the link ends.
async fn listen(mut control: FrameReceiver, events: mpsc::Sender<Event>) {
    loop {
        let event = match control.next().await {
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
        };
        let over = matches!(event, Event::LinkLost);
        if events.send(event).await.is_err() || over {
            return;
        }
    }
}

struct Driver {
    guest: SourceGuest,
    pages: u64,
    events: mpsc::UnboundedSender<Event>,
    control: FrameSender,
    rounds: Rounds,
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
                Command::StopSending => self.rounds.stop_sending(),
                Command::SetThrottle(percent) => {
                    if let Err(error) = (self.guest.throttle)(percent) {
                        self.failed(Step::SetThrottle, &*error);
                    }
                }
                // There is no control plane yet to announce a change of owner to.
                Command::OpenWindow => self.tell(Event::WindowOpened),
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
                // This driver has no way to dial again: the window passes, and the outcome is told as
                // unconfirmed.
                Command::Redial => {}
                other @ (Command::DigestMemory(_) | Command::SendPages { .. }) => {
                    self.not_offered(&other);
                }
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

    async fn say(&mut self, message: &FromSource) {
        let version = VERSIONS.newest();
        let sent = match message.to_payload(version) {
            Ok(payload) => self
                .control
                .send(FrameKind::FromSource, version, &payload)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!(error, "the target cannot be told");
            self.tell(Event::LinkLost);
        }
    }

    fn send_round(&self, round: u32, pages: PageSet, last: bool) {
        let armed = if last {
            Ok(())
        } else {
            self.guest.log.arm(&pages)
        };
        if let Err(error) = armed {
            return self.failed(Step::SendRound, &*error);
        }
        let (sending, events) = (self.rounds.send(round, pages), self.events.clone());
        tokio::spawn(async move {
            let event = match sending.await {
                Ok(sent) => Event::RoundSent(sent),
                Err(error) => Event::Failed {
                    step: Step::SendRound,
                    error,
                },
            };
            let _ = events.send(event);
        });
    }

    /// Runs `work` on a thread of its own.
    fn work(&self, step: Step, work: impl FnOnce() -> Result<Event, PortError> + Send + 'static) {
        let events = self.events.clone();
        spawn_blocking(move || {
            let event = work().unwrap_or_else(|error| Event::Failed {
                step,
                error: coded(ErrorCode::Other, &*error),
            });
            let _ = events.send(event);
        });
    }

    fn failed(&self, step: Step, error: &(dyn std::error::Error + 'static)) {
        self.tell(Event::Failed {
            step,
            error: coded(ErrorCode::Other, error),
        });
    }

    /// Only options that this build does not offer lead to these commands.
    fn not_offered(&self, command: &Command) {
        let step = match command {
            Command::DigestMemory(_) => Step::DigestMemory,
            _ => Step::SendPages,
        };
        let error = CodedError::new(ErrorCode::Other, "this mode of migration is not built");
        self.tell(Event::Failed { step, error });
    }

    fn tell(&self, event: Event) {
        // The receiver outlives the driver.
        let _ = self.events.send(event);
    }
}
