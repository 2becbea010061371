//! Connections: accepted, counted, served, ended.
//!
//! ```text
//! Accept --> a slot of MAX_CONNECTIONS --> handshake (bounded) --> HTTP/1.1 --> Router
//!                |                                                    |
//!                none: 503, closed                                    reads nothing for a while: cut
//! ```
//!
//! [`serve`] ends when `stop` becomes true or is dropped: it accepts nothing more, watches and
//! consoles end, answers that are under way have [`GRACE`] to get done, what is left is cut.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Caller, Connection};
use super::error::ApiError;
use super::guarded::Guarded;

/// Connections at once, watches and consoles among them.
pub const MAX_CONNECTIONS: usize = 256;
/// Connections at once that are told that there are too many.
const MAX_TURNED_AWAY: usize = 64;
/// How long a connection may take until it can carry requests.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// How long answers under way may take when the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// After a failure to accept, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What a test makes shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a client may take nothing of what there is for it.
    pub(super) patience: Duration,
    /// How long the head of a request may take, and a connection may lie idle.
    pub(super) head_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(15),
            head_time: Duration::from_secs(60),
        }
    }
}

/// Where connections come from.
pub trait Accept: Send {
    /// The bytes of a connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// What a connection does until it can carry requests: a TLS handshake, or nothing.
    type Handshake: Future<Output = io::Result<(Self::Stream, Caller)>> + Send + 'static;

    /// The next connection. Cancelling it loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Handshake>> + Send;
}

/// Serves `router` to whoever connects, until `stop` becomes true or is dropped.
pub async fn serve<A: Accept>(router: Router, listener: A, stop: watch::Receiver<bool>) {
    serve_within(Limits::default(), router, listener, stop).await;
}

pub(super) async fn serve_within<A: Accept>(
    limits: Limits,
    router: Router,
    mut listener: A,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let turned_away = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // A stop that nobody can give any more was given.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let handshake = match accepted {
            Ok(handshake) => handshake,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let connection = one(limits, router.clone(), handshake, slot, stop.clone());
                connections.spawn(connection);
            }
            Err(_) => {
                // One more than that is closed without a word.
                if let Ok(slot) = turned_away.clone().try_acquire_owned() {
                    connections.spawn(turn_away(limits, handshake, slot));
                }
            }
        }
    }
    drop(listener);
    let ended = timeout(GRACE, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::info!(left = connections.len(), "connections are cut");
        connections.shutdown().await;
    }
}

async fn one<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    limits: Limits,
    router: Router,
    handshake: impl Future<Output = io::Result<(S, Caller)>>,
    slot: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let Ok(Ok((stream, caller))) = timeout(HANDSHAKE_TIME, handshake).await else {
        return;
    };
    let connection = Connection::new(caller, stop.clone(), slot);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let router = TowerToHyperService::new(router.clone());
        hyper::service::Service::call(&router, request)
    });
    let stream = TokioIo::new(Guarded::new(stream, limits.patience));
    let served = http(limits)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    // What ends a connection is its client's affair.
    tokio::select! {
        _ = served.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// Answers that there are too many, and closes.
async fn turn_away<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    limits: Limits,
    handshake: impl Future<Output = io::Result<(S, Caller)>>,
    _slot: OwnedSemaphorePermit,
) {
    let answered = async {
        let (stream, _) = handshake.await?;
        let service = service_fn(|_: Request<Incoming>| async {
            let message = format!("{MAX_CONNECTIONS} connections are open already");
            let error = CodedError::new(ErrorCode::Busy, message)
                .with_fix("end watches and consoles that nobody needs, or ask another node");
            Ok::<_, Infallible>(ApiError::from(error).into_response())
        });
        let stream = TokioIo::new(Guarded::new(stream, limits.patience));
        let served = http(limits)
            .keep_alive(false)
            .serve_connection(stream, service);
        served.await.map_err(io::Error::other)
    };
    let _ = timeout(HANDSHAKE_TIME, answered).await;
}

fn http(limits: Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES.max(64 << 10));
    http
}
