//! Why records were refused.

use super::Kind;

/// Why a record or a sequence of records was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no sequence of records.
    #[error("not a Godwit state file: it begins with {found:02x?}")]
    NotASequence {
        /// The first bytes, as many as there are, at most six.
        found: Vec<u8>,
    },
    /// The sequence is of another format.
    #[error("state format {found} is not known, this build reads format {supported}")]
    SequenceVersion {
        /// The version found.
        found: u16,
        /// The version this build reads.
        supported: u16,
    },
    /// The bytes end within a record, or before the end record.
    #[error("cut short: a record needs {needed} bytes and {found} are left")]
    Truncated {
        /// Bytes that the header, or the whole record, takes.
        needed: usize,
        /// Bytes that are left.
        found: usize,
    },
    /// The stored checksum is not that of the bytes.
    #[error("checksum of record {kind:#06x} is wrong")]
    Checksum {
        /// The kind as found, which may itself be what is wrong.
        kind: u16,
    },
    /// The payload is longer than a record may be.
    #[error("record {kind:#06x} of {length} bytes is longer than {max}")]
    TooLong {
        /// The kind as found.
        kind: u16,
        /// Bytes of payload.
        length: u64,
        /// The most bytes of payload.
        max: usize,
    },
    /// Reserved bits of a header are set.
    #[error("record {kind:#06x} has unknown flags {flags:#06x}")]
    UnknownFlags {
        /// The kind as found.
        kind: u16,
        /// All flags as found.
        flags: u16,
    },
    /// A record that must not be skipped is of a kind this build does not know.
    #[error("record {kind:#06x} version {version} is not known and must not be skipped")]
    UnknownMandatory {
        /// The kind as found.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// A newer build wrote the record.
    #[error("record {kind} has version {found}, newer than {supported}")]
    NewerVersion {
        /// The record.
        kind: Kind,
        /// Its version.
        found: u16,
        /// The newest version this build reads.
        supported: u16,
    },
    /// A build too old to be read wrote the record.
    #[error("record {kind} has version {found}, too old for a reader of version {supported}")]
    OlderVersion {
        /// The record.
        kind: Kind,
        /// Its version.
        found: u16,
        /// The newest version this build reads.
        supported: u16,
    },
    /// The payload is no archive of the type.
    #[error("record {kind} is malformed")]
    Payload {
        /// The record.
        kind: Kind,
        /// What is wrong.
        #[source]
        source: rkyv::rancor::Error,
    },
    /// Another record was expected.
    #[error("found record {found:#06x} in place of {wanted}")]
    WrongKind {
        /// The kind as found.
        found: u16,
        /// The kind expected.
        wanted: Kind,
    },
    /// A record that must be there is not.
    #[error("record {kind} is missing")]
    Missing {
        /// The record.
        kind: Kind,
    },
    /// A record that may be there once is there more often.
    #[error("record {kind} is there {count} times")]
    Duplicate {
        /// The record.
        kind: Kind,
        /// How often.
        count: usize,
    },
    /// A mandatory record was left by who took the sequence apart.
    #[error("record {kind} is of no use here and must not be skipped")]
    Unused {
        /// The record.
        kind: Kind,
    },
    /// Bytes follow the end.
    #[error("{count} bytes follow the end")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// More records than a sequence may have.
    #[error("more than {max} records")]
    TooMany {
        /// The most records.
        max: usize,
    },
    /// The end record does not fit what precedes it: a record was lost, added or moved.
    #[error("the end record does not fit the {count} records before it")]
    End {
        /// Records found.
        count: usize,
    },
}

impl RecordError {
    /// The error for a version that [`super::Record::from_payload`] does not read.
    #[doc(hidden)]
    #[must_use]
    pub fn version(kind: Kind, found: u16, supported: u16) -> Self {
        if found > supported {
            Self::NewerVersion {
                kind,
                found,
                supported,
            }
        } else {
            Self::OlderVersion {
                kind,
                found,
                supported,
            }
        }
    }

    /// Whether a newer build would read this: to tell "upgrade" from "damaged".
    #[must_use]
    pub fn is_from_newer_build(&self) -> bool {
        match self {
            Self::NewerVersion { .. } | Self::UnknownMandatory { .. } => true,
            Self::SequenceVersion { found, supported } => found > supported,
            _ => false,
        }
    }
}
