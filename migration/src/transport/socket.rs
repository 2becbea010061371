//! The UDP socket under an endpoint: with buffers that hold a burst, and batches that fit.
//!
//! The kernel sends a batch of equal datagrams in one call (GSO), but takes no more than 65,507
//! bytes in all. quinn asks the socket how many datagrams make a batch and assumes that ten always
//! fit. With a large MTU they do not: the send fails with EMSGSIZE, which quinn takes for a path
//! that lost its MTU, and falls back to 1,200 bytes for good. So [`BatchingSocket`] answers by MTU.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, Runtime, TokioRuntime, UdpPoller};
use rustix::net::sockopt;

use super::config::Tuning;
use super::error::TransportError;

/// The most bytes of a datagram, and of a batch, over IPv4: 65,535 less both headers.
const MAX_BATCH_BYTES: usize = 65_507;
/// What the kernel coalesces at most on receipt.
const MAX_RECEIVE_BYTES: usize = 65_536;
/// Room for a burst in the kernel, each way; it grants less unless the process is privileged.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A UDP socket that sends no batch beyond what the kernel takes at the given MTU.
#[derive(Debug)]
struct BatchingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    mtu: usize,
}

impl AsyncUdpSocket for BatchingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let fitting = MAX_BATCH_BYTES / self.mtu;
        self.inner.max_transmit_segments().min(fitting).max(1)
    }

    /// quinn multiplies this by its largest datagram to size its receive buffers, 32 of them.
    fn max_receive_segments(&self) -> usize {
        let needed = MAX_RECEIVE_BYTES.div_ceil(self.mtu);
        self.inner.max_receive_segments().min(needed)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// An endpoint on `address` that accepts connections if `server` says how.
pub(super) fn endpoint(
    address: SocketAddr,
    tuning: &Tuning,
    server: Option<quinn::ServerConfig>,
) -> Result<Endpoint, TransportError> {
    let failed = |source| TransportError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    enlarge_buffers(&socket);
    let runtime = Arc::new(TokioRuntime);
    let inner = runtime.wrap_udp_socket(socket).map_err(failed)?;
    let inner = match tuning.cable.clone() {
        Some(cable) => cable.over(inner),
        None => inner,
    };
    let mtu = usize::from(tuning.mtu_limit);
    let socket = Arc::new(BatchingSocket { inner, mtu });
    let config = tuning.endpoint()?;
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).map_err(failed)
}

/// As large as allowed. Too small costs throughput, not correctness, so a refusal is no error.
fn enlarge_buffers(socket: &UdpSocket) {
    let bytes = SOCKET_BUFFER_BYTES;
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, bytes);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, bytes).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, bytes);
    }
    let granted = sockopt::socket_recv_buffer_size(socket).unwrap_or(0);
    if granted < bytes {
        tracing::debug!(
            granted,
            wanted = bytes,
            "udp receive buffer is small: raise net.core.rmem_max"
        );
    }
}
