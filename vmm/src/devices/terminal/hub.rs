//! A console shared by any number of clients on Unix sockets.
//!
//! ```text
//! HubSink --> outbox (bounded) --> history, and per client: backlog (bounded) --> socket
//! InputPort <-- held <------------------------------------------------------------ socket
//! ```
//!
//! Whoever writes output never waits: it goes into the outbox, and what does not fit there, or in
//! the backlog of a client that does not read, is lost and counted. A new client first gets the last
//! 64 KiB of output. Input comes from whichever client sends; while the port is full, no client is
//! read.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::virtio::worker::{Handler, Poller, Source, Worker};

use super::{InputPort, Sink};

/// Output that waits for the hub's thread, bytes.
const OUTBOX: usize = 64 << 10;
/// Output kept for clients to come, bytes.
const HISTORY: usize = 64 << 10;
/// Output that waits for one client, bytes.
const BACKLOG: usize = 256 << 10;
/// Clients at a time; more are turned away.
const MAX_CLIENTS: usize = 16;
/// Input read at a time, bytes.
const CHUNK: usize = 256;

const WAKE: u64 = 0;
const LISTENER: u64 = 1;
const SPACE: u64 = 2;
/// Each client has two tokens from here on, for reading and for writing.
const FIRST_CLIENT: u64 = 16;

/// What the sink, the hub's owner and its thread share.
struct Outbox {
    waiting: Mutex<Waiting>,
    wake: EventFd,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    output: VecDeque<u8>,
    clients: Vec<UnixStream>,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter means that it is awake already.
        let _ = self.wake.write(1);
    }
}

/// The output side: what is written here goes to every client.
#[derive(Clone)]
pub struct HubSink(Arc<Outbox>);

impl HubSink {
    /// A sink without clients; [`Hub::spawn`] gives it some. Until then it keeps 64 KiB.
    ///
    /// # Errors
    /// The kernel's answer when there is no eventfd to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Outbox {
            waiting: Mutex::default(),
            wake: EventFd::new(EFD_NONBLOCK)?,
            lost: AtomicU64::new(0),
        })))
    }

    /// How many bytes were lost: each client that missed one counts it.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Sink for HubSink {
    fn write(&mut self, bytes: &[u8]) {
        let mut waiting = self.0.waiting();
        let idle = waiting.output.is_empty();
        let lost = append(&mut waiting.output, bytes, OUTBOX);
        drop(waiting);
        self.0.lost.fetch_add(lost, Ordering::Relaxed);
        if idle {
            self.0.wake();
        }
    }
}

/// Appends what fits below `limit` and returns how many bytes did not.
fn append(queue: &mut VecDeque<u8>, bytes: &[u8], limit: usize) -> u64 {
    let fits = (limit - queue.len()).min(bytes.len());
    queue.extend(&bytes[..fits]);
    (bytes.len() - fits) as u64
}

/// The thread that serves the clients. Dropping it disconnects them.
pub struct Hub {
    outbox: Arc<Outbox>,
    _worker: Worker<Clients>,
}

impl Hub {
    /// Serves clients of `listener`, if there is one: they get what `sink` is given, and what they
    /// send goes to `port`, or nowhere without one.
    ///
    /// # Errors
    /// The kernel's answer when there is no thread or fd to be had.
    pub fn spawn(
        sink: &HubSink,
        listener: Option<UnixListener>,
        port: Option<Arc<dyn InputPort>>,
    ) -> io::Result<Self> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let space = match &port {
            Some(port) => Some(port.space().try_clone()?),
            None => None,
        };
        let clients = Clients {
            outbox: sink.0.clone(),
            listener,
            port,
            space,
            clients: Vec::new(),
            next: FIRST_CLIENT,
            history: VecDeque::new(),
            held: Vec::with_capacity(CHUNK),
        };
        Ok(Self {
            outbox: sink.0.clone(),
            _worker: Worker::spawn("console-hub", clients)?,
        })
    }

    /// Adds a client that is connected already.
    pub fn attach(&self, client: UnixStream) {
        let mut waiting = self.outbox.waiting();
        if waiting.clients.len() < MAX_CLIENTS {
            waiting.clients.push(client);
        }
        drop(waiting);
        self.outbox.wake();
    }
}

struct Client {
    /// Its token for reading; the one for writing follows.
    token: u64,
    reader: UnixStream,
    /// The same socket under an fd of its own, which is waited for only while there is a backlog.
    writer: UnixStream,
    backlog: VecDeque<u8>,
    /// Whether the writer is waited for.
    stuck: bool,
}

impl Client {
    fn new(token: u64, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            token,
            writer: stream.try_clone()?,
            reader: stream,
            backlog: VecDeque::new(),
            stuck: false,
        })
    }

    /// Writes as much of the backlog as the socket takes.
    fn flush(&mut self, poller: &mut Poller) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.writer.write(front) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let token = self.token + 1;
        match (self.backlog.is_empty(), self.stuck) {
            (false, false) => poller.add(Source::writable(&self.writer, token))?,
            (true, true) => poller.remove(token),
            _ => {}
        }
        self.stuck = !self.backlog.is_empty();
        Ok(())
    }
}

struct Clients {
    outbox: Arc<Outbox>,
    listener: Option<UnixListener>,
    port: Option<Arc<dyn InputPort>>,
    space: Option<EventFd>,
    clients: Vec<Client>,
    next: u64,
    history: VecDeque<u8>,
    /// Input that the port has not taken; no client is read while there is some.
    held: Vec<u8>,
}

impl Clients {
    /// Takes what the sink was given, and new clients that were attached.
    fn take_outbox(&mut self, poller: &mut Poller) {
        let Waiting { output, clients } = std::mem::take(&mut *self.outbox.waiting());
        let (front, back) = output.as_slices();
        for bytes in [front, back] {
            for client in &mut self.clients {
                let lost = append(&mut client.backlog, bytes, BACKLOG);
                self.outbox.lost.fetch_add(lost, Ordering::Relaxed);
            }
            self.history.extend(bytes);
        }
        let excess = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..excess);
        self.each_client(Client::flush, poller);
        for client in clients {
            self.admit(client, poller);
        }
    }

    fn admit(&mut self, stream: UnixStream, poller: &mut Poller) {
        if self.clients.len() >= MAX_CLIENTS {
            return;
        }
        let token = self.next;
        self.next += 2;
        let admitted = Client::new(token, stream).and_then(|mut client| {
            client.backlog.extend(&self.history);
            poller.add(Source::readable(&client.reader, token))?;
            self.clients.push(client);
            Ok(())
        });
        match admitted {
            Ok(()) if !self.held.is_empty() => self.on_client(token, |_, p| p.pause(token), poller),
            Ok(()) => {}
            Err(error) => return tracing::warn!(%error, "cannot serve a console client"),
        }
        self.on_client(token, Client::flush, poller);
    }

    /// Does something with one client, and drops it when that fails.
    fn on_client(
        &mut self,
        token: u64,
        action: impl FnOnce(&mut Client, &mut Poller) -> io::Result<()>,
        poller: &mut Poller,
    ) {
        let Some(at) = self.clients.iter().position(|c| c.token == token) else {
            return;
        };
        if let Err(error) = action(&mut self.clients[at], poller) {
            tracing::debug!(%error, "console client left");
            poller.remove(token);
            poller.remove(token + 1);
            self.clients.swap_remove(at);
        }
    }

    fn each_client(
        &mut self,
        action: impl Fn(&mut Client, &mut Poller) -> io::Result<()>,
        poller: &mut Poller,
    ) {
        let tokens: Vec<u64> = self.clients.iter().map(|c| c.token).collect();
        for token in tokens {
            self.on_client(token, &action, poller);
        }
    }

    fn accept(&mut self, poller: &mut Poller) {
        // Bounded, and whoever is left over is still reported by the next connection's edge.
        for _ in 0..MAX_CLIENTS {
            match self.listener.as_ref().map(UnixListener::accept) {
                Some(Ok((stream, _))) => self.admit(stream, poller),
                Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => {
                    tracing::warn!(%error, "cannot accept a console client");
                    return;
                }
                _ => return,
            }
        }
        poller.again(LISTENER);
    }

    /// Reads a chunk from a client and gives it to the port.
    fn read(&mut self, token: u64, poller: &mut Poller) {
        let mut chunk = [0; CHUNK];
        let mut read = 0;
        self.on_client(
            token,
            |client, _| match client.reader.read(&mut chunk) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    read = count;
                    Ok(())
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
            },
            poller,
        );
        self.held.extend_from_slice(&chunk[..read]);
        if !self.deliver() {
            self.each_client(|client, poller| poller.pause(client.token), poller);
        }
    }

    /// Gives the port what is held; true when it took all.
    fn deliver(&mut self) -> bool {
        let taken = match &self.port {
            Some(port) => port.offer(&self.held),
            None => self.held.len(),
        };
        self.held.drain(..taken);
        self.held.is_empty()
    }
}

impl Handler for Clients {
    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![Source::kick(&self.outbox.wake, WAKE)];
        if let Some(listener) = &self.listener {
            sources.push(Source::readable_edge(listener, LISTENER));
        }
        if let Some(space) = &self.space {
            sources.push(Source::kick(space, SPACE));
        }
        sources
    }

    fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()> {
        match token {
            WAKE => self.take_outbox(poller),
            LISTENER => self.accept(poller),
            SPACE => {
                if !self.held.is_empty() && self.deliver() {
                    self.each_client(|client, poller| poller.unpause(client.token), poller);
                }
            }
            // One client's chunk is held already: another that was ready too has its turn later.
            _ if token.is_multiple_of(2) && !self.held.is_empty() => {}
            _ if token.is_multiple_of(2) => self.read(token, poller),
            _ => self.on_client(token - 1, Client::flush, poller),
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::serial::test_port as port;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn client(hub: &Hub) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        hub.attach(near);
        far
    }

    fn expect(client: &mut UnixStream, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }

    #[test]
    fn every_client_gets_the_output_and_a_new_one_what_was_before_it() {
        let mut sink = HubSink::new().unwrap();
        sink.write(b"early ");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let hub = Hub::spawn(&sink, Some(listener), None).unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        expect(&mut first, b"early ");
        let mut second = client(&hub);
        expect(&mut second, b"early ");
        sink.write(b"both");
        expect(&mut first, b"both");
        expect(&mut second, b"both");
        drop(first);
        for n in 0..100u8 {
            sink.write(&[n]);
            expect(&mut second, &[n]);
        }
        assert_eq!(sink.lost(), 0);
        drop(hub);
        assert_eq!(second.read(&mut [0]).unwrap(), 0, "the hub hangs up");
    }

    #[test]
    fn a_client_that_does_not_read_loses_output_and_stalls_nobody() {
        let mut sink = HubSink::new().unwrap();
        let hub = Hub::spawn(&sink, None, None).unwrap();
        let mut slow = client(&hub);
        let mut good = client(&hub);
        let line = [b'x'; 1024];
        let start = Instant::now();
        // Far more than a socket and a backlog hold, at the pace of the good client.
        for _ in 0..2048 {
            sink.write(&line);
            expect(&mut good, &line);
            assert!(start.elapsed() < PATIENCE);
        }
        assert!(sink.lost() > 0);
        let mut rest = vec![0; BACKLOG];
        slow.read_exact(&mut rest).unwrap();
        assert!(rest.iter().all(|b| *b == b'x'));
    }

    #[test]
    fn input_of_clients_reaches_a_full_port_in_order() {
        let (serial, pio, ..) = port();
        let sink = HubSink::new().unwrap();
        let hub = Hub::spawn(&sink, None, Some(serial.clone())).unwrap();
        let mut typist = client(&hub);
        let sent: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
        typist.write_all(&sent).unwrap();
        let mut got = Vec::new();
        let start = Instant::now();
        while got.len() < sent.len() {
            assert!(start.elapsed() < PATIENCE, "only {} bytes came", got.len());
            let mut status = [0];
            pio.read(0x3fd, &mut status);
            if status[0] & 1 == 0 {
                std::thread::yield_now();
                continue;
            }
            let mut byte = [0];
            pio.read(0x3f8, &mut byte);
            got.push(byte[0]);
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn output_without_a_hub_is_bounded() {
        let mut sink = HubSink::new().unwrap();
        sink.write(&vec![0; OUTBOX + 5]);
        assert_eq!(sink.lost(), 5);
    }

    #[test]
    fn too_many_clients_are_turned_away() {
        let mut sink = HubSink::new().unwrap();
        sink.write(b"!");
        let hub = Hub::spawn(&sink, None, None).unwrap();
        let mut admitted: Vec<UnixStream> = (0..MAX_CLIENTS)
            .map(|_| {
                let mut one = client(&hub);
                expect(&mut one, b"!");
                one
            })
            .collect();
        let mut refused = client(&hub);
        assert_eq!(refused.read(&mut [0]).unwrap(), 0);
        admitted.pop();
        let start = Instant::now();
        // The hub has to notice that one left.
        loop {
            let mut again = client(&hub);
            if again.read(&mut [0]).unwrap() == 1 {
                break;
            }
            assert!(start.elapsed() < PATIENCE);
        }
    }
}
