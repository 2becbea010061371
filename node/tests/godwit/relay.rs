//! A network between two processes that can be taken away: UDP, forwarded both ways until it is cut.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How soon a relay notices that it is dropped.
const LOOK: Duration = Duration::from_millis(50);
/// The most sources.
const MAX_SOURCES: usize = 64;

/// Forwards what comes to its address, and the answers. Ends when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    over: AtomicBool,
}

impl Relay {
    /// A relay to `target`.
    pub(crate) fn start(target: &str) -> Self {
        let target: SocketAddr = target.parse().unwrap();
        let socket = Arc::new(bind());
        let address = socket.local_addr().unwrap();
        let state = Arc::new(State::default());
        let thread = {
            let state = state.clone();
            thread::spawn(move || forward(&socket, target, &state))
        };
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Loses all that is sent from now on.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    /// Forwards again.
    pub(crate) fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LOOK)).unwrap();
    socket
}

/// The next datagram; `None` when the relay is over.
fn next(socket: &UdpSocket, buffer: &mut [u8], state: &State) -> Option<(usize, SocketAddr)> {
    while !state.over.load(Ordering::SeqCst) {
        match socket.recv_from(buffer) {
            Ok(_) if state.cut.load(Ordering::SeqCst) => {}
            Ok(received) => return Some(received),
            // Nothing came, or an earlier datagram found nobody.
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused => {}
                _ => panic!("{error}"),
            },
        }
    }
    None
}

fn forward(socket: &Arc<UdpSocket>, target: SocketAddr, state: &Arc<State>) {
    let mut ways: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; 65536];
    while let Some((length, source)) = next(socket, &mut buffer, state) {
        assert!(ways.len() < MAX_SOURCES);
        let (way, _) = ways.entry(source).or_insert_with(|| {
            let way = Arc::new(bind());
            let back = {
                let (way, socket, state) = (way.clone(), socket.clone(), state.clone());
                thread::spawn(move || {
                    let mut buffer = vec![0; 65536];
                    while let Some((length, _)) = next(&way, &mut buffer, &state) {
                        let _ = socket.send_to(&buffer[..length], source);
                    }
                })
            };
            (way, back)
        });
        let _ = way.send_to(&buffer[..length], target);
    }
    for (_, (_, back)) in ways {
        let _ = back.join();
    }
}
