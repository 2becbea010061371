//! Frames out of a stream that arrives in pieces of any size.

use super::{Frame, FrameError, HEADER_BYTES, Limits};

/// Collects bytes and hands out frames. Keeps at most one frame of the largest size.
///
/// ```
/// # use godwit_proto::frame::{FrameDecoder, Limits, encode_hello};
/// # use godwit_proto::version::VersionRange;
/// # let versions = VersionRange::new(1, 1)?;
/// let mut decoder = FrameDecoder::new(Limits { versions, max_payload_bytes: 1 << 20 });
/// let mut received = &encode_hello(versions)[..];
/// let mut frames = Vec::new();
/// while !received.is_empty() {
///     let taken = decoder.push(received);
///     received = &received[taken..];
///     while let Some(frame) = decoder.pop()? {
///         frames.push(frame);
///     }
/// }
/// assert_eq!(frames.len(), 1);
/// decoder.end()?; // the stream ended: was it between two frames?
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// Bytes at the beginning of `buffer` that frames already took.
    taken: usize,
    /// The error after which nothing can be read any more.
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            taken: 0,
            failed: None,
        }
    }

    /// Takes bytes from the front of `bytes` and says how many: all that fit.
    ///
    /// After [`FrameDecoder::pop`] has returned `Ok(None)`, at least one byte of a nonempty slice
    /// is taken. After an error all bytes are taken and dropped.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        if self.failed.is_some() {
            return bytes.len();
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let capacity = HEADER_BYTES + self.limits.max_payload_bytes as usize;
        let fitting = bytes.len().min(capacity - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..fitting]);
        fitting
    }

    /// The next frame; `None` when more bytes are needed. Unknown optional frames are skipped.
    ///
    /// # Errors
    /// Any [`FrameError`] but [`FrameError::Truncated`]; the same again from then on.
    pub fn pop(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match super::decode(&self.buffer[self.taken..], &self.limits) {
                Ok((frame, length)) => {
                    self.taken += length;
                    if frame.is_some() {
                        return Ok(frame);
                    }
                }
                Err(FrameError::Truncated { .. }) => return Ok(None),
                Err(error) => {
                    self.buffer = Vec::new();
                    self.taken = 0;
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// To be called at the end of the stream, with every frame popped.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when the stream ended within a frame, or the error that ended it.
    pub fn end(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let rest = &self.buffer[self.taken..];
        if rest.is_empty() {
            Ok(())
        } else {
            super::decode(rest, &self.limits).map(drop)
        }
    }

    /// Ends the framing and returns the bytes that no frame took: for a stream that turns into
    /// something else after a frame, as a console does.
    #[must_use]
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.taken);
        self.buffer
    }
}
