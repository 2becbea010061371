//! Takes batches of pages out of the bytes of a bulk stream.
//!
//! No I/O: it is fed what came, in pieces of any size. It keeps one batch at most, and allocates
//! for it only after the header has passed every check: 36 bytes, then up to 20 KiB of list and
//! 256 KiB of payload. After an error it gives the same error for ever.

use super::wire::{self, BatchHeader, BatchKind, HEADER_BYTES, MAX_PAGES, Run, WireError};

/// A whole batch. Lengths, order and pages are checked; the content is not.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The fixed part.
    pub header: BatchHeader,
    /// The pages, rising; inside the guest.
    pub runs: &'a [Run],
    pub(crate) list: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Batch<'_> {
    /// Bytes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        (HEADER_BYTES + self.list.len() + self.payload.len()) as u64
    }
}

/// Reads one bulk stream.
#[derive(Debug)]
pub struct BatchReader {
    version: u16,
    guest_pages: u64,
    sequence: u64,
    round: u32,
    header: Option<BatchHeader>,
    buffer: Vec<u8>,
    runs: Vec<Run>,
    taken: bool,
    failed: Option<WireError>,
}

impl BatchReader {
    /// A reader of a stream of this version for a guest of this many pages.
    #[must_use]
    pub fn new(version: u16, guest_pages: u64) -> Self {
        Self {
            version,
            guest_pages: guest_pages.min(MAX_PAGES),
            sequence: 0,
            round: 0,
            header: None,
            buffer: Vec::new(),
            runs: Vec::new(),
            taken: false,
            failed: None,
        }
    }

    /// Takes bytes from the front of `input` up to the end of a batch, and returns that batch;
    /// `None` when `input` is empty and the batch is not complete.
    ///
    /// # Errors
    /// When the bytes are no batch; then, and ever after, the stream is of no use.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Batch<'a>>, WireError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.fill(input) {
            Ok(None) => Ok(None),
            Ok(Some(header)) => {
                self.taken = true;
                let (list, payload) = self.buffer.split_at(header.list_bytes.into());
                let runs = &self.runs;
                Ok(Some(Batch {
                    header,
                    runs,
                    list,
                    payload,
                }))
            }
            Err(error) => {
                (self.buffer, self.runs) = (Vec::new(), Vec::new());
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// To be called at the end of the stream.
    ///
    /// # Errors
    /// When it ended within a batch, or had failed before.
    pub fn finish(self) -> Result<(), WireError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        match self.missing() {
            _ if self.taken || self.header.is_none() && self.buffer.is_empty() => Ok(()),
            missing => Err(WireError::CutOff { missing }),
        }
    }

    /// Bytes that the batch in the buffer takes now, at most about 300 KiB.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    fn fill(&mut self, input: &mut &[u8]) -> Result<Option<BatchHeader>, WireError> {
        if std::mem::take(&mut self.taken) {
            self.header = None;
            self.buffer.clear();
        }
        if self.header.is_none() {
            self.take(input);
            let Ok(bytes) = self.buffer[..].try_into() else {
                return Ok(None);
            };
            self.header = Some(self.read_header(bytes)?);
            self.buffer.clear();
        }
        self.take(input);
        let Some(header) = self.header.filter(|_| self.missing() == 0) else {
            return Ok(None);
        };
        let list = &self.buffer[..header.list_bytes.into()];
        wire::read_list(list, &header, self.guest_pages, &mut self.runs)?;
        self.sequence += 1;
        self.round = header.round;
        Ok(Some(header))
    }

    /// Moves bytes into the buffer, as many as the header or the body still lacks.
    fn take(&mut self, input: &mut &[u8]) {
        let (now, later) = input.split_at(self.missing().min(input.len()));
        self.buffer.extend_from_slice(now);
        *input = later;
    }

    fn missing(&self) -> usize {
        let whole = self
            .header
            .map_or(HEADER_BYTES, |header| header.body_bytes());
        whole - self.buffer.len()
    }

    fn read_header(&self, bytes: &[u8; HEADER_BYTES]) -> Result<BatchHeader, WireError> {
        let header = BatchHeader::read(bytes, self.version, self.guest_pages)?;
        if header.sequence != self.sequence {
            let (found, expected) = (header.sequence, self.sequence);
            return Err(WireError::Sequence { found, expected });
        }
        if header.round < self.round {
            let (found, last) = (header.round, self.round);
            return Err(WireError::Round { found, last });
        }
        debug_assert!(header.kind != BatchKind::Zeros || header.payload_bytes == 0);
        Ok(header)
    }
}
