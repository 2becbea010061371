//! What happens, told line by line to who watches.
//!
//! A watch is pulled: its next lines are made when the connection has room for them. Nothing is
//! queued for a watcher but a revision, so one that is slow costs no more than one that is quick, and
//! is told to read everything anew when it has fallen too far behind. One that takes nothing at all
//! is cut by [`Guarded`](super::guarded).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use godwit_control_plane::state::{State, Watch as Changes};
use godwit_proto::api::{Event, WatchLine};
use godwit_proto::cluster::limits;
use godwit_proto::id::Revision;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::cluster::BoxFuture;
use super::connection::Connection;
use super::service::Api;

/// About as many changes are told in one piece.
const BATCH: usize = 256;

/// A watch that goes on from a revision.
pub(super) struct Watch {
    pub(super) api: Api,
    /// All up to here was told.
    pub(super) since: Revision,
    /// Whether changes are told beside events.
    pub(super) with_changes: bool,
    pub(super) changes: watch::Receiver<Revision>,
    pub(super) connection: Connection,
    /// Whether anything was told.
    pub(super) began: bool,
}

impl Watch {
    /// The next lines; a heartbeat when there is nothing for a while; `None` at the end.
    async fn next(mut self) -> (Option<Bytes>, Self) {
        let heartbeat = Instant::now() + self.api.options.heartbeat;
        loop {
            // What changes from here on is noticed below.
            self.changes.borrow_and_update();
            let lines = self.api.look(|state| {
                let (lines, next) = lines(state, self.since, self.with_changes);
                self.since = next;
                lines
            });
            if !lines.is_empty() {
                return (Some(self.told(&lines)), self);
            }
            // The first line comes at once: it says where the watch begins.
            if !self.began {
                return (Some(self.heartbeat()), self);
            }
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    return (None, self);
                },
                () = self.connection.stopped() => return (None, self),
                () = sleep_until(heartbeat) => return (Some(self.heartbeat()), self),
            }
        }
    }

    fn heartbeat(&mut self) -> Bytes {
        let revision = self.since.get();
        self.told(&[WatchLine::Heartbeat { revision }])
    }

    fn told(&mut self, lines: &[WatchLine]) -> Bytes {
        self.began = true;
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).expect("keys of these lines are text");
            text.push(b'\n');
        }
        text.into()
    }
}

/// What happened after `since`, or a part of it, and up to which revision that is.
fn lines(state: &State, since: Revision, with_changes: bool) -> (Vec<WatchLine>, Revision) {
    let resync = |next: Revision| {
        let revision = next.get();
        (vec![WatchLine::Resync { revision }], next)
    };
    let (changes, next) = match state.changes_since(since, BATCH) {
        Changes::Changes { changes, next } => (changes, next),
        Changes::Resync { next } => return resync(next),
    };
    if next == since {
        return (Vec::new(), next);
    }
    let all = state.events();
    let forgot_some = all.len() == limits::MAX_EVENTS;
    let oldest = state.events().next().map(|event| event.revision);
    if forgot_some && oldest.is_some_and(|oldest| oldest > since) {
        return resync(state.revision());
    }
    let mut events: Vec<Event> = all
        .rev()
        .skip_while(|event| event.revision > next)
        .take_while(|event| event.revision > since)
        .map(Event::from)
        .collect();
    events.reverse();
    let mut lines = Vec::new();
    let mut events = events.into_iter().peekable();
    for change in changes.iter().filter(|_| with_changes) {
        let revision = change.revision.get();
        while let Some(event) = events.next_if(|event| event.revision < revision) {
            lines.push(WatchLine::Event(event));
        }
        lines.push(WatchLine::Change {
            revision,
            object: change.object.into(),
            deleted: change.deleted,
        });
    }
    lines.extend(events.map(WatchLine::Event));
    // What was told was told up to here, also when the last of it is no line.
    if lines
        .last()
        .is_some_and(|line| revision_of(line) < next.get())
    {
        let revision = next.get();
        lines.push(WatchLine::Heartbeat { revision });
    }
    (lines, next)
}

const fn revision_of(line: &WatchLine) -> u64 {
    match line {
        WatchLine::Event(event) => event.revision,
        WatchLine::Change { revision, .. }
        | WatchLine::Heartbeat { revision }
        | WatchLine::Resync { revision } => *revision,
    }
}

/// A watch as the body of an answer.
pub(super) struct WatchBody {
    next: Option<BoxFuture<'static, (Option<Bytes>, Watch)>>,
}

impl WatchBody {
    pub(super) fn new(watch: Watch) -> Self {
        Self {
            next: Some(Box::pin(watch.next())),
        }
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let (lines, watch) = ready!(next.as_mut().poll(context));
        match lines {
            Some(lines) => {
                self.next = Some(Box::pin(watch.next()));
                Poll::Ready(Some(Ok(Frame::data(lines))))
            }
            None => {
                self.next = None;
                Poll::Ready(None)
            }
        }
    }
}
