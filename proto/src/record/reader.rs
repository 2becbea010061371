//! Reading a sequence of records.

use super::writer::end_payload;
use super::{
    Kind, MAX_RECORDS, Record, RecordError, RecordHeader, SEQUENCE_MAGIC, SEQUENCE_VERSION,
};

/// A record of a known kind whose checksum is right and whose payload is not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The version of the payload.
    pub version: u16,
    /// Whether the record must not be skipped.
    pub mandatory: bool,
    /// The archive.
    pub payload: &'a [u8],
}

impl RawRecord<'_> {
    /// Reads the payload.
    ///
    /// # Errors
    /// Another kind, a version this build does not read, or a malformed payload.
    pub fn decode<R: Record>(&self) -> Result<R, RecordError> {
        if self.kind != R::KIND {
            return Err(RecordError::WrongKind {
                found: self.kind.number(),
                wanted: R::KIND,
            });
        }
        R::from_payload(self.version, self.payload)
    }
}

/// Takes a sequence apart by type.
///
/// [`RecordReader::new`] checks the frame of the whole sequence (every header and checksum, the end
/// record, nothing after it) before any record is handed out; [`RecordReader::finish`] fails when a
/// mandatory record was not asked for.
#[derive(Debug)]
pub struct RecordReader<'a> {
    /// What was not taken yet, in the order of the sequence.
    records: Vec<RawRecord<'a>>,
}

impl<'a> RecordReader<'a> {
    /// Checks the sequence in `bytes` and leaves out unknown optional records.
    ///
    /// # Errors
    /// Anything wrong with the sequence; see [`RecordError`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut rest = split_magic(bytes)?;
        let mut records = Vec::new();
        for count in 0..=MAX_RECORDS {
            let before = &bytes[..bytes.len() - rest.len()];
            let (header, payload, following) = RecordHeader::split(rest)?;
            rest = following;
            match header.known_kind() {
                Some(Kind::End) => {
                    if header.version != 1 || payload != end_payload(count, before) {
                        return Err(RecordError::End { count });
                    }
                    return match rest.len() {
                        0 => Ok(Self { records }),
                        count => Err(RecordError::TrailingBytes { count }),
                    };
                }
                Some(kind) => records.push(RawRecord {
                    kind,
                    version: header.version,
                    mandatory: header.mandatory,
                    payload,
                }),
                None if header.mandatory => {
                    return Err(RecordError::UnknownMandatory {
                        kind: header.kind,
                        version: header.version,
                    });
                }
                None => {}
            }
        }
        Err(RecordError::TooMany { max: MAX_RECORDS })
    }

    /// The records not taken yet, in the order of the sequence.
    #[must_use]
    pub fn remaining(&self) -> &[RawRecord<'a>] {
        &self.records
    }

    /// Takes the one record of type `R`.
    ///
    /// # Errors
    /// [`RecordError::Missing`], [`RecordError::Duplicate`], or what is wrong with the record.
    pub fn one<R: Record>(&mut self) -> Result<R, RecordError> {
        self.optional()?
            .ok_or(RecordError::Missing { kind: R::KIND })
    }

    /// Takes the record of type `R` if there is one. An optional record of a newer version counts
    /// as absent.
    ///
    /// # Errors
    /// [`RecordError::Duplicate`], or what is wrong with the record.
    pub fn optional<R: Record>(&mut self) -> Result<Option<R>, RecordError> {
        let mut found = self.many::<R>()?;
        match found.len() {
            0 | 1 => Ok(found.pop()),
            count => Err(RecordError::Duplicate {
                kind: R::KIND,
                count,
            }),
        }
    }

    /// Takes every record of type `R`, in the order of the sequence; optional records of a newer
    /// version are left out.
    ///
    /// # Errors
    /// What is wrong with the first record that cannot be read.
    pub fn many<R: Record>(&mut self) -> Result<Vec<R>, RecordError> {
        self.records
            .extract_if(.., |record| record.kind == R::KIND)
            .filter(|record| record.mandatory || record.version <= R::VERSION)
            .map(|record| record.decode())
            .collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`RecordError::Unused`] when a mandatory record was not taken.
    pub fn finish(self) -> Result<(), RecordError> {
        match self.records.iter().find(|record| record.mandatory) {
            Some(record) => Err(RecordError::Unused { kind: record.kind }),
            None => Ok(()),
        }
    }
}

/// Checks magic and format version and returns what follows.
fn split_magic(bytes: &[u8]) -> Result<&[u8], RecordError> {
    let begin = &bytes[..bytes.len().min(SEQUENCE_MAGIC.len())];
    if !SEQUENCE_MAGIC.starts_with(begin) {
        return Err(RecordError::NotASequence {
            found: begin.to_vec(),
        });
    }
    let Some((&[.., v0, v1], rest)) = bytes.split_first_chunk::<8>() else {
        return Err(RecordError::Truncated {
            needed: 8,
            found: bytes.len(),
        });
    };
    let found = u16::from_le_bytes([v0, v1]);
    if found != SEQUENCE_VERSION {
        return Err(RecordError::SequenceVersion {
            found,
            supported: SEQUENCE_VERSION,
        });
    }
    Ok(rest)
}
