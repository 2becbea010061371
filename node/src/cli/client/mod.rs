//! A client of the daemon's API, over its Unix socket.
//!
//! It waits for each answer, for a bounded time, and keeps one connection. Every change is sent with a
//! key of its own, so that one whose answer was lost with the connection can be sent again.

mod upgrade;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_proto::api::{Failure, IDEMPOTENCY_KEY, Page, Written};
use godwit_proto::codes::{CodedError, ErrorCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long an answer may take: longer than the daemon lets a request last.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The longest answer, in bytes: a thousand guests with every device are below it.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The longest line of a watch, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// The most parts of a list: 200,000 guests are 200 of them.
const MAX_PAGES: usize = 1000;

/// A client of a daemon.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    runtime: Runtime,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("cannot reach a daemon at {socket:?}")]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the connection to the daemon broke")]
    Broke(#[source] hyper::Error),
    #[error("the daemon did not answer in {} s", ANSWER_TIME.as_secs())]
    TimedOut,
    #[error("the daemon's answer is cut off or too long")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
}

impl SendError {
    fn coded(&self) -> CodedError {
        let code = match self {
            Self::Connect { .. } | Self::Broke(_) => ErrorCode::NoDaemon,
            Self::TimedOut => ErrorCode::Busy,
            Self::Body(_) => ErrorCode::PeerProtocol,
            Self::Request(_) => ErrorCode::Usage,
        };
        let error = CodedError::from_error(code, self);
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                error.with_fix("ask as the user that the daemon runs as")
            }
            Self::Connect { .. } => error
                .with_fix("start `godwit node`, or name its socket with --socket or GODWIT_SOCKET"),
            Self::Broke(_) => error.with_fix("see whether the daemon runs, then ask again"),
            _ => error,
        }
    }
}

impl Client {
    /// A client of the daemon that listens at `socket`. It connects when something is asked.
    pub(super) fn new(socket: &Path) -> Result<Self, CodedError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            socket: socket.into(),
            runtime: runtime.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?,
            connection: None,
        })
    }

    /// Reads a document.
    pub(super) fn get(&mut self, path: &str) -> Result<Value, CodedError> {
        let reply = self.ask(&Method::GET, path, None)?;
        parse(&reply.body)
    }

    /// Reads a whole list; the answer is that of its last part, with the items of all.
    pub(super) fn list(&mut self, path: &str) -> Result<Page<Value>, CodedError> {
        let mut items = Vec::new();
        let mut after = String::new();
        for _ in 0..MAX_PAGES {
            let mark = if path.contains('?') { '&' } else { '?' };
            let part = self.get(&format!("{path}{mark}limit=1000{after}"))?;
            let mut page: Page<Value> = read(part)?;
            items.append(&mut page.items);
            match page.next.take() {
                Some(next) => after = format!("&after={}", segment(&next)),
                None => return Ok(Page { items, ..page }),
            }
        }
        let message = format!("the list {path} does not end");
        Err(CodedError::new(ErrorCode::PeerProtocol, message))
    }

    /// Asks for a change.
    pub(super) fn change<T: Serialize>(
        &mut self,
        method: &Method,
        path: &str,
        document: Option<&T>,
    ) -> Result<Value, CodedError> {
        let body = document.map(|document| {
            let text = serde_json::to_vec(document);
            Bytes::from(text.expect("keys of these documents are text"))
        });
        let reply = self.ask(method, path, body.as_ref())?;
        parse(&reply.body)
    }

    /// The same, with the object as it is then, when that is known.
    pub(super) fn write<T: Serialize>(
        &mut self,
        method: &Method,
        path: &str,
        document: Option<&T>,
    ) -> Result<Written<Value>, CodedError> {
        read(self.change(method, path, document)?)
    }

    /// Shows `line` each line of an answer that does not end, until that fails.
    pub(super) fn watch(
        &mut self,
        path: &str,
        mut line: impl FnMut(&[u8]) -> Result<(), CodedError>,
    ) -> Result<(), CodedError> {
        let request = request(&Method::GET, path, None, None);
        let request = request.map_err(|error| error.coded())?;
        let (socket, connection) = (&self.socket, &mut self.connection);
        self.runtime.block_on(async {
            let sent = timeout(ANSWER_TIME, send(socket, connection, request)).await;
            let response = sent
                .unwrap_or(Err(SendError::TimedOut))
                .map_err(|error| error.coded())?;
            if !response.status().is_success() {
                let reply = collect(response).await.map_err(|error| error.coded())?;
                return Err(refused(&reply));
            }
            let mut body = response.into_body();
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| SendError::Broke(error).coded())?;
                rest.extend_from_slice(&frame.into_data().unwrap_or_default());
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    line(&rest[..end])?;
                    rest.drain(..=end);
                }
                if rest.len() > MAX_LINE_BYTES {
                    let message = "the daemon sent a line that is too long";
                    return Err(CodedError::new(ErrorCode::PeerProtocol, message));
                }
            }
            let message = "the daemon ended the watch";
            Err(CodedError::new(ErrorCode::NoDaemon, message).with_fix("watch again"))
        })
    }

    /// Sends a request and waits for its answer, twice when the connection breaks before.
    fn ask(
        &mut self,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
    ) -> Result<Reply, CodedError> {
        let key = match *method {
            Method::GET => None,
            _ => Some(draw_key()?),
        };
        let (socket, connection) = (&self.socket, &mut self.connection);
        let asked = self.runtime.block_on(async {
            let once = async |connection: &mut _| {
                let request = request(method, path, body.cloned(), key.as_deref())?;
                let answered = async { collect(send(socket, connection, request).await?).await };
                let answered = timeout(ANSWER_TIME, answered).await;
                answered.unwrap_or(Err(SendError::TimedOut))
            };
            match once(connection).await {
                // Done once, however often it is sent.
                Err(SendError::Broke(_)) => {
                    *connection = None;
                    once(connection).await
                }
                asked => asked,
            }
        });
        let reply = asked.map_err(|error| error.coded())?;
        match reply.status.is_success() {
            true => Ok(reply),
            false => Err(refused(&reply)),
        }
    }
}

async fn send(
    socket: &Path,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, SendError> {
    let mut sender = match connection.take() {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let failed = |source| SendError::Connect {
                socket: socket.into(),
                source,
            };
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            let (sender, driver) = handshake(TokioIo::new(stream))
                .await
                .map_err(SendError::Broke)?;
            // How it ends is seen by who waits for an answer.
            tokio::spawn(driver.with_upgrades());
            sender
        }
    };
    sender.ready().await.map_err(SendError::Broke)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(SendError::Broke)?;
    *connection = Some(sender);
    Ok(response)
}

async fn collect(response: Response<Incoming>) -> Result<Reply, SendError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    Ok(Reply {
        status: parts.status,
        body: body.map_err(SendError::Body)?.to_bytes(),
    })
}

fn request(
    method: &Method,
    path: &str,
    body: Option<Bytes>,
    key: Option<&str>,
) -> Result<Request<Full<Bytes>>, SendError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "godwit");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(key) = key {
        request = request.header(IDEMPOTENCY_KEY, key);
    }
    request
        .body(Full::new(body.unwrap_or_default()))
        .map_err(SendError::Request)
}

fn draw_key() -> Result<String, CodedError> {
    let mut bytes = [0_u8; 16];
    let drawn = getrandom(&mut bytes, GetRandomFlags::empty());
    drawn.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    Ok(bytes.map(|byte| format!("{byte:02x}")).concat())
}

fn refused(reply: &Reply) -> CodedError {
    match serde_json::from_slice::<Failure>(&reply.body) {
        Ok(failure) => failure.into(),
        Err(_) => CodedError::new(
            ErrorCode::PeerProtocol,
            format!("the daemon answered {} and does not say why", reply.status),
        ),
    }
}

fn parse(body: &[u8]) -> Result<Value, CodedError> {
    serde_json::from_slice(body).map_err(|error| not_understood(&error))
}

/// A document as a type.
pub(super) fn read<T: DeserializeOwned>(document: Value) -> Result<T, CodedError> {
    serde_json::from_value(document).map_err(|error| not_understood(&error))
}

fn not_understood(error: &serde_json::Error) -> CodedError {
    let mut coded = CodedError::new(
        ErrorCode::PeerProtocol,
        "the daemon's answer is not understood",
    );
    coded.causes.push(error.to_string());
    coded.with_fix("use the program of the daemon's version")
}

/// A name as part of a path or query.
pub(super) fn segment(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes() {
        // What RFC 3986, section 2.3, leaves as it is.
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => segment.push(char::from(byte)),
            false => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_a_path() {
        assert_eq!(segment("web-1"), "web-1");
        assert_eq!(segment("../a?b=c&d#e é"), "..%2Fa%3Fb%3Dc%26d%23e%20%C3%A9");
    }

    #[test]
    fn nobody_there_is_told_with_what_would_help() {
        let mut client = Client::new(Path::new("/nowhere/godwit.sock")).unwrap();
        let error = client.get("/v1/guests").unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoDaemon);
        assert!(error.to_string().contains("--socket"), "{error}");
    }

    /// Reads a request without a body, and answers its head.
    fn head(stream: &mut std::os::unix::net::UnixStream) -> String {
        use std::io::Read;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn a_change_whose_answer_was_lost_is_sent_again_with_its_key() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("godwit.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            let lost = head(&mut first);
            drop(first);
            let (mut second, _) = listener.accept().unwrap();
            let again = head(&mut second);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            second.write_all(answer).unwrap();
            (lost, again)
        });
        let mut client = Client::new(&socket).unwrap();
        let path = "/v1/guests/web/stop";
        let answer = client.change::<()>(&Method::POST, path, None).unwrap();
        assert_eq!(answer, serde_json::json!({}));
        let (lost, again) = server.join().unwrap();
        assert!(lost.contains(IDEMPOTENCY_KEY), "{lost}");
        assert_eq!(lost, again);
    }

    #[test]
    fn an_answer_that_is_not_understood_is_told_as_such() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("godwit.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let answers = [
            "HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\n<html",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
        ];
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                head(&mut stream);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut client = Client::new(&socket).unwrap();
        for _ in answers {
            let error = client.get("/v1/guests").unwrap_err();
            assert_eq!(error.code(), ErrorCode::PeerProtocol);
        }
        server.join().unwrap();
    }
}
