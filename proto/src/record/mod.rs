//! Versioned, checksummed records, and sequences of them.
//!
//! A record is a 16-byte header ([`HEADER_BYTES`]: kind, version, mandatory bit, length, CRC-32C) and an
//! rkyv archive. One type gets to be a record by a derive and one line:
//!
//! ```
//! use godwit_proto::record::{Kind, Record};
//! use rkyv::{Archive, Deserialize, Serialize};
//!
//! /// What a device must carry over.
//! #[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
//! pub struct Ticks {
//!     /// How often it ticked.
//!     pub count: u64,
//! }
//! godwit_proto::record!(Ticks, Kind::Ged, version = 1);
//!
//! let bytes = Ticks { count: 3 }.encode()?;
//! assert_eq!(Ticks::decode(&bytes)?.count, 3);
//! # Ok::<(), godwit_proto::record::RecordError>(())
//! ```
//!
//! # Versions
//! Every build writes version V of a record and reads V and V-1, so that neighbouring releases exchange
//! guests in both directions as long as V-1 says all that is needed. To change a type: keep the old one under
//! another name (`TicksV1`), write `impl From<TicksV1> for Ticks`, then
//! `record!(Ticks, Kind::Ged, version = 2, previous = TicksV1)`, and keep the golden file of version 1. Older
//! or newer versions are refused by name, except that a newer *optional* record counts as unknown.
//!
//! # Mandatory and optional
//! A record is mandatory unless it was written by [`RecordWriter::push_optional`]. An unknown mandatory
//! record fails the whole sequence; an unknown optional one is skipped.
//!
//! # Refused
//! Anything that fails its checksum, its archive check, its length bound ([`MAX_PAYLOAD_BYTES`]) or leaves
//! bytes over. Nothing read here panics or allocates more than a small multiple of the bytes at hand.

mod error;
mod header;
mod kind;
mod reader;
mod writer;

pub use error::RecordError;
pub use header::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
pub use kind::Kind;
pub use reader::{RawRecord, RecordReader};
pub use writer::RecordWriter;

use header::RecordHeader;

/// The most records of one sequence.
pub const MAX_RECORDS: usize = 4096;

/// First bytes of a sequence: `GODWIT`, then the version of the sequence format, little-endian.
const SEQUENCE_MAGIC: &[u8; 6] = b"GODWIT";
/// The version of the sequence format itself: magic, record header, end record.
const SEQUENCE_VERSION: u16 = 1;

/// A type that is saved or sent as one record. Implemented by [`record!`](crate::record!).
pub trait Record: Sized {
    /// The number of the type.
    const KIND: Kind;
    /// The version that this build writes.
    const VERSION: u16;

    /// The payload, in version [`Record::VERSION`].
    ///
    /// # Errors
    /// [`RecordError::Payload`] beyond 2 GiB.
    fn to_payload(&self) -> Result<Vec<u8>, RecordError>;

    /// The value of a payload that was written as `version`.
    ///
    /// # Errors
    /// A version this build does not read, or a payload that is no such archive.
    fn from_payload(version: u16, payload: &[u8]) -> Result<Self, RecordError>;

    /// One mandatory record: header and payload.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] above [`MAX_PAYLOAD_BYTES`].
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut out = Vec::new();
        let header = RecordHeader {
            kind: Self::KIND.number(),
            version: Self::VERSION,
            mandatory: true,
        };
        header.append(&self.to_payload()?, &mut out)?;
        Ok(out)
    }

    /// Reads what [`Record::encode`] gave; `bytes` must hold that one record and no more.
    ///
    /// # Errors
    /// Anything wrong with the bytes, or another kind of record.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (header, payload, rest) = RecordHeader::split(bytes)?;
        if header.kind != Self::KIND.number() {
            return Err(RecordError::WrongKind {
                found: header.kind,
                wanted: Self::KIND,
            });
        }
        if !rest.is_empty() {
            return Err(RecordError::TrailingBytes { count: rest.len() });
        }
        Self::from_payload(header.version, payload)
    }
}

/// Makes a type with the rkyv derives a [`Record`](crate::record::Record):
/// `record!(Type, Kind::X, version = 1)`, later with `previous = TypeOfVersionBefore`, which must
/// convert by `From`. See the [module documentation](crate::record).
#[macro_export]
macro_rules! record {
    ($type:ty, $kind:expr, version = $version:literal $(, previous = $previous:ty)?) => {
        impl $crate::record::Record for $type {
            const KIND: $crate::record::Kind = $kind;
            const VERSION: u16 = $version;

            fn to_payload(&self) -> Result<Vec<u8>, $crate::record::RecordError> {
                $crate::record::support::to_payload(Self::KIND, self)
            }

            fn from_payload(
                version: u16,
                payload: &[u8],
            ) -> Result<Self, $crate::record::RecordError> {
                match version {
                    $version => $crate::record::support::from_payload(Self::KIND, payload),
                    $(
                        found if found == $version - 1 => {
                            $crate::record::support::from_payload::<$previous>(Self::KIND, payload)
                                .map(Into::into)
                        }
                    )?
                    found => Err($crate::record::RecordError::version(
                        Self::KIND,
                        found,
                        Self::VERSION,
                    )),
                }
            }
        }
    };
}

/// What [`record!`](crate::record!) expands to; not for use by hand.
#[doc(hidden)]
pub mod support {
    use super::{Kind, RecordError};
    use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
    use rkyv::bytecheck::CheckBytes;
    use rkyv::rancor;
    use rkyv::ser::allocator::ArenaHandle;
    use rkyv::{Archive, Deserialize, Serialize};

    pub fn to_payload<T>(kind: Kind, value: &T) -> Result<Vec<u8>, RecordError>
    where
        T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Error>>,
    {
        crate::payload::to_bytes(value).map_err(|source| RecordError::Payload { kind, source })
    }

    pub fn from_payload<T>(kind: Kind, payload: &[u8]) -> Result<T, RecordError>
    where
        T: Archive,
        T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
            + Deserialize<T, HighDeserializer<rancor::Error>>,
    {
        crate::payload::from_bytes(payload).map_err(|source| RecordError::Payload { kind, source })
    }
}
