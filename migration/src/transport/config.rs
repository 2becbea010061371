//! The knobs of a link, and what they mean to quinn and rustls.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::version::TLS13;

use super::cable::Cable;
use super::error::TransportError;
use super::identity::Identity;
use super::shallow::{QueueBound, ShallowConfig};
use super::verify::{AnySource, PinnedTarget};

/// The protocol, as TLS names it. A change that an older build cannot follow gets a new number.
pub(super) const ALPN: &[u8] = b"godwit-migrate/1";
/// QUIC's least datagram.
const MIN_MTU: u16 = 1200;
/// The most bytes of a UDP datagram over IPv4.
const MAX_MTU: u16 = 65_507;
/// The most bulk streams of a link.
pub(super) const MAX_BULK_STREAMS: u8 = 16;
/// The most connections of a link besides the first.
pub(super) const MAX_BULK_CONNECTIONS: u8 = 8;
/// Bounds of a stream's window: a target may not make the source buffer without end.
const STREAM_WINDOW: std::ops::RangeInclusive<u32> = 64 << 10..=32 << 20;
/// Control and fault: they have windows of their own beyond those of bulk.
const FRAMED_STREAMS: u32 = 2;
/// What may be under way at first on a connection without bulk, bytes: a state, or what a vCPU asks
/// for. Somebody stands still until all of it is there, and it is small beside what bulk has under way.
const MESSAGES_WINDOW: u64 = 256 << 10;
/// How many connections may wait to be looked at; QUIC drops further ones.
const MAX_INCOMING: usize = 16;
/// How much of each waiting connection is buffered, in bytes.
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;

/// How QUIC finds out how much it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Backs off at a loss, as TCP does: fair to others on a shared network. Until then it fills every
    /// buffer on the way, and whatever else is said waits behind it.
    Cubic,
    /// Cubic that keeps the queue before the link short as long as the queue is its own.
    Shallow,
    /// Measures bandwidth and delay: faster on a path that loses packets.
    Bbr,
}

/// What a connection carries besides what makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Control and faults alone.
    Messages,
    /// Bulk, and everything else when there is no other connection.
    Bulk,
}

/// The knobs of one side of a link. The two sides may differ: streams and connections are the lesser
/// of what both want.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The controller of what this side sends in bulk. What it says besides is little: Cubic's.
    pub congestion: Congestion,
    /// The largest UDP payload that is sent or taken, 1,200 to 65,507 bytes. The link begins with
    /// 1,200 and finds out what passes.
    pub mtu_limit: u16,
    /// Bulk streams, 1 to 16.
    pub bulk_streams: u8,
    /// Connections for bulk alone, 0 to 8; with 0 bulk shares the first connection with control and faults.
    /// With one of its own, QUIC buffers of bulk only what the path has use for, see [`BulkSender`](super::BulkSender).
    pub bulk_connections: u8,
    /// What each stream may hold unread, 64 KiB to 32 MiB. A side buffers at most this for each
    /// stream: (`bulk_streams` + 2) times, for every connection.
    pub stream_window_bytes: u32,
    /// How often an idle link is used, so that its death is noticed.
    pub keep_alive: Duration,
    /// After how much silence the peer counts as dead. QUIC counts from the first packet that it
    /// sends into the silence, at most `keep_alive` after the last that it heard: their sum bounds
    /// the notice. (And never less than three of its probe time-outs: about nine round trips.)
    pub dead_after: Duration,
    /// How long a live peer may make no progress.
    pub stall_limit: Duration,
    /// How long the making of a link may take, once there is a peer.
    pub handshake_limit: Duration,
    /// The longest payload of a frame on the control and fault streams, in bytes.
    pub max_frame_bytes: u32,
    /// The most that bulk sends, in bytes per second.
    pub bandwidth_cap: Option<u64>,
    /// What the link goes over when it is to be cut, see [`crate::fault`].
    pub cable: Option<Cable>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            congestion: Congestion::Shallow,
            // Jumbo frames: 9,000 bytes less the headers of IPv6 and UDP.
            mtu_limit: 8952,
            bulk_streams: 4,
            bulk_connections: 1,
            // Four streams fill 10 Gb/s at 6 ms; what is more than that only waits in memory.
            stream_window_bytes: 2 << 20,
            keep_alive: Duration::from_millis(500),
            dead_after: Duration::from_millis(2400),
            stall_limit: Duration::from_secs(3),
            handshake_limit: Duration::from_secs(5),
            max_frame_bytes: 4 << 20,
            bandwidth_cap: None,
            cable: None,
        }
    }
}

impl Tuning {
    /// # Errors
    /// [`TransportError::Tuning`] names the setting that is out of range.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        let window = self.stream_window_bytes;
        let dead_after = u64::try_from(self.dead_after.as_millis()).unwrap_or(u64::MAX);
        let rules: [(&'static str, u64, bool); 6] = [
            (
                "mtu_limit",
                self.mtu_limit.into(),
                (MIN_MTU..=MAX_MTU).contains(&self.mtu_limit),
            ),
            (
                "bulk_streams",
                self.bulk_streams.into(),
                (1..=MAX_BULK_STREAMS).contains(&self.bulk_streams),
            ),
            (
                "bulk_connections",
                self.bulk_connections.into(),
                self.bulk_connections <= MAX_BULK_CONNECTIONS,
            ),
            (
                "stream_window_bytes",
                window.into(),
                STREAM_WINDOW.contains(&window),
            ),
            (
                "dead_after (ms)",
                dead_after,
                self.dead_after > self.keep_alive && dead_after < 3_600_000,
            ),
            (
                "max_frame_bytes",
                self.max_frame_bytes.into(),
                self.max_frame_bytes <= 64 << 20,
            ),
        ];
        match rules.into_iter().find(|&(_, _, holds)| !holds) {
            Some((setting, value, _)) => Err(TransportError::Tuning { setting, value }),
            None => Ok(()),
        }
    }

    /// The window of a connection with `bulk_streams`: as much as all its streams together, so that
    /// streams which nobody reads cannot keep another from being read.
    pub(super) fn connection_window(bulk_streams: u8, stream_window_bytes: u32) -> u64 {
        let streams = u32::from(bulk_streams) + FRAMED_STREAMS;
        u64::from(streams) * u64::from(stream_window_bytes)
    }

    /// Whether a source buffers this much for each stream.
    pub(super) fn takes_window(stream_window_bytes: u32) -> bool {
        STREAM_WINDOW.contains(&stream_window_bytes)
    }

    pub(super) fn endpoint(&self) -> Result<EndpointConfig, TransportError> {
        let mut config = EndpointConfig::default();
        let set = config.max_udp_payload_size(self.mtu_limit);
        set.map_err(|_| TransportError::Tuning {
            setting: "mtu_limit",
            value: self.mtu_limit.into(),
        })?;
        Ok(config)
    }

    pub(super) fn client(
        &self,
        identity: &Identity,
        pin: Arc<PinnedTarget>,
        carries: Carries,
        bound: &Arc<QueueBound>,
    ) -> Result<quinn::ClientConfig, TransportError> {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pin)
            .with_client_auth_cert(identity.chain(), identity.key().into())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the certificates.
        tls.resumption = rustls::client::Resumption::disabled();
        let crypto = QuicClientConfig::try_from(tls).expect("AES-128 is among the cipher suites");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        // The source opens all streams.
        let mut transport = self.transport(0, 0)?;
        match (carries, self.congestion) {
            (Carries::Messages, _) => {
                let mut cubic = CubicConfig::default();
                cubic.initial_window(MESSAGES_WINDOW);
                transport.congestion_controller_factory(Arc::new(cubic))
            }
            (Carries::Bulk, Congestion::Shallow) => {
                transport.congestion_controller_factory(Arc::new(ShallowConfig {
                    bound: bound.clone(),
                    cubic: Arc::default(),
                }))
            }
            (Carries::Bulk, Congestion::Cubic) => &mut transport,
            (Carries::Bulk, Congestion::Bbr) => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()))
            }
        };
        config.transport_config(Arc::new(transport));
        Ok(config)
    }

    pub(super) fn server(
        &self,
        identity: &Identity,
    ) -> Result<quinn::ServerConfig, TransportError> {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(AnySource::new(provider())))
            .with_single_cert(identity.chain(), identity.key().into())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.send_tls13_tickets = 0;
        let crypto = QuicServerConfig::try_from(tls).expect("AES-128 is among the cipher suites");
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFER_BYTES * MAX_INCOMING as u64)
            .transport_config(Arc::new(self.transport(FRAMED_STREAMS, self.bulk_streams)?));
        Ok(config)
    }

    fn transport(&self, bidi: u32, uni: u8) -> Result<TransportConfig, TransportError> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_limit);
        let idle = IdleTimeout::try_from(self.dead_after);
        let idle = idle.expect("Tuning::check keeps it below an hour");
        let window = Self::connection_window(self.bulk_streams, self.stream_window_bytes);
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(bidi.into())
            .max_concurrent_uni_streams(u32::from(uni).into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window(self.stream_window_bytes.into())
            .receive_window(VarInt::from_u64(window).expect("18 windows of 32 MiB"))
            .send_window(window)
            // Not `initial_mtu`: a handshake in datagrams that do not pass never ends.
            .mtu_discovery_config(Some(discovery))
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle));
        Ok(config)
    }
}

/// ring's algorithms, the fastest cipher first.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::ring::default_provider()
    })
}
