//! The listening end of a guest process: accepts clients, a bounded number at a time, each served by
//! a thread of its own, so that none waits for another.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::session;
use super::socket::Socket;
use crate::wait::{self, Flag, Watched};

/// Clients at a time; more are turned away.
pub const MAX_CLIENTS: usize = 16;
/// How long clients may take to hear of the guest's end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A thread that accepts clients. Dropping it says farewell and removes the socket.
#[derive(Debug)]
pub struct Server {
    clients: Arc<Clients>,
    closing: Arc<Flag>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves `machine` to the clients of `socket`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn start(socket: Socket, machine: Arc<Machine>) -> io::Result<Self> {
        let clients = Arc::new(Clients::default());
        let closing = Arc::new(Flag::new()?);
        let acceptor = thread::Builder::new().name("accept".into()).spawn({
            let (clients, closing) = (clients.clone(), closing.clone());
            move || accept(&socket, &machine, &clients, &closing)
        })?;
        Ok(Self {
            clients,
            closing,
            acceptor: Some(acceptor),
        })
    }

    /// Whether there was a moment without clients for at least `duration` until now.
    #[must_use]
    pub fn idle_for(&self, duration: Duration) -> bool {
        let state = self.clients.state();
        state.connected == 0 && state.since.elapsed() >= duration
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.raise();
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            tracing::error!("the thread that accepts clients panicked");
        }
        // Sessions end by themselves when the guest has; a client that does not listen is left.
        let gone =
            self.clients
                .changed
                .wait_timeout_while(self.clients.state(), FAREWELL, |state| state.connected > 0);
        drop(gone);
    }
}

#[derive(Debug, Default)]
struct Clients {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    connected: usize,
    /// When `connected` changed last.
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            connected: 0,
            since: Instant::now(),
        }
    }
}

impl Clients {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more; `None` when all are taken.
    fn admit(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.state();
        (state.connected < MAX_CLIENTS).then(|| {
            state.connected += 1;
            state.since = Instant::now();
            Place(self.clone())
        })
    }
}

/// One of the places that clients have.
struct Place(Arc<Clients>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.connected -= 1;
        state.since = Instant::now();
        self.0.changed.notify_all();
    }
}

fn accept(socket: &Socket, machine: &Arc<Machine>, clients: &Arc<Clients>, closing: &Flag) {
    loop {
        let watched = [
            Watched::readable(socket.listener()),
            Watched::readable(closing),
        ];
        match wait::ready(watched, None) {
            Ok([_, false]) => {}
            Ok([_, true]) => return,
            Err(error) => return tracing::error!(%error, "no more clients can be accepted"),
        }
        match socket.listener().accept() {
            Ok((stream, _)) => admit(stream, machine, clients),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of files, most likely; the connection stays in the queue meanwhile.
                tracing::warn!(%error, "cannot accept a client");
                let pause = Some(Instant::now() + Duration::from_millis(100));
                let _ = wait::ready([Watched::readable(closing)], pause);
            }
        }
    }
}

fn admit(stream: UnixStream, machine: &Arc<Machine>, clients: &Arc<Clients>) {
    let Some(place) = clients.admit() else {
        return session::turn_away(stream, MAX_CLIENTS);
    };
    let machine = machine.clone();
    let spawned = thread::Builder::new().name("client".into()).spawn(move || {
        if let Err(error) = session::serve(stream, &machine) {
            tracing::info!(%error, "a client was let go");
        }
        drop(place);
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot serve a client");
    }
}
