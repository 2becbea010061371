//! The calling side.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;
use godwit_proto::peer::{JoinRequest, Joined, Peer, PeerRequest, PeerResponse};
use quinn::{ConnectError, Connection, ConnectionError, Endpoint};
use tokio::time::timeout;

use super::server::{Duplex, Handler, PeerServer};
use super::tls::{self, TlsError};
use super::wire::{self, WireError};
use crate::identity::{Credentials, JoinToken, name_of};

/// How long one address is tried.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Why a node was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask {peer}: {what}")]
pub struct PeerError {
    /// Whom.
    peer: String,
    /// What happened.
    what: String,
    /// Whether the request was not sent at all.
    pub unsent: bool,
}

impl PeerError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        CodedError::from_error(ErrorCode::NoQuorum, self)
            .with_fix("look whether the node runs and can be reached over UDP")
    }
}

/// Ways to the other nodes. Cheap to clone; connections are shared and made when they are needed.
#[derive(Clone)]
pub struct Peers {
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    ways: Arc<Mutex<HashMap<NodeId, Arc<Way>>>>,
}

/// To one node.
#[derive(Default)]
struct Way {
    /// One at a time connects.
    connection: tokio::sync::Mutex<Option<(String, Connection)>>,
}

impl Peers {
    /// Listens on `address` (UDP), and can call others from there.
    ///
    /// # Errors
    /// The address is taken, or the certificate of no use.
    pub fn bind(address: SocketAddr, credentials: &Credentials) -> Result<Self, CodedError> {
        let server = tls::server(credentials).map_err(|error| unusable(&error))?;
        let endpoint = Endpoint::server(server, address).map_err(|error| {
            let text = format!("cannot listen on {address} (UDP): {error}");
            CodedError::new(ErrorCode::Other, text).with_fix("choose another address with --listen")
        })?;
        let config = tls::client(credentials).map_err(|error| unusable(&error))?;
        Ok(Self {
            endpoint,
            config,
            ways: Arc::default(),
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Answers what others ask.
    #[must_use]
    pub fn serve(&self, handler: Arc<dyn Handler>) -> PeerServer {
        PeerServer::start(self.endpoint.clone(), handler)
    }

    /// Asks `peer`, and waits for the answer for `within`.
    ///
    /// # Errors
    /// It was not reached, did not answer, or broke the protocol.
    pub async fn call(
        &self,
        peer: &Peer,
        request: &PeerRequest,
        within: Duration,
    ) -> Result<PeerResponse, PeerError> {
        let failed = |what: String, unsent| PeerError {
            peer: format!("node {} at {}", peer.id, peer.address),
            what,
            unsent,
        };
        let mut unsent = true;
        let asking = async {
            let (mut send, mut receive) = self.open(peer).await.map_err(|w| failed(w, true))?;
            unsent = false;
            let exchanged = async {
                wire::send_request(&mut send, request).await?;
                let _ = send.finish();
                wire::receive_response(&mut receive).await
            };
            let (response, _) = exchanged
                .await
                .map_err(|error: WireError| failed(chain(&error), false))?;
            Ok(response)
        };
        let asked = timeout(within, asking).await;
        asked.unwrap_or_else(|_| {
            let text = format!("no answer within {} ms", within.as_millis());
            Err(failed(text, unsent))
        })
    }

    /// Asks `peer` for a stream of raw bytes.
    ///
    /// # Errors
    /// As [`Peers::call`], or what it refuses.
    pub async fn stream(
        &self,
        peer: &Peer,
        request: &PeerRequest,
        within: Duration,
    ) -> Result<Box<dyn Duplex>, CodedError> {
        let failed = |what: String| {
            let error = PeerError {
                peer: format!("node {} at {}", peer.id, peer.address),
                what,
                unsent: false,
            };
            error.coded()
        };
        let asking = async {
            let (mut send, mut receive) = self.open(peer).await.map_err(failed)?;
            let sent = wire::send_request(&mut send, request).await;
            sent.map_err(|error| failed(chain(&error)))?;
            let answer = wire::receive_response(&mut receive).await;
            match answer.map_err(|error| failed(chain(&error)))? {
                (PeerResponse::Done, rest) => {
                    let receive =
                        tokio::io::AsyncReadExt::chain(std::io::Cursor::new(rest), receive);
                    Ok(Box::new(tokio::io::join(receive, send)) as Box<dyn Duplex>)
                }
                (PeerResponse::Error(error), _) => Err(error),
                _ => Err(failed("it does not answer what it was asked".into())),
            }
        };
        let asked = timeout(within, asking).await;
        asked.unwrap_or_else(|_| {
            Err(failed(format!(
                "no answer within {} ms",
                within.as_millis()
            )))
        })
    }

    async fn open(&self, peer: &Peer) -> Result<(quinn::SendStream, quinn::RecvStream), String> {
        let way = {
            let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
            ways.entry(peer.id).or_default().clone()
        };
        let mut connection = way.connection.lock().await;
        if let Some((address, known)) = &*connection
            && *address == peer.address
            && known.close_reason().is_none()
        {
            let known = known.clone();
            drop(connection);
            return known.open_bi().await.map_err(|error| chain(&error));
        }
        *connection = None;
        let name = name_of(peer.id);
        let made = connect(&self.endpoint, &self.config, &peer.address, &name).await?;
        *connection = Some((peer.address.clone(), made.clone()));
        drop(connection);
        made.open_bi().await.map_err(|error| chain(&error))
    }

    /// Ends every connection, after what was sent had a moment to arrive.
    pub async fn close(&self) {
        self.endpoint.close(0_u32.into(), b"the node ends");
        let _ = timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
    }
}

/// Asks the nodes that `token` names, one after the other, to be admitted.
///
/// # Errors
/// None of them could be reached, or one refused.
pub async fn join(token: &JoinToken, request: JoinRequest) -> Result<Joined, CodedError> {
    let config = tls::joiner(token.authority).map_err(|error| unusable(&error))?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let endpoint =
        Endpoint::client(any).map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    let request = PeerRequest::Join(request);
    let mut reasons = Vec::new();
    for address in &token.addresses {
        let asked = timeout(CONNECT_TIME * 2, ask(&endpoint, &config, address, &request)).await;
        match asked {
            Ok(Ok(PeerResponse::Joined(joined))) => return Ok(joined),
            Ok(Ok(PeerResponse::Error(error))) => return Err(error),
            Ok(Ok(_)) => reasons.push(format!("{address}: it does not answer what it was asked")),
            Ok(Err(what)) => reasons.push(format!("{address}: {what}")),
            Err(_) => reasons.push(format!("{address}: no answer")),
        }
    }
    let text = format!(
        "no node of the cluster can be asked ({})",
        reasons.join("; ")
    );
    Err(CodedError::new(ErrorCode::NoQuorum, text)
        .with_fix("look whether the node runs, and whether UDP gets from here to there"))
}

async fn ask(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    address: &str,
    request: &PeerRequest,
) -> Result<PeerResponse, String> {
    // The name is not known before the certificate is.
    let connection = connect(endpoint, config, address, "node.godwit").await?;
    let exchanged = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| chain(&e))?;
        let sent = wire::send_request(&mut send, request).await;
        sent.map_err(|error| chain(&error))?;
        let _ = send.finish();
        let answer = wire::receive_response(&mut receive).await;
        answer.map(|(response, _)| response).map_err(|e| chain(&e))
    };
    let answer = exchanged.await;
    connection.close(0_u32.into(), b"");
    answer
}

async fn connect(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    address: &str,
    name: &str,
) -> Result<Connection, String> {
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| format!("{address} is not found: {error}"))?
        .next()
        .ok_or_else(|| format!("{address} has no address"))?;
    let connecting = endpoint
        .connect_with(config.clone(), resolved, name)
        .map_err(|error: ConnectError| chain(&error))?;
    match timeout(CONNECT_TIME, connecting).await {
        Ok(connection) => connection.map_err(|error: ConnectionError| chain(&error)),
        Err(_) => Err(format!("no connection within {} s", CONNECT_TIME.as_secs())),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn unusable(error: &TlsError) -> CodedError {
    CodedError::from_error(ErrorCode::Other, error)
        .with_fix("restore the node's identity, or remove the node and join it again")
}
