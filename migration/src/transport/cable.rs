//! A link that can be cut: whatever is sent is dropped, whatever comes is thrown away, and neither side
//! is told. That is how a dead network looks, and what no way of closing a connection does.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Batches that are thrown away before others get a turn.
const DISCARDED_AT_ONCE: usize = 64;

/// What sockets of a link go over, so that it can be cut. Clones are the same cable.
#[derive(Clone, Debug, Default)]
pub struct Cable(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Whole,
    Cut,
    CutUntil(Instant),
}

impl Cable {
    /// Cuts it, for `time` or for good.
    pub fn cut(&self, time: Option<Duration>) {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = match until {
            Some(until) => State::CutUntil(until),
            None => State::Cut,
        };
    }

    fn is_cut(&self) -> bool {
        let state = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            State::Whole => false,
            State::Cut => true,
            State::CutUntil(until) => Instant::now() < until,
        }
    }

    /// `socket` over this cable.
    pub(super) fn over(self, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Wired {
            socket,
            cable: self,
        })
    }
}

#[derive(Debug)]
struct Wired {
    socket: Arc<dyn AsyncUdpSocket>,
    cable: Cable,
}

impl AsyncUdpSocket for Wired {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.cable.is_cut() {
            return Ok(());
        }
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..DISCARDED_AT_ONCE {
            let received = self.socket.poll_recv(cx, bufs, meta);
            if !matches!(received, Poll::Ready(Ok(_))) || !self.cable.is_cut() {
                return received;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use godwit_proto::frame::FrameKind;
    use godwit_proto::process::VERSIONS;
    use tokio::time::timeout;

    use super::*;
    use crate::transport::{
        Dialer, Invitation, Receiver, SourceLink, TargetLink, TransportError, Tuning,
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn link(cable: &Cable) -> (SourceLink, TargetLink) {
        let wired = Tuning {
            cable: Some(cable.clone()),
            ..Tuning::default()
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let invitation = Invitation::default();
        let mut receiver = Receiver::bind(any, invitation, Tuning::default(), VERSIONS).unwrap();
        let address = receiver.address().unwrap();
        let dialer = Dialer::new(receiver.token().clone(), wired, VERSIONS).unwrap();
        let (source, target) = tokio::join!(dialer.open(address), receiver.accept(PATIENCE));
        (source.unwrap(), target.unwrap())
    }

    #[tokio::test]
    async fn both_sides_of_a_cut_cable_take_the_other_for_dead() {
        let cable = Cable::default();
        let (source, target) = link(&cable).await;
        cable.cut(None);
        for peer in [&source.peer, &target.peer] {
            let ended = timeout(PATIENCE, peer.ended()).await.unwrap();
            assert!(matches!(ended, TransportError::DeadPeer), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn what_was_said_during_a_short_cut_arrives_after_it() {
        let cable = Cable::default();
        let (mut source, mut target) = link(&cable).await;
        cable.cut(Some(Duration::from_millis(400)));
        let sent = source.control.sender.send(FrameKind::Request, 1, b"late");
        sent.await.unwrap();
        let frame = target.control.receiver.receive(PATIENCE).await.unwrap();
        assert_eq!(frame.payload, b"late");
        assert!(!cable.is_cut());
    }
}
