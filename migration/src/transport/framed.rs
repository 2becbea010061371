//! Frames on a bidirectional stream: control messages, and faults.

use std::sync::Arc;
use std::time::Duration;

use godwit_proto::frame::{self, Frame, FrameDecoder, FrameKind, Limits};
use godwit_proto::version::VersionRange;
use quinn::{Chunk, RecvStream, SendStream};
use tokio::time::timeout;

use super::connections::Shared;
use super::error::{CloseCode, Phase, TransportError};

/// Bytes taken from the stream at once.
const READ_BYTES: usize = 64 << 10;

/// The two directions of a framed stream; they can be used apart.
#[derive(Debug)]
pub struct Framed {
    /// To the peer.
    pub sender: FrameSender,
    /// From the peer.
    pub receiver: FrameReceiver,
}

impl Framed {
    pub(super) fn new(
        phase: Phase,
        (send, receive): (SendStream, RecvStream),
        limits: Limits,
        stall_limit: Duration,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            sender: FrameSender {
                phase,
                stream: send,
                max_payload_bytes: limits.max_payload_bytes,
                stall_limit,
                broken: false,
                shared: Arc::clone(shared),
            },
            receiver: FrameReceiver {
                phase,
                stream: receive,
                decoder: FrameDecoder::new(limits),
                rest: None,
                shared: Arc::clone(shared),
            },
        }
    }
}

/// Sends frames.
#[derive(Debug)]
pub struct FrameSender {
    phase: Phase,
    stream: SendStream,
    max_payload_bytes: u32,
    stall_limit: Duration,
    /// A frame was cut short, so no other can follow.
    broken: bool,
    shared: Arc<Shared>,
}

impl FrameSender {
    /// Sends one frame: returns when QUIC has taken all of it, not when it arrived.
    ///
    /// When the returned future is dropped before its end, the sender is broken.
    ///
    /// # Errors
    /// [`TransportError::Frame`] when the payload is too long, before any of it is sent; otherwise
    /// the stream is of no more use.
    pub async fn send(
        &mut self,
        kind: FrameKind,
        version: u16,
        payload: &[u8],
    ) -> Result<(), TransportError> {
        let phase = self.phase;
        let bytes = frame::encode(kind, version, payload, self.max_payload_bytes)
            .map_err(|source| TransportError::Frame { phase, source })?;
        self.write(&bytes).await
    }

    /// Sends the hello that begins the settling of a version.
    ///
    /// # Errors
    /// As [`FrameSender::send`].
    pub async fn send_hello(&mut self, versions: VersionRange) -> Result<(), TransportError> {
        self.write(&frame::encode_hello(versions)).await
    }

    /// Says that no frame follows.
    pub fn finish(&mut self) {
        // An error means that the stream or the connection has already ended.
        let _ = self.stream.finish();
    }

    /// Says that no frame follows, and waits, at most `wait`, until the peer's QUIC has all of them;
    /// returns whether it has.
    pub async fn finish_within(&mut self, wait: Duration) -> bool {
        self.finish();
        let stopped = timeout(wait, self.stream.stopped()).await;
        matches!(stopped, Ok(Ok(None)))
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let phase = self.phase;
        if self.broken {
            return Err(TransportError::Broken { phase });
        }
        self.broken = true;
        let waited = self.stall_limit;
        timeout(waited, self.stream.write_all(bytes))
            .await
            .map_err(|_| TransportError::Stalled { phase, waited })?
            .map_err(|error| self.shared.explain(TransportError::write(phase, error)))?;
        self.shared.cap.book(bytes.len());
        self.broken = false;
        Ok(())
    }
}

/// Receives frames.
#[derive(Debug)]
pub struct FrameReceiver {
    phase: Phase,
    stream: RecvStream,
    decoder: FrameDecoder,
    /// What the decoder had no room for, and how much of it is taken.
    rest: Option<(Chunk, usize)>,
    shared: Arc<Shared>,
}

impl FrameReceiver {
    /// The next frame, if it comes within `wait`. A wait that ends or is dropped loses nothing.
    ///
    /// # Errors
    /// [`TransportError::Stalled`] after `wait`, and then it can be asked again;
    /// [`TransportError::StreamEnded`] between two frames; anything else is final.
    pub async fn receive(&mut self, wait: Duration) -> Result<Frame, TransportError> {
        let phase = self.phase;
        let waited = wait;
        timeout(wait, self.next())
            .await
            .unwrap_or(Err(TransportError::Stalled { phase, waited }))
    }

    /// The next frame, however long it takes. The death of the peer still ends it.
    ///
    /// # Errors
    /// As [`FrameReceiver::receive`].
    pub async fn next(&mut self) -> Result<Frame, TransportError> {
        let phase = self.phase;
        let refused = |source| TransportError::Frame { phase, source };
        loop {
            if let Some(frame) = self.decoder.pop().map_err(refused)? {
                return Ok(frame);
            }
            if let Some((chunk, taken)) = &mut self.rest {
                *taken += self.decoder.push(&chunk.bytes[*taken..]);
                if *taken == chunk.bytes.len() {
                    self.rest = None;
                }
                continue;
            }
            let read = self.stream.read_chunk(READ_BYTES, true).await;
            match read.map_err(|error| self.shared.explain(TransportError::read(phase, error)))? {
                Some(chunk) => self.rest = Some((chunk, 0)),
                None => {
                    self.decoder.end().map_err(refused)?;
                    let code = CloseCode::Done;
                    return Err(TransportError::StreamEnded { phase, code });
                }
            }
        }
    }
}
