//! Writing a sequence of records.

use super::{
    Kind, MAX_RECORDS, Record, RecordError, RecordHeader, SEQUENCE_MAGIC, SEQUENCE_VERSION,
};

/// Builds a sequence: magic, records in the order pushed, and an end record that counts them and
/// holds a checksum over all bytes before it. A cut, shortened or reordered sequence is thus noticed.
///
/// ```
/// use godwit_proto::record::{RecordReader, RecordWriter};
/// use godwit_proto::state::power::GedState;
///
/// let mut writer = RecordWriter::new();
/// writer.push(&GedState { pending: 1 })?;
/// let bytes = writer.finish()?;
///
/// let mut reader = RecordReader::new(&bytes)?;
/// let power: GedState = reader.one()?;
/// reader.finish()?;
/// # assert_eq!(power.pending, 1);
/// # Ok::<(), godwit_proto::record::RecordError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecordWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl RecordWriter {
    /// A sequence without records.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = SEQUENCE_MAGIC.to_vec();
        bytes.extend_from_slice(&SEQUENCE_VERSION.to_le_bytes());
        Self { bytes, count: 0 }
    }

    /// Appends a record that a reader must know.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] or [`RecordError::TooMany`]; the sequence is unchanged then.
    pub fn push<R: Record>(&mut self, record: &R) -> Result<(), RecordError> {
        self.append(record, true)
    }

    /// Appends a record that a reader may skip.
    ///
    /// # Errors
    /// As [`RecordWriter::push`].
    pub fn push_optional<R: Record>(&mut self, record: &R) -> Result<(), RecordError> {
        self.append(record, false)
    }

    /// Ends the sequence and returns its bytes.
    ///
    /// # Errors
    /// None today; the signature leaves room for a bound on the whole.
    pub fn finish(mut self) -> Result<Vec<u8>, RecordError> {
        let payload = end_payload(self.count, &self.bytes);
        let header = RecordHeader {
            kind: Kind::End.number(),
            version: 1,
            mandatory: true,
        };
        header.append(&payload, &mut self.bytes)?;
        Ok(self.bytes)
    }

    fn append<R: Record>(&mut self, record: &R, mandatory: bool) -> Result<(), RecordError> {
        if self.count == MAX_RECORDS {
            return Err(RecordError::TooMany { max: MAX_RECORDS });
        }
        let header = RecordHeader {
            kind: R::KIND.number(),
            version: R::VERSION,
            mandatory,
        };
        header.append(&record.to_payload()?, &mut self.bytes)?;
        self.count += 1;
        Ok(())
    }
}

impl Default for RecordWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// The payload of the end record: the number of records, then the CRC-32C of every byte before the
/// end record's header, both `u32` little-endian.
pub(super) fn end_payload(count: usize, before: &[u8]) -> [u8; 8] {
    let count = u32::try_from(count).expect("a sequence has at most MAX_RECORDS records");
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&count.to_le_bytes());
    payload[4..].copy_from_slice(&crc32c::crc32c(before).to_le_bytes());
    payload
}
