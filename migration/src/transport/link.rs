//! A link: what a source and a target have of each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::time::timeout;

use super::bulk::{BulkReceiver, BulkSender};
use super::connections::Shared;
use super::error::{CloseCode, TransportError};
use super::framed::Framed;
use super::identity::Fingerprint;

/// How long a side waits for its last packets to go out.
const GOODBYE: Duration = Duration::from_secs(1);

/// The same for packets that nobody has to answer, and how often it looks.
const LAST_PACKETS: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// The streams between a source and a target. Dropping all of it closes it as
/// [`CloseCode::Abandoned`]; a peer that hears nothing else treats it so.
#[derive(Debug)]
pub struct Link<Bulk> {
    /// Messages of the migration, both ways.
    pub control: Framed,
    /// Faults to the source, pages back: before everything else.
    pub fault: Framed,
    /// Pages from source to target.
    pub bulk: Vec<Bulk>,
    /// What is known of the link as a whole.
    pub peer: Peer,
}

/// The link at the source.
pub type SourceLink = Link<BulkSender>;
/// The link at the target.
pub type TargetLink = Link<BulkReceiver>;

/// A handle on the whole link.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) shared: Arc<Shared>,
    pub(super) fingerprint: Fingerprint,
}

/// The link as QUIC sees it: times and sizes of the connection that carries control, bytes and packets of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Smoothed time to the peer and back.
    pub round_trip: Duration,
    /// Largest datagram in use, in bytes.
    pub mtu: u16,
    /// Bytes that may be under way.
    pub congestion_window_bytes: u64,
    /// UDP payload sent, in bytes: all that TLS, QUIC and repetition add is in it.
    pub sent_bytes: u64,
    /// UDP payload received, in bytes.
    pub received_bytes: u64,
    /// Packets taken for lost and sent anew.
    pub lost_packets: u64,
    /// Times that the path seemed to take smaller datagrams than before.
    pub black_holes: u64,
}

impl Peer {
    /// The peer's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.connections[0].remote_address()
    }

    /// The peer's certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The link as it is now.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let mut sum = LinkStats::default();
        for (index, connection) in self.shared.connections.iter().enumerate() {
            let stats = connection.stats();
            if index == 0 {
                sum.round_trip = stats.path.rtt;
                sum.mtu = stats.path.current_mtu;
            }
            sum.congestion_window_bytes += stats.path.cwnd;
            sum.sent_bytes += stats.udp_tx.bytes;
            sum.received_bytes += stats.udp_rx.bytes;
            sum.lost_packets += stats.path.lost_packets;
            sum.black_holes += stats.path.black_holes_detected;
        }
        sum
    }

    /// Sets the most that bulk sends, in bytes per second; `None`: all that it can.
    pub fn cap(&self, bytes_per_second: Option<u64>) {
        self.shared.cap.set(bytes_per_second);
    }

    /// Waits until the link has ended and tells why.
    pub async fn ended(&self) -> TransportError {
        self.shared.connections[0].closed().await;
        self.shared.ended()
    }

    /// Ends a link on which the peer has heard everything: returns when the last packets are on their way. One
    /// that is lost costs the peer the time to notice silence, and nothing else.
    pub async fn leave(&self) {
        let connections = &self.shared.connections;
        let sent = |connection: &Connection| connection.stats().udp_tx.datagrams;
        let before: Vec<u64> = connections.iter().map(sent).collect();
        self.shared.close(CloseCode::Done, "");
        // After that nothing is sent but the end.
        let is_waiting = || {
            connections
                .iter()
                .map(sent)
                .zip(&before)
                .any(|(now, then)| now == *then)
        };
        let gone = async {
            while is_waiting() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let _ = timeout(LAST_PACKETS, gone).await;
    }

    /// Ends the link and waits, at most a second, until the peer can know. What was not yet
    /// acknowledged is lost.
    pub async fn close(&self, code: CloseCode, text: &str) {
        self.shared.close(code, text);
        let quiet = async {
            for endpoint in &self.shared.endpoints {
                endpoint.wait_idle().await;
            }
        };
        // The peer finds out by itself when this is not enough.
        let _ = timeout(GOODBYE, quiet).await;
    }
}
