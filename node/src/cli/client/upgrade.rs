//! A connection that stops being HTTP: a console.

use std::io::{self, Read, Write};
use std::thread;

use godwit_proto::api::CONSOLE_PROTOCOL;
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{ANSWER_TIME, Client, SendError, collect, refused, request, send};
use crate::foreground::keys::{Action, Input, Keys};
use crate::foreground::signals::Signals;
use crate::foreground::terminal::RawTerminal;
use crate::wait::{self, Watched};

/// Pieces of input that wait for the console.
const MAX_WAITING: usize = 16;

impl Client {
    /// Connects this terminal with what is at `path`, until the other end closes or the user leaves.
    /// The end of an input that is no terminal leaves the output running.
    pub(in super::super) fn console(&mut self, path: &str) -> Result<(), CodedError> {
        let request = request(&Method::GET, path, None, None);
        let mut request = request.map_err(|error| error.coded())?;
        for (name, value) in [
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, CONSOLE_PROTOCOL),
        ] {
            let headers = request.headers_mut();
            headers.insert(name, header::HeaderValue::from_static(value));
        }
        let (socket, connection) = (&self.socket, &mut self.connection);
        self.runtime.block_on(async {
            let connected = async {
                let response = send(socket, connection, request).await;
                let response = response.map_err(|error| error.coded())?;
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    let reply = collect(response).await.map_err(|error| error.coded())?;
                    return Err(refused(&reply));
                }
                let upgraded = hyper::upgrade::on(response).await;
                upgraded.map_err(|error| SendError::Broke(error).coded())
            };
            let upgraded = timeout(ANSWER_TIME, connected).await;
            let upgraded = upgraded.unwrap_or_else(|_| Err(SendError::TimedOut.coded()))?;
            *connection = None;
            carry(TokioIo::new(upgraded)).await
        })
    }
}

/// Carries bytes both ways.
async fn carry<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    stream: S,
) -> Result<(), CodedError> {
    let failed = |error: io::Error| CodedError::from_error(ErrorCode::Console, &error);
    let terminal = RawTerminal::enter(&io::stdin()).map_err(failed)?;
    let escapes = terminal.is_some();
    if escapes {
        let _ = writeln!(io::stderr(), "godwit: Ctrl-A x leaves; the guest runs on");
    }
    let mut asked_to_end = watch_signals().map_err(failed)?;
    let mut input = read_stdin(escapes);
    let (mut from, mut to) = tokio::io::split(stream);
    let mut chunk = [0; 4096];
    let mut has_input = true;
    loop {
        tokio::select! {
            read = from.read(&mut chunk) => match read {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let mut stdout = io::stdout();
                    let written = stdout.write_all(&chunk[..length]);
                    written.and_then(|()| stdout.flush()).map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(failed(error)),
            },
            typed = input.recv(), if has_input => match typed {
                // A console that takes nothing is left, too, when that is asked for.
                Some(Typed::Bytes(bytes)) => tokio::select! {
                    written = to.write_all(&bytes) => written.map_err(failed)?,
                    _ = &mut asked_to_end => return Ok(()),
                },
                Some(Typed::Leave) => return Ok(()),
                None => has_input = false,
            },
            _ = &mut asked_to_end => return Ok(()),
        }
    }
}

/// Ready once a signal asks for the end, which must not leave the terminal raw.
fn watch_signals() -> io::Result<oneshot::Receiver<()>> {
    let signals = Signals::install()?;
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        // Without this watch the signals would do nothing: then the console ends at once.
        let _ = wait::ready([Watched::readable(&signals)], None);
        let _ = sender.send(());
    });
    Ok(receiver)
}

/// What came in from the user.
enum Typed {
    Bytes(Vec<u8>),
    Leave,
}

/// Reads standard input in a thread of its own, which ends with it or with the program.
fn read_stdin(escapes: bool) -> mpsc::Receiver<Typed> {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    thread::spawn(move || {
        let mut keys = Keys::default();
        let mut chunk = [0; 4096];
        loop {
            let typed = match io::stdin().read(&mut chunk) {
                Ok(0) => return,
                Ok(length) if escapes => keys.read(&chunk[..length]),
                Ok(length) => vec![Input::Guest(chunk[..length].to_vec())],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            for input in typed {
                let typed = match input {
                    Input::Guest(bytes) => Typed::Bytes(bytes),
                    Input::Do(Action::Leave) => Typed::Leave,
                    // The other keys are for who owns the guest.
                    Input::Do(_) => continue,
                };
                if sender.blocking_send(typed).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}
