//! The source's way to a link.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use godwit_proto::frame::Limits;
use godwit_proto::version::VersionRange;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::time::timeout;

use super::admission::{ANSWER_BYTES, Answer, Ask, EXPORTER_BYTES, EXPORTER_LABEL, Purpose};
use super::bulk::BulkSender;
use super::cap::Cap;
use super::config::{Carries, MAX_BULK_CONNECTIONS, Tuning, provider};
use super::connections::Shared;
use super::error::{Phase, TransportError};
use super::framed::Framed;
use super::identity::Identity;
use super::link::{Link, Peer, SourceLink};
use super::shallow::QueueBound;
use super::socket;
use super::stream::StreamKind;
use super::token::Token;
use super::verify::PinnedTarget;

/// A source that holds a token. It keeps its certificate, by which the target knows it again.
#[derive(Debug)]
pub struct Dialer {
    token: Token,
    identity: Identity,
    tuning: Tuning,
    versions: VersionRange,
}

/// A connection that the target let in, with the stream on which it asked.
struct Admitted {
    endpoint: Endpoint,
    connection: Connection,
    stream: (SendStream, RecvStream),
    answer: Answer,
}

impl Dialer {
    /// A source with a new certificate, speaking `versions` of the migration protocol.
    ///
    /// # Errors
    /// [`TransportError::Tuning`], [`TransportError::Identity`].
    pub fn new(
        token: Token,
        tuning: Tuning,
        versions: VersionRange,
    ) -> Result<Self, TransportError> {
        tuning.check()?;
        Ok(Self {
            token,
            identity: Identity::generate()?,
            tuning,
            versions,
        })
    }

    /// Begins the migration that the token is for, at `address`.
    ///
    /// Takes at most [`Tuning::handshake_limit`].
    ///
    /// # Errors
    /// [`TransportError::Refused`], [`TransportError::PinMismatch`], [`TransportError::Version`], [`TransportError::DeadPeer`],
    /// [`TransportError::Stalled`]; and what else ends a connection.
    pub async fn open(&self, address: SocketAddr) -> Result<SourceLink, TransportError> {
        self.within(self.link(address, Purpose::Open)).await
    }

    /// Makes a new link for the migration that was begun with [`Dialer::open`] of this very dialer.
    ///
    /// # Errors
    /// As [`Dialer::open`].
    pub async fn resume(&self, address: SocketAddr) -> Result<SourceLink, TransportError> {
        self.within(self.link(address, Purpose::Resume)).await
    }

    async fn within<T>(
        &self,
        made: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let waited: Duration = self.tuning.handshake_limit;
        let phase = Phase::Connect;
        timeout(waited, made)
            .await
            .unwrap_or(Err(TransportError::Stalled { phase, waited }))
    }

    async fn link(
        &self,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<SourceLink, TransportError> {
        let bound = Arc::default();
        let mut ask = Ask {
            purpose,
            index: 0,
            bulk_streams: self.tuning.bulk_streams,
            bulk_connections: self.tuning.bulk_connections,
        };
        let Admitted {
            endpoint,
            connection,
            stream: control,
            answer,
        } = self.admitted(address, ask, &bound).await?;
        let mut connections = vec![connection];
        let mut endpoints = vec![endpoint];
        for index in 1..=answer.bulk_connections {
            ask.index = index;
            let joined = self.admitted(address, ask, &bound).await?;
            connections.push(joined.connection);
            endpoints.push(joined.endpoint);
        }
        let cap = Cap::new(self.tuning.bandwidth_cap);
        let shared = Arc::new(Shared::new(connections, endpoints, cap, bound));
        self.streams(shared, control, answer).await
    }

    /// Connects from a socket of its own, and asks to be let in.
    async fn admitted(
        &self,
        address: SocketAddr,
        ask: Ask,
        bound: &Arc<QueueBound>,
    ) -> Result<Admitted, TransportError> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = socket::endpoint(any, &self.tuning, None)?;
        let pin = Arc::new(PinnedTarget::new(provider(), self.token.target));
        let carries = match (ask.index, ask.bulk_connections) {
            (0, 1..) => Carries::Messages,
            _ => Carries::Bulk,
        };
        let pinned = Arc::clone(&pin);
        let config = self.tuning.client(&self.identity, pinned, carries, bound)?;
        let connecting = endpoint
            .connect_with(config, address, Identity::NAME)
            .map_err(|source| TransportError::Dial { address, source })?;
        let connection = connecting.await.map_err(|error| match pin.refused() {
            Some(found) => TransportError::PinMismatch {
                expected: self.token.target,
                found,
            },
            None => TransportError::lost(error),
        })?;

        let phase = Phase::Admission;
        let mut stream = open_bidi(&connection, StreamKind::Admission).await?;
        let exported = exporter(&connection)?;
        let secret = self.token.secret();
        let bytes = ask.encode(secret, &exported, self.identity.fingerprint());
        let written = stream.0.write_all(&bytes).await;
        written.map_err(|error| TransportError::write(phase, error))?;
        let mut bytes = [0; ANSWER_BYTES];
        let read = stream.1.read_exact(&mut bytes).await;
        read.map_err(|error| match error {
            quinn::ReadExactError::ReadError(error) => TransportError::read(phase, error),
            quinn::ReadExactError::FinishedEarly(_) => TransportError::Protocol {
                what: "answer cut short",
            },
        })?;
        let answer = Answer::decode(bytes);
        let granted = (1..=ask.bulk_streams).contains(&answer.bulk_streams)
            && answer.bulk_connections <= ask.bulk_connections.min(MAX_BULK_CONNECTIONS)
            && Tuning::takes_window(answer.stream_window_bytes);
        if !granted {
            let what = "granted what was not asked for";
            return Err(TransportError::Protocol { what });
        }
        // Bulk must not fill the whole of it: see `Tuning::connection_window`.
        let window = answer.stream_window_bytes;
        connection.set_send_window(Tuning::connection_window(answer.bulk_streams, window));
        Ok(Admitted {
            endpoint,
            connection,
            stream,
            answer,
        })
    }

    async fn streams(
        &self,
        shared: Arc<Shared>,
        control: (SendStream, RecvStream),
        answer: Answer,
    ) -> Result<SourceLink, TransportError> {
        let stall_limit = self.tuning.stall_limit;
        let limits = Limits {
            versions: self.versions,
            max_payload_bytes: self.tuning.max_frame_bytes,
        };
        let first = &shared.connections[0];
        let fault = open_bidi(first, StreamKind::Fault).await?;
        let mut bulk = Vec::with_capacity(answer.bulk_streams.into());
        for index in 0..answer.bulk_streams {
            let connection = match shared.connections.len() - 1 {
                0 => first,
                others => &shared.connections[1 + usize::from(index) % others],
            };
            let opened = connection.open_uni().await.map_err(TransportError::lost)?;
            let stream = label(opened, StreamKind::Bulk(index)).await?;
            let connection = connection.clone();
            bulk.push(BulkSender::new(stream, connection, stall_limit, &shared));
        }
        Ok(Link {
            control: Framed::new(Phase::Control, control, limits, stall_limit, &shared),
            fault: Framed::new(Phase::Fault, fault, limits, stall_limit, &shared),
            bulk,
            peer: Peer {
                shared,
                fingerprint: self.token.target,
            },
        })
    }
}

/// Keying material that only the two ends of this connection have.
pub(super) fn exporter(connection: &Connection) -> Result<[u8; EXPORTER_BYTES], TransportError> {
    let mut exported = [0; EXPORTER_BYTES];
    connection
        .export_keying_material(&mut exported, EXPORTER_LABEL, b"")
        .map_err(|_| TransportError::Protocol {
            what: "no keying material",
        })?;
    Ok(exported)
}

async fn open_bidi(
    connection: &Connection,
    kind: StreamKind,
) -> Result<(SendStream, RecvStream), TransportError> {
    let (send, receive) = connection.open_bi().await.map_err(TransportError::lost)?;
    Ok((label(send, kind).await?, receive))
}

async fn label(mut stream: SendStream, kind: StreamKind) -> Result<SendStream, TransportError> {
    let phase = Phase::Streams;
    let ended = TransportError::Broken { phase };
    stream.set_priority(kind.priority()).map_err(|_| ended)?;
    let written = stream.write_all(&[kind.byte()]).await;
    written.map_err(|error| TransportError::write(phase, error))?;
    Ok(stream)
}
