//! The listening side.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;
use godwit_proto::peer::{PeerRequest, PeerResponse};
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::tls::peer_of;
use super::wire;

/// A future of a trait's method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long the making of a connection may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Connections that have shown no certificate, at a time.
const MAX_STRANGERS: usize = 16;
/// How long such a connection may last.
const STRANGER_TIME: Duration = Duration::from_secs(10);

/// Raw bytes, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a request is answered with.
pub enum Reply {
    /// A message.
    Response(PeerResponse),
    /// [`PeerResponse::Done`], and then these bytes until one side ends.
    Stream(Box<dyn Duplex>),
}

impl From<PeerResponse> for Reply {
    fn from(response: PeerResponse) -> Self {
        Self::Response(response)
    }
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one; `from` proved who it is, `None` of a stranger. Dropped when the peer is gone.
    fn handle(
        self: Arc<Self>,
        from: Option<NodeId>,
        request: PeerRequest,
    ) -> BoxFuture<'static, Reply>;
}

/// Serves peers until it is dropped.
pub struct PeerServer {
    endpoint: Endpoint,
    acceptor: tokio::task::JoinHandle<()>,
}

impl PeerServer {
    pub(super) fn start(endpoint: Endpoint, handler: Arc<dyn Handler>) -> Self {
        let acceptor = tokio::spawn(accept(endpoint.clone(), handler));
        Self { endpoint, acceptor }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.endpoint.close(0_u32.into(), b"the node ends");
    }
}

async fn accept(endpoint: Endpoint, handler: Arc<dyn Handler>) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(serve(incoming, handler.clone(), strangers.clone()));
    }
}

async fn serve(incoming: Incoming, handler: Arc<dyn Handler>, strangers: Arc<Semaphore>) {
    let address = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_TIME, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "no connection"),
        Err(_) => return tracing::debug!(%address, "no connection in time"),
    };
    match peer_of(&connection) {
        Some(peer) => requests(&connection, Some(peer), &handler).await,
        None => {
            let Ok(_place) = strangers.try_acquire() else {
                return connection.close(1_u32.into(), b"too many strangers");
            };
            let _ = timeout(STRANGER_TIME, requests(&connection, None, &handler)).await;
            connection.close(0_u32.into(), b"");
        }
    }
}

async fn requests(connection: &Connection, from: Option<NodeId>, handler: &Arc<dyn Handler>) {
    while let Ok((send, receive)) = connection.accept_bi().await {
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(send, receive, from, handler).await {
                tracing::debug!(?from, %error, "a request was not answered");
            }
        });
    }
}

async fn answer(
    mut send: SendStream,
    mut receive: RecvStream,
    from: Option<NodeId>,
    handler: Arc<dyn Handler>,
) -> Result<(), wire::WireError> {
    let received = timeout(REQUEST_TIME, wire::receive_request(&mut receive)).await;
    let request = match received {
        Ok(Ok(request)) => request,
        Ok(Err(error @ (wire::WireError::Frame(_) | wire::WireError::Message(_)))) => {
            let coded = CodedError::from_error(ErrorCode::PeerProtocol, &error);
            wire::send_response(&mut send, &PeerResponse::Error(coded)).await?;
            let _ = send.finish();
            return Ok(());
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(wire::WireError::Ended),
    };
    let stranger = from.is_none() && !matches!(request, PeerRequest::Join(_));
    let reply = match stranger {
        true => PeerResponse::Error(CodedError::new(
            ErrorCode::PeerProtocol,
            "only nodes of this cluster may ask this",
        ))
        .into(),
        false => tokio::select! {
            reply = handler.handle(from, request) => reply,
            // Nobody waits for it any more.
            _ = send.stopped() => return Ok(()),
        },
    };
    match reply {
        Reply::Response(response) => {
            wire::send_response(&mut send, &response).await?;
            let _ = send.finish();
        }
        Reply::Stream(mut stream) => {
            wire::send_response(&mut send, &PeerResponse::Done).await?;
            let mut peer = tokio::io::join(receive, send);
            // Either side may end it at any moment.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut peer).await;
            let _ = peer.shutdown().await;
        }
    }
    Ok(())
}
