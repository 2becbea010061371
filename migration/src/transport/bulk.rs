//! Bulk streams: bytes from source to target, as many and as fast as the link takes.
//!
//! On a connection of its own, bulk is buffered by QUIC in proportion to what is under way, as the
//! kernel does for TCP: the time that a write takes then tells what the link carries, and no memory
//! is spent on what only waits. (Beside control and faults it must not be: with less than all
//! windows together, bulk could fill the buffer that they need.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::{Connection, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

use super::connections::Shared;
use super::error::{CloseCode, Phase, TransportError};
use super::stall::StallDetector;

const PHASE: Phase = Phase::Bulk;

/// What QUIC buffers of bulk, in congestion windows: one under way and one that follows.
const BUFFERED_WINDOWS: u64 = 2;
/// The least and the most of it for a connection, bytes. The most is what the streams' windows let
/// through by default, and little enough to stay in a processor's cache.
const LEAST_BUFFERED: u64 = 1 << 20;
const MOST_BUFFERED: u64 = 8 << 20;

/// Bytes that passed through a stream, to be looked at from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct ByteCount(Arc<AtomicU64>);

impl ByteCount {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The source's end of a bulk stream.
#[derive(Debug)]
pub struct BulkSender {
    stream: SendStream,
    connection: Connection,
    stall_limit: Duration,
    written: ByteCount,
    shared: Arc<Shared>,
}

impl BulkSender {
    pub(super) fn new(
        stream: SendStream,
        connection: Connection,
        stall_limit: Duration,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            stream,
            connection,
            stall_limit,
            written: ByteCount::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Bytes that QUIC took: sent, or within the windows about to be.
    #[must_use]
    pub fn written(&self) -> &ByteCount {
        &self.written
    }

    /// From now on somebody may wait for what goes besides bulk, so that bulk makes a shorter queue, on
    /// all streams of the link.
    pub fn make_way(&self) {
        self.shared.bound.make_urgent();
    }

    /// Writes all of `bytes`, within the link's cap. When the future is dropped, part of them may
    /// have been written.
    ///
    /// # Errors
    /// [`TransportError::Stalled`] when the target takes nothing for the stall limit; or the link
    /// or stream ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.fit_buffer();
            let (piece, later) = rest.split_at(rest.len().min(self.shared.cap.piece_bytes()));
            self.shared.cap.spend(piece.len()).await;
            self.write_piece(piece).await?;
            rest = later;
        }
        Ok(())
    }

    /// As [`BulkSender::write`], without a copy: QUIC keeps `bytes` until the target has them.
    ///
    /// # Errors
    /// As [`BulkSender::write`].
    pub async fn write_owned(&mut self, bytes: Vec<u8>) -> Result<(), TransportError> {
        if self.shared.cap.is_set() {
            // In the cap's pieces.
            return self.write(&bytes).await;
        }
        let mut left = bytes.len();
        let mut rest = [bytes.into()];
        while left > 0 {
            self.fit_buffer();
            let mut detector = self.detector();
            let taken = loop {
                let writing = self.stream.write_chunks(&mut rest);
                match timeout(detector.interval(), writing).await {
                    Ok(written) => break written.map(|written| written.bytes),
                    Err(_) => self.still_moves(&mut detector)?,
                }
            };
            left -= self.took(taken)?;
        }
        Ok(())
    }

    async fn write_piece(&mut self, mut piece: &[u8]) -> Result<(), TransportError> {
        while !piece.is_empty() {
            let mut detector = self.detector();
            let taken = loop {
                match timeout(detector.interval(), self.stream.write(piece)).await {
                    Ok(written) => break written,
                    Err(_) => self.still_moves(&mut detector)?,
                }
            };
            piece = &piece[self.took(taken)?..];
        }
        Ok(())
    }

    fn detector(&self) -> StallDetector {
        StallDetector::new(Instant::now(), self.stall_limit, self.frames_sent())
    }

    fn still_moves(&self, detector: &mut StallDetector) -> Result<(), TransportError> {
        let observed = detector.observe(Instant::now(), self.frames_sent());
        observed.map_err(|stall| TransportError::Stalled {
            phase: PHASE,
            waited: stall.waited,
        })
    }

    /// Counts what QUIC took.
    fn took(&self, taken: Result<usize, WriteError>) -> Result<usize, TransportError> {
        let taken =
            taken.map_err(|error| self.shared.explain(TransportError::write(PHASE, error)))?;
        self.written.add(taken);
        Ok(taken)
    }

    /// Lets QUIC buffer as much as the path has use for.
    fn fit_buffer(&self) {
        if self.shared.connections.len() > 1 {
            let under_way = self.connection.stats().path.cwnd;
            let buffered = under_way.saturating_mul(BUFFERED_WINDOWS);
            let buffered = buffered.clamp(LEAST_BUFFERED, MOST_BUFFERED);
            self.connection.set_send_window(buffered);
        }
    }

    /// Ends the stream and waits until the target's QUIC has all of it.
    ///
    /// # Errors
    /// [`TransportError::Stalled`] after `wait`; or the link or stream ended.
    pub async fn finish(mut self, wait: Duration) -> Result<(), TransportError> {
        // An error means that the stream has ended, which the next line tells better.
        let _ = self.stream.finish();
        let stopped = timeout(wait, self.stream.stopped()).await;
        match stopped {
            Err(_) => Err(TransportError::Stalled {
                phase: PHASE,
                waited: wait,
            }),
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(code))) => Err(TransportError::StreamEnded {
                phase: PHASE,
                code: CloseCode::from_number(code.into_inner()),
            }),
            Ok(Err(_)) => Err(self.shared.ended()),
        }
    }

    /// Grows as long as data goes out, also that which QUIC took earlier.
    fn frames_sent(&self) -> u64 {
        self.connection.stats().frame_tx.stream
    }
}

/// The target's end of a bulk stream.
#[derive(Debug)]
pub struct BulkReceiver {
    stream: RecvStream,
    read: ByteCount,
    shared: Arc<Shared>,
}

impl BulkReceiver {
    pub(super) fn new(stream: RecvStream, shared: &Arc<Shared>) -> Self {
        Self {
            stream,
            read: ByteCount::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Bytes that were read.
    #[must_use]
    pub fn received(&self) -> &ByteCount {
        &self.read
    }

    /// Reads what has come, at least a byte unless the stream ended: then 0. A future that is dropped
    /// loses nothing. Nothing bounds the wait but the death of the peer: a source may have nothing
    /// to send.
    ///
    /// # Errors
    /// The link or stream ended out of order.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TransportError> {
        let read = self.stream.read(buffer).await;
        let read = read.map_err(|error| self.shared.explain(TransportError::read(PHASE, error)))?;
        let bytes = read.unwrap_or(0);
        self.read.add(bytes);
        Ok(bytes)
    }

    /// Fills `buffer`, each part of it coming within `wait` of the one before. To be used once a
    /// record has begun: then the source owes the rest. Not to be dropped before its end.
    ///
    /// # Errors
    /// [`TransportError::Stalled`]; [`TransportError::StreamEnded`] when the stream ends before
    /// `buffer` is full; or the link or stream ended out of order.
    pub async fn read_exact(
        &mut self,
        buffer: &mut [u8],
        wait: Duration,
    ) -> Result<(), TransportError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = timeout(wait, self.read(&mut buffer[filled..])).await;
            match read.map_err(|_| TransportError::Stalled {
                phase: PHASE,
                waited: wait,
            })?? {
                0 => {
                    return Err(TransportError::StreamEnded {
                        phase: PHASE,
                        code: CloseCode::Done,
                    });
                }
                bytes => filled += bytes,
            }
        }
        Ok(())
    }
}
