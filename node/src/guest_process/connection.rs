//! One end of a stream of messages: frames over a Unix socket, each within its time.
//!
//! Between two frames the peer may be silent for ever; within one it may not, so that a peer that
//! stops halfway is let go. Keeps at most one frame of the largest size.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::{self, Frame, FrameDecoder, FrameError, FrameKind, Limits};
use godwit_proto::process::MessageError;
use godwit_proto::version::{VersionError, VersionRange};

use crate::wait::{self, Watched};

/// From the first byte of a frame to its last, and for sending one.
pub const FRAME_TIME: Duration = Duration::from_secs(10);
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// Why a stream of messages is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer sent what is no frame.
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
    /// The peer sent what is no message.
    #[error("the peer broke the protocol")]
    Message(#[from] MessageError),
    /// The peer speaks no version that this build speaks.
    #[error("no common version")]
    Version(#[from] VersionError),
    /// The peer sent a message before its hello.
    #[error("the peer sent a {found:?} frame in place of its hello")]
    NoHello {
        /// What it sent.
        found: FrameKind,
    },
    /// The peer took too long.
    #[error("the peer did not {what} within {} s", .within.as_secs())]
    TooSlow {
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        within: Duration,
    },
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
}

impl ConnectionError {
    /// The reason as programs see it.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io(_) | Self::Closed => ErrorCode::Other,
            _ => ErrorCode::PeerProtocol,
        }
    }

    /// The failure as told to a user or the peer.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        let coded = CodedError::from_error(self.code(), self);
        match self {
            Self::Version(_) => coded.with_fix("use a godwit of about the same version"),
            Self::Io(_) | Self::Closed => coded.with_fix("look whether the guest process runs"),
            Self::TooSlow { .. } => coded.with_fix("try again when the machine is less busy"),
            _ => coded.with_fix("only godwit speaks on this socket"),
        }
    }
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Received {
    /// A frame.
    Frame(Frame),
    /// The peer closed the stream between two frames.
    Closed,
    /// What was to wake the receiver did.
    Woken,
}

/// A stream of frames.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    decoder: FrameDecoder,
    /// Read from the stream, not taken by the decoder yet.
    unread: Vec<u8>,
}

impl Connection {
    /// Frames over `stream`, taken within `limits`.
    pub(crate) fn new(stream: UnixStream, limits: Limits) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: FrameDecoder::new(limits),
            unread: Vec::new(),
        })
    }

    /// Sends whole frames.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        let deadline = Instant::now() + FRAME_TIME;
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let [room] = wait::ready([Watched::writable(&self.stream)], Some(deadline))?;
                    if !room {
                        return Err(ConnectionError::TooSlow {
                            what: "take a message",
                            within: FRAME_TIME,
                        });
                    }
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Err(ConnectionError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next frame. It may begin any time until `idle`, and must end in [`FRAME_TIME`] from there.
    /// `wake` ends the wait between two frames.
    pub(crate) fn receive(
        &mut self,
        wake: Option<BorrowedFd<'_>>,
        idle: Option<Duration>,
    ) -> Result<Received, ConnectionError> {
        let began = Instant::now();
        let mut frame_began = None;
        loop {
            if let Some(frame) = self.pop()? {
                return Ok(Received::Frame(frame));
            }
            let within_frame = self.decoder.end().is_err();
            if within_frame {
                frame_began.get_or_insert_with(Instant::now);
            }
            let (what, from, within) = match frame_began {
                Some(from) => ("finish a message", from, Some(FRAME_TIME)),
                None => ("send a message", began, idle),
            };
            // Whoever is within a frame is not woken: the frame has its own end.
            let wake = wake
                .filter(|_| !within_frame)
                .unwrap_or(self.stream.as_fd());
            let watched = [Watched::readable(&self.stream), Watched::readable(&wake)];
            match wait::ready(watched, within.map(|within| from + within))? {
                [false, true] => return Ok(Received::Woken),
                [false, false] => {
                    let within = within.unwrap_or_default();
                    return Err(ConnectionError::TooSlow { what, within });
                }
                [true, _] => {}
            }
            if !self.read()? {
                self.decoder.end()?;
                return Ok(Received::Closed);
            }
        }
    }

    /// The bytes that were received and are of no frame, and the stream, for another use.
    pub(crate) fn into_stream(self) -> (UnixStream, Vec<u8>) {
        let mut rest = self.decoder.into_rest();
        rest.extend(self.unread);
        (self.stream, rest)
    }

    /// Says which versions this build speaks.
    pub(crate) fn send_hello(&mut self, versions: VersionRange) -> Result<(), ConnectionError> {
        self.send(&frame::encode_hello(versions))
    }

    /// Waits for the peer's hello and settles on a version.
    pub(crate) fn receive_hello(&mut self, ours: VersionRange) -> Result<u16, ConnectionError> {
        match self.receive(None, Some(FRAME_TIME))? {
            Received::Frame(frame) if frame.kind == FrameKind::Hello => {
                Ok(ours.settle(VersionRange::from_bytes(&frame.payload)?)?)
            }
            Received::Frame(frame) => Err(ConnectionError::NoHello { found: frame.kind }),
            Received::Closed | Received::Woken => Err(ConnectionError::Closed),
        }
    }

    fn pop(&mut self) -> Result<Option<Frame>, ConnectionError> {
        loop {
            if let Some(frame) = self.decoder.pop()? {
                return Ok(Some(frame));
            }
            if self.unread.is_empty() {
                return Ok(None);
            }
            let taken = self.decoder.push(&self.unread);
            self.unread.drain(..taken);
        }
    }

    /// Reads what there is; false at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(true),
                // A peer that closes with our bytes unread.
                ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error),
            },
        }
    }
}
