//! What the target's driver hears, and from whom: links come and go, and each has a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::FromSource;
use tokio::sync::{Notify, mpsc, oneshot};

use super::MAX_HEARD;
use super::hello::settle;
use super::pages::Destination;
use super::target::Prepared;
use crate::target::Event;
use crate::transport::{CloseCode, FrameReceiver, Peer, Receiver, TargetLink, TransportError};

/// Between two looks at a door that nobody comes through.
const DOOR_PAUSE: Duration = Duration::from_millis(100);

/// What the driver hears of.
pub(super) enum Happening {
    Event(Event),
    /// Of the link of this number; of no interest when there is another one.
    FromLink(u64, Event),
    /// [`Command::Prepare`] is done, and this is where its pages go.
    Prepared(Prepared, Destination),
    /// The source closed the link of this number: for it all is said.
    Closed(u64),
    /// The source came again.
    Link(Box<TargetLink>),
}

/// What was heard of the source and waits for the machine. Whoever reads from the source waits while
/// it is too much, and QUIC's windows with him; what one read brings is heard in any case.
pub(super) struct Heard {
    happenings: mpsc::UnboundedReceiver<Happening>,
    backlog: Arc<Backlog>,
}

/// The end of [`Heard`] at which it comes in.
#[derive(Clone)]
pub(super) struct Told {
    sender: mpsc::UnboundedSender<Happening>,
    backlog: Arc<Backlog>,
}

#[derive(Default)]
struct Backlog {
    waiting: AtomicUsize,
    room: Notify,
}

/// Both ends of what is heard of a source.
pub(super) fn hearing() -> (Told, Heard) {
    let (sender, happenings) = mpsc::unbounded_channel();
    let backlog = Arc::<Backlog>::default();
    let told = Told {
        sender,
        backlog: backlog.clone(),
    };
    let heard = Heard {
        happenings,
        backlog,
    };
    (told, heard)
}

impl Heard {
    /// The next of it; `None` when nobody can tell any more.
    pub(super) async fn next(&mut self) -> Option<Happening> {
        let happening = self.happenings.recv().await?;
        if self.backlog.waiting.fetch_sub(1, Ordering::AcqRel) == MAX_HEARD {
            self.backlog.room.notify_waiters();
        }
        Some(happening)
    }
}

/// A way to tell the driver what happened on a link.
#[derive(Clone)]
pub(super) struct Events {
    pub(super) told: Told,
    /// The link's.
    pub(super) number: u64,
    pub(super) peer: Peer,
}

impl Events {
    pub(super) fn tell(&self, happening: Happening) {
        self.told.backlog.waiting.fetch_add(1, Ordering::AcqRel);
        // Without a receiver the migration is over.
        let _ = self.told.sender.send(happening);
    }

    /// Waits until the machine has caught up with what was told.
    pub(super) async fn room(&self) {
        let backlog = &self.told.backlog;
        loop {
            let room = backlog.room.notified();
            if backlog.waiting.load(Ordering::Acquire) < MAX_HEARD {
                return;
            }
            room.await;
        }
    }

    /// What came on the control stream is no message.
    fn malformed(&self, error: &dyn std::error::Error) -> Happening {
        let error = CodedError::from_error(ErrorCode::PeerProtocol, error);
        tracing::warn!(%error, "the source breaks the protocol");
        Happening::FromLink(self.number, Event::Malformed(error))
    }

    /// Closes the link, on which nonsense came; the source may make another one.
    pub(super) fn link_is_useless(&self) -> Happening {
        let peer = self.peer.clone();
        tokio::spawn(async move { peer.close(CloseCode::Protocol, "").await });
        Happening::FromLink(self.number, Event::LinkLost)
    }
}

/// Takes in the links that the source makes after the first, until whoever holds the other end of
/// `shutting` drops it.
pub(super) async fn await_again(
    mut receiver: Receiver,
    sender: mpsc::UnboundedSender<Happening>,
    mut shutting: oneshot::Receiver<()>,
) -> Receiver {
    tokio::select! {
        () = take_in(&mut receiver, sender) => {}
        _ = &mut shutting => return receiver,
    }
    // There is nothing more to take in.
    let _ = shutting.await;
    receiver
}

async fn take_in(receiver: &mut Receiver, sender: mpsc::UnboundedSender<Happening>) {
    const PATIENCE: Duration = Duration::from_secs(3600);
    loop {
        match receiver.accept_resumed(PATIENCE).await {
            Ok(mut link) => {
                if let Err(error) = settle(&mut link.control).await {
                    tracing::debug!(%error, "the source came again and did not greet");
                    continue;
                }
                if sender.send(Happening::Link(Box::new(link))).is_err() {
                    return;
                }
            }
            Err(TransportError::ClosedHere) => return,
            Err(error) => {
                tracing::debug!(%error, "the source did not come again");
                tokio::time::sleep(DOOR_PAUSE).await;
            }
        }
    }
}

/// Turns what the source says into events, until the link ends.
pub(super) async fn listen(mut control: FrameReceiver, events: Events) {
    loop {
        events.room().await;
        let event = match control.next().await {
            Ok(frame) => match FromSource::from_frame(&frame) {
                Ok(message) => Event::Control(message),
                Err(error) => return events.tell(events.malformed(&error)),
            },
            Err(error @ TransportError::Frame { .. }) => {
                return events.tell(events.malformed(&error));
            }
            Err(
                TransportError::Closed {
                    code: CloseCode::Done,
                    ..
                }
                | TransportError::StreamEnded {
                    code: CloseCode::Done,
                    ..
                },
            ) => return events.tell(Happening::Closed(events.number)),
            Err(error) => {
                tracing::debug!(%error, "the link to the source has ended");
                Event::LinkLost
            }
        };
        let over = matches!(event, Event::LinkLost);
        events.tell(Happening::FromLink(events.number, event));
        if over {
            return;
        }
    }
}
