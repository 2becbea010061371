//! A device's worker: one named thread that sleeps in epoll until something it serves is ready.
//!
//! ```text
//! Worker::spawn(name, handler) -> waiting <--> handler.handle(token) -> stop() gives the handler back
//! ```
//!
//! The handler owns everything the hot path touches (queues, files), so it takes no lock. Stopping
//! wakes the thread through an eventfd, lets the running [`Handler::handle`] return, joins, and
//! hands the handler back with its queues as they stand. Nothing here polls or spins.
//!
//! A handler bounds what it does per call: it stops early when [`Poller::stop_requested`] is set,
//! and asks to be called again with [`Poller::again`] when it leaves work behind.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The token of the stop event; handlers may use every other value.
const STOP: u64 = u64::MAX;
/// How many ready sources one wait takes. More are taken by the next wait.
const BATCH: usize = 16;

/// What a [`Worker`] serves.
pub trait Handler: Send + 'static {
    /// What to wait for. Asked once, when the worker starts; each fd must stay open as long as the
    /// handler lives, and an fd may be named once only.
    fn sources(&self) -> Vec<Source>;
    /// Serves the source registered with `token`. `Break` ends the thread: nothing is served any
    /// more, and the handler waits to be taken back by [`Worker::stop`].
    fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()>;
}

/// A file descriptor to wait for, and the token that [`Handler::handle`] is then given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    fd: RawFd,
    token: u64,
    events: EventSet,
}

impl Source {
    /// A doorbell or another eventfd that is **never read**: each write to it, and a nonzero count
    /// at the start, calls the handler once. Not reading it saves a system call per doorbell.
    pub fn kick(event: &EventFd, token: u64) -> Self {
        Self {
            fd: event.as_raw_fd(),
            token,
            events: EventSet::IN | EventSet::EDGE_TRIGGERED,
        }
    }

    /// Calls the handler as long as `fd` can be read (or has hung up). A handler that cannot take
    /// the data now must [`Poller::pause`] the source, or the worker spins.
    pub fn readable(fd: &impl AsRawFd, token: u64) -> Self {
        Self {
            fd: fd.as_raw_fd(),
            token,
            events: EventSet::IN,
        }
    }

    /// Calls the handler as long as `fd` can be written; pause it while there is nothing to write.
    pub fn writable(fd: &impl AsRawFd, token: u64) -> Self {
        Self {
            fd: fd.as_raw_fd(),
            token,
            events: EventSet::OUT,
        }
    }

    /// Calls the handler once each time `fd` becomes readable anew; it then reads until
    /// `WouldBlock`, or comes back to the rest by itself.
    pub fn readable_edge(fd: &impl AsRawFd, token: u64) -> Self {
        Self {
            fd: fd.as_raw_fd(),
            token,
            events: EventSet::IN | EventSet::EDGE_TRIGGERED,
        }
    }
}

/// What a handler may ask of its worker.
pub struct Poller {
    epoll: Epoll,
    sources: Vec<Source>,
    stop: Arc<AtomicBool>,
    again: Vec<u64>,
}

impl Poller {
    fn new(sources: Vec<Source>, stop_event: &EventFd, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let add = |fd, events, token| {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
        };
        add(stop_event.as_raw_fd(), EventSet::IN, STOP)?;
        for source in &sources {
            assert_ne!(source.token, STOP, "the stop token is reserved");
            add(source.fd, source.events, source.token)?;
        }
        Ok(Self {
            epoll,
            sources,
            stop,
            again: Vec::new(),
        })
    }

    /// True once the worker is being stopped: return soon, what is left stays in the queue.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Calls the handler with `token` once more, after the other ready sources had their turn.
    pub fn again(&mut self, token: u64) {
        if !self.again.contains(&token) {
            self.again.push(token);
        }
    }

    /// Does not wait for the source `token` until [`Poller::unpause`].
    ///
    /// # Errors
    /// The kernel's answer, for instance when the fd was closed.
    pub fn pause(&mut self, token: u64) -> io::Result<()> {
        self.modify(token, false)
    }

    /// Waits for the source `token` again. An edge source that is ready already is reported.
    ///
    /// # Errors
    /// The kernel's answer, for instance when the fd was closed.
    pub fn unpause(&mut self, token: u64) -> io::Result<()> {
        self.modify(token, true)
    }

    /// Serves one more source from now on.
    ///
    /// # Errors
    /// The kernel's answer; `AlreadyExists` when the token or the fd is served already.
    pub fn add(&mut self, source: Source) -> io::Result<()> {
        assert_ne!(source.token, STOP, "the stop token is reserved");
        if self.sources.iter().any(|s| s.token == source.token) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let event = EpollEvent::new(source.events, source.token);
        self.epoll.ctl(ControlOperation::Add, source.fd, event)?;
        self.sources.push(source);
        Ok(())
    }

    /// Serves the source `token` no more; to be called before its fd is closed.
    pub fn remove(&mut self, token: u64) {
        // Paused already, or closed: it is out of epoll either way.
        let _ = self.pause(token);
        self.sources.retain(|source| source.token != token);
        self.again.retain(|again| *again != token);
    }

    fn modify(&mut self, token: u64, wait: bool) -> io::Result<()> {
        let source = self
            .sources
            .iter()
            .find(|s| s.token == token)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        // Errors and hang-ups are reported even for an empty set, so a paused source leaves epoll.
        let (operation, tolerated) = if wait {
            (ControlOperation::Add, io::ErrorKind::AlreadyExists)
        } else {
            (ControlOperation::Delete, io::ErrorKind::NotFound)
        };
        let event = EpollEvent::new(source.events, token);
        match self.epoll.ctl(operation, source.fd, event) {
            Err(error) if error.kind() != tolerated => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `handler` until it is stopped or breaks.
    fn run(&mut self, handler: &mut impl Handler) -> io::Result<()> {
        let mut ready = [EpollEvent::default(); BATCH];
        loop {
            let again = std::mem::take(&mut self.again);
            let timeout = if again.is_empty() { -1 } else { 0 };
            let count = match self.epoll.wait(timeout, &mut ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                other => other?,
            };
            let tokens = ready.iter().take(count).map(EpollEvent::data);
            for token in tokens.chain(again) {
                if self.stop_requested() || token == STOP {
                    return Ok(());
                }
                if handler.handle(token, self).is_break() {
                    return Ok(());
                }
            }
        }
    }
}

/// A running worker thread. Dropping it ends the thread, and the handler with it.
#[derive(Debug)]
pub struct Worker<H> {
    stop: Arc<AtomicBool>,
    stop_event: EventFd,
    /// `None` only after [`Worker::stop`].
    thread: Option<JoinHandle<H>>,
}

impl<H: Handler> Worker<H> {
    /// Starts a thread called `name` (the kernel shows the first 15 bytes) that runs `handler`.
    ///
    /// # Errors
    /// The kernel's answer when there is no thread or no fd to be had; `handler` is dropped then.
    pub fn spawn(name: &str, mut handler: H) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stop_event = EventFd::new(EFD_NONBLOCK)?;
        let mut poller = Poller::new(handler.sources(), &stop_event, stop.clone())?;
        let shown = name.to_owned();
        let thread = Builder::new().name(shown.clone()).spawn(move || {
            if let Err(error) = poller.run(&mut handler) {
                tracing::error!(worker = shown, %error, "device worker cannot wait, it stops");
            }
            handler
        })?;
        Ok(Self {
            stop,
            stop_event,
            thread: Some(thread),
        })
    }

    /// Ends the thread, waits for it and gives the handler back.
    ///
    /// # Panics
    /// When the handler panicked: the panic continues here, its queues are lost with it.
    pub fn stop(mut self) -> H {
        self.request_stop();
        let thread = self.thread.take().expect("only this function takes it");
        match thread.join() {
            Ok(handler) => handler,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl<H> Worker<H> {
    /// Tells the thread to end without waiting for it, so that several can end side by side.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // It only fails when the counter is full, and then the thread is awake already.
        let _ = self.stop_event.write(1);
    }
}

impl<H> Drop for Worker<H> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.request_stop();
            // A panic in the handler was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Probe {
        kick: EventFd,
        stream: UnixStream,
        seen: Sender<u64>,
        repeat: u32,
        break_on: Option<u64>,
    }

    impl Handler for Probe {
        fn sources(&self) -> Vec<Source> {
            vec![
                Source::kick(&self.kick, 1),
                Source::readable(&self.stream, 2),
            ]
        }
        fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()> {
            self.seen.send(token).unwrap();
            if token == 2 {
                let mut byte = [0];
                if self.stream.read(&mut byte).unwrap() == 0 || byte[0] == b'p' {
                    poller.pause(2).unwrap();
                }
            }
            if token == 1 && self.repeat > 0 {
                self.repeat -= 1;
                poller.again(1);
                poller.unpause(2).unwrap();
            }
            match self.break_on {
                Some(t) if t == token => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }

    fn probe() -> (Probe, EventFd, UnixStream, Receiver<u64>) {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let (seen, receiver) = channel();
        let bell = kick.try_clone().unwrap();
        let probe = Probe {
            kick,
            stream: near,
            seen,
            repeat: 0,
            break_on: None,
        };
        (probe, bell, far, receiver)
    }

    #[test]
    fn each_kick_calls_the_handler_though_the_eventfd_is_never_read() {
        let (probe, bell, _far, seen) = probe();
        let worker = Worker::spawn("test-worker", probe).unwrap();
        for _ in 0..100 {
            bell.write(1).unwrap();
            assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
        }
        worker.stop();
        assert!(seen.try_recv().is_err());
    }

    #[test]
    fn a_kick_before_the_start_is_not_lost_and_one_after_the_stop_waits_for_the_next_start() {
        let (probe, bell, _far, seen) = probe();
        bell.write(1).unwrap();
        let worker = Worker::spawn("test-worker", probe).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
        let probe = worker.stop();
        bell.write(1).unwrap();
        assert!(seen.try_recv().is_err());
        let worker = Worker::spawn("test-worker", probe).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
        worker.stop();
    }

    #[test]
    fn a_paused_source_is_silent_until_it_is_unpaused() {
        let (mut probe, bell, mut far, seen) = probe();
        probe.repeat = 1;
        let worker = Worker::spawn("test-worker", probe).unwrap();
        far.write_all(b"pab").unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(2));
        assert!(seen.recv_timeout(Duration::from_millis(20)).is_err());
        // The kick unpauses it and asks to be called again: both bytes and the repeat arrive.
        bell.write(1).unwrap();
        let mut tokens: Vec<u64> = (0..4)
            .map(|_| seen.recv_timeout(PATIENCE).unwrap())
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [1, 1, 2, 2]);
        // A hang-up is reported once and then silent, since the handler pauses the source.
        drop(far);
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(2));
        assert!(seen.recv_timeout(Duration::from_millis(20)).is_err());
        worker.stop();
    }

    #[test]
    fn a_handler_that_breaks_is_still_given_back() {
        let (mut probe, bell, _far, seen) = probe();
        probe.break_on = Some(1);
        let worker = Worker::spawn("test-worker", probe).unwrap();
        bell.write(1).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
        bell.write(1).unwrap();
        worker.request_stop();
        let probe = worker.stop();
        assert_eq!(probe.break_on, Some(1));
        assert!(seen.try_recv().is_err());
    }

    #[test]
    fn spawning_fails_without_a_thread_when_a_source_is_named_twice() {
        #[derive(Debug)]
        struct Twice(EventFd);
        impl Handler for Twice {
            fn sources(&self) -> Vec<Source> {
                vec![Source::kick(&self.0, 1), Source::kick(&self.0, 2)]
            }
            fn handle(&mut self, _: u64, _: &mut Poller) -> ControlFlow<()> {
                ControlFlow::Break(())
            }
        }
        let twice = Twice(EventFd::new(EFD_NONBLOCK).unwrap());
        let error = Worker::spawn("test-worker", twice).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
