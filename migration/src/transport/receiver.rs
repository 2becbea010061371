//! The target's way to a link: it listens, hands out one token, and lets in whoever proves it.
//!
//! A task looks at everybody who comes, at most [`MAX_PENDING`] at once and each for
//! [`Tuning::handshake_limit`], so that one who says nothing keeps nobody out; it goes on while a
//! migration runs, and refuses later comers by code.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use godwit_proto::frame::Limits;
use godwit_proto::id::GuestId;
use godwit_proto::version::VersionRange;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::admission::{ASK_BYTES, Admission, Answer, Ask, Purpose};
use super::bulk::BulkReceiver;
use super::cap::Cap;
use super::config::Tuning;
use super::connections::Shared;
use super::dialer::exporter;
use super::error::{CloseCode, Phase, TransportError};
use super::framed::Framed;
use super::identity::{Fingerprint, Identity};
use super::link::{Link, Peer, TargetLink};
use super::socket;
use super::stream::StreamKind;
use super::token::{Secret, Token};

/// The most connections that are in their handshake at once.
pub(super) const MAX_PENDING: usize = 8;
/// The most connections that were let in and wait to be taken.
const MAX_ADMITTED: usize = 16;

/// Whom a target awaits.
#[derive(Clone, Debug, Default)]
pub struct Invitation {
    /// The only guest that may come; `None`: any one guest. It is told by the token; who takes the
    /// link checks what comes.
    pub guest: Option<GuestId>,
    /// How long a migration may begin; `None`: as long as the receiver lives.
    pub valid_for: Option<Duration>,
    /// Where sources reach the target; empty: the address it is bound to, unless that is a wildcard.
    pub addresses: Vec<SocketAddr>,
}

/// A target that awaits one guest.
#[derive(Debug)]
pub struct Receiver {
    endpoint: Endpoint,
    token: Token,
    door: Arc<Door>,
    admitted: mpsc::Receiver<Admitted>,
    acceptor: JoinHandle<()>,
    versions: VersionRange,
}

/// What decides who is let in.
#[derive(Debug)]
struct Door {
    secret: Secret,
    admission: Mutex<Admission>,
    tuning: Tuning,
}

/// A connection that was let in.
#[derive(Debug)]
struct Admitted {
    connection: Connection,
    stream: (SendStream, RecvStream),
    ask: Ask,
    answer: Answer,
    source: Fingerprint,
}

impl Receiver {
    /// Listens on `address` with a new certificate and a new token, speaking `versions` of the
    /// migration protocol. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TransportError::Tuning`], [`TransportError::Bind`], [`TransportError::Identity`],
    /// [`TransportError::Token`].
    pub fn bind(
        address: SocketAddr,
        invitation: Invitation,
        tuning: Tuning,
        versions: VersionRange,
    ) -> Result<Self, TransportError> {
        tuning.check()?;
        let identity = Identity::generate()?;
        let server = tuning.server(&identity)?;
        let endpoint = socket::endpoint(address, &tuning, Some(server))?;
        let bound = endpoint.local_addr();
        let bound = bound.map_err(|source| TransportError::Bind { address, source })?;
        let mut addresses = invitation.addresses;
        if addresses.is_empty() && !bound.ip().is_unspecified() {
            addresses.push(bound);
        }
        let mut token = Token::generate(identity.fingerprint(), &addresses)?;
        token.guest = invitation.guest;
        token.expires_unix_seconds = invitation.valid_for.map(unix_seconds_after);
        // A time beyond what the clock counts never comes.
        let expires = invitation
            .valid_for
            .and_then(|valid_for| Instant::now().checked_add(valid_for));
        let door = Arc::new(Door {
            secret: token.secret().clone(),
            admission: Mutex::new(Admission::new(expires)),
            tuning,
        });
        let (sender, admitted) = mpsc::channel(MAX_ADMITTED);
        let acceptor = tokio::spawn(accept_all(endpoint.clone(), Arc::clone(&door), sender));
        Ok(Self {
            endpoint,
            token,
            door,
            admitted,
            acceptor,
            versions,
        })
    }

    /// What to hand to the source.
    #[must_use]
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits for the source. When its link breaks before it is complete, the token stays good.
    ///
    /// # Errors
    /// [`TransportError::Stalled`] when nobody with the token comes within `wait`; or the link broke.
    pub async fn accept(&mut self, wait: Duration) -> Result<TargetLink, TransportError> {
        self.accept_for(Purpose::Open, wait).await
    }

    /// Waits for the source of the migration that was accepted to come again.
    ///
    /// # Errors
    /// As [`Receiver::accept`].
    pub async fn accept_resumed(&mut self, wait: Duration) -> Result<TargetLink, TransportError> {
        self.accept_for(Purpose::Resume, wait).await
    }

    async fn accept_for(
        &mut self,
        purpose: Purpose,
        wait: Duration,
    ) -> Result<TargetLink, TransportError> {
        let first = timeout(wait, self.first(purpose)).await;
        let first = first.unwrap_or(Err(TransportError::Stalled {
            phase: Phase::Connect,
            waited: wait,
        }))?;
        let (ask, source) = (first.ask, first.source);
        let connection = first.connection.clone();
        let waited = self.door.tuning.handshake_limit;
        let made = timeout(waited, self.link(first)).await;
        let made = made.unwrap_or(Err(TransportError::Stalled {
            phase: Phase::Streams,
            waited,
        }));
        if let Err(error) = &made {
            connection.close(error.close_code().varint(), b"link not complete");
            self.door.give_up(&ask, source);
        }
        made
    }

    /// The next connection that begins a link. Others are left over from links that broke.
    async fn first(&mut self, purpose: Purpose) -> Result<Admitted, TransportError> {
        loop {
            let next = self.admitted.recv().await;
            let next = next.ok_or(TransportError::ClosedHere)?;
            if next.connection.close_reason().is_some() {
                // Gone before it was taken, so nothing was sent.
                self.door.give_up(&next.ask, next.source);
            } else if next.ask.purpose == purpose && next.ask.index == 0 {
                return Ok(next);
            } else {
                let code = CloseCode::Protocol.varint();
                next.connection.close(code, b"not awaited");
            }
        }
    }

    async fn link(&mut self, first: Admitted) -> Result<TargetLink, TransportError> {
        let Admitted {
            connection,
            stream: control,
            ask,
            answer,
            source,
        } = first;
        let mut connections = vec![connection];
        while connections.len() <= usize::from(answer.bulk_connections) {
            let next = self.admitted.recv().await;
            let next = next.ok_or(TransportError::ClosedHere)?;
            let expected = Ask {
                index: u8::try_from(connections.len()).unwrap_or(u8::MAX),
                ..ask
            };
            if next.ask == expected && next.source == source {
                connections.push(next.connection);
            } else {
                let code = CloseCode::Protocol.varint();
                next.connection.close(code, b"not awaited");
            }
        }
        let tuning = &self.door.tuning;
        let cap = Cap::new(None);
        let endpoints = vec![self.endpoint.clone()];
        let shared = Arc::new(Shared::new(connections, endpoints, cap, Arc::default()));
        let limits = Limits {
            versions: self.versions,
            max_payload_bytes: tuning.max_frame_bytes,
        };
        let (send, mut receive) = shared.connections[0]
            .accept_bi()
            .await
            .map_err(TransportError::lost)?;
        if kind(&mut receive).await? != StreamKind::Fault {
            let what = "second stream is not for faults";
            return Err(TransportError::Protocol { what });
        }
        prioritise(&send, StreamKind::Fault)?;
        let bulk = bulk_streams(&shared, answer.bulk_streams).await?;
        let limit = tuning.stall_limit;
        Ok(Link {
            control: Framed::new(Phase::Control, control, limits, limit, &shared),
            fault: Framed::new(Phase::Fault, (send, receive), limits, limit, &shared),
            bulk,
            peer: Peer {
                shared,
                fingerprint: source,
            },
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.acceptor.abort();
        // A link that was taken goes on.
        self.endpoint.set_server_config(None);
    }
}

impl Door {
    fn admission(&self) -> std::sync::MutexGuard<'_, Admission> {
        // It is whole after every step, so another holder's panic does not matter.
        let guard = self.admission.lock();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the token good again when what came with `ask` was to be the first of it and failed.
    fn give_up(&self, ask: &Ask, source: Fingerprint) {
        if ask.purpose == Purpose::Open && ask.index == 0 {
            self.admission().release(source);
        }
    }

    /// Makes the handshake, hears what the source asks, and answers.
    async fn admit(&self, incoming: Incoming) -> Result<Admitted, TransportError> {
        let connecting = incoming.accept().map_err(TransportError::lost)?;
        let connection = connecting.await.map_err(TransportError::lost)?;
        let source = peer_fingerprint(&connection)?;
        let stream = connection.accept_bi().await;
        let (mut send, mut receive) = stream.map_err(TransportError::lost)?;
        if kind(&mut receive).await? != StreamKind::Admission {
            let what = "first stream is not for admission";
            return Err(TransportError::Protocol { what });
        }
        let mut bytes = [0; ASK_BYTES];
        let read = receive.read_exact(&mut bytes).await;
        read.map_err(|_| TransportError::Protocol {
            what: "ask cut short",
        })?;
        let exported = exporter(&connection)?;
        let ask = Ask::decode(&bytes, &self.secret, &exported, source).and_then(|ask| {
            self.admission().decide(Instant::now(), ask, source)?;
            Ok(ask)
        });
        let ask = ask.map_err(|code| {
            connection.close(code.varint(), b"");
            TransportError::Refused {
                code,
                text: String::new(),
            }
        })?;
        let answer = Answer {
            bulk_streams: ask.bulk_streams.min(self.tuning.bulk_streams),
            bulk_connections: ask.bulk_connections.min(self.tuning.bulk_connections),
            stream_window_bytes: self.tuning.stream_window_bytes,
        };
        prioritise(&send, StreamKind::Admission)?;
        // Eight bytes fit into any window: this does not wait.
        let written = send.write_all(&answer.encode()).await;
        written.map_err(|error| {
            self.give_up(&ask, source);
            TransportError::write(Phase::Admission, error)
        })?;
        Ok(Admitted {
            connection,
            stream: (send, receive),
            ask,
            answer,
            source,
        })
    }
}

/// Looks at everybody who comes, until the endpoint or the receiver is gone.
async fn accept_all(endpoint: Endpoint, door: Arc<Door>, admitted: mpsc::Sender<Admitted>) {
    let slots = Arc::new(Semaphore::new(MAX_PENDING));
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        // Under load, only who can be reached at the address it claims.
        if slots.available_permits() < MAX_PENDING / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (door, admitted) = (Arc::clone(&door), admitted.clone());
        tokio::spawn(async move {
            let limit = door.tuning.handshake_limit;
            match timeout(limit, door.admit(incoming)).await {
                Ok(Ok(new)) => {
                    if let Err(unwanted) = admitted.try_send(new) {
                        let unwanted = unwanted.into_inner();
                        unwanted.connection.close(CloseCode::Busy.varint(), b"");
                        door.give_up(&unwanted.ask, unwanted.source);
                    }
                }
                Ok(Err(error)) => tracing::info!(%address, %error, "source not let in"),
                Err(_) => tracing::info!(%address, "source not let in: it said nothing"),
            }
            drop(slot);
        });
    }
}

/// Accepts the bulk streams in any order, from the connections that carry bulk.
async fn bulk_streams(
    shared: &Arc<Shared>,
    count: u8,
) -> Result<Vec<BulkReceiver>, TransportError> {
    let others = shared.connections.len() - 1;
    let mut slots: Vec<Option<BulkReceiver>> = (0..count).map(|_| None).collect();
    for turn in 0..usize::from(count) {
        let connection = match others {
            0 => &shared.connections[0],
            others => &shared.connections[1 + turn % others],
        };
        let stream = connection.accept_uni().await;
        let mut stream = stream.map_err(TransportError::lost)?;
        let slot = match kind(&mut stream).await? {
            StreamKind::Bulk(index) => slots.get_mut(usize::from(index)),
            _ => None,
        };
        match slot {
            Some(slot) if slot.is_none() => *slot = Some(BulkReceiver::new(stream, shared)),
            _ => {
                let what = "bulk stream twice, or without a number";
                return Err(TransportError::Protocol { what });
            }
        }
    }
    Ok(slots.into_iter().flatten().collect())
}

async fn kind(stream: &mut RecvStream) -> Result<StreamKind, TransportError> {
    let what = "stream of no known kind";
    let mut byte = [0];
    let read = stream.read_exact(&mut byte).await;
    read.map_err(|error| match error {
        quinn::ReadExactError::ReadError(error) => TransportError::read(Phase::Streams, error),
        quinn::ReadExactError::FinishedEarly(_) => TransportError::Protocol { what },
    })?;
    StreamKind::from_byte(byte[0]).ok_or(TransportError::Protocol { what })
}

fn prioritise(stream: &SendStream, kind: StreamKind) -> Result<(), TransportError> {
    let phase = Phase::Streams;
    stream
        .set_priority(kind.priority())
        .map_err(|_| TransportError::Broken { phase })
}

fn peer_fingerprint(connection: &Connection) -> Result<Fingerprint, TransportError> {
    let chain = connection.peer_identity();
    let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let first = chain.and_then(|chain| chain.first().map(|own| Fingerprint::of(own)));
    first.ok_or(TransportError::Protocol {
        what: "no certificate",
    })
}

fn unix_seconds_after(valid_for: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    now.saturating_add(valid_for).as_secs()
}
