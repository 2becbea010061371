//! The header before each record's payload.

use super::{Kind, RecordError};

/// Bytes of a record header.
pub const HEADER_BYTES: usize = 16;

/// The longest payload of one record, in bytes.
///
/// The largest real one is [`crate::state::memory::SnapshotMemory`]: 1 TiB in 1 MiB chunks of
/// 8 bytes each is 8 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// Flag: who does not know the kind (or the version) must fail instead of skipping the record.
const MANDATORY: u16 = 1 << 0;

/// A record header, little-endian:
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | kind |
/// | 2 | 2 | version of the payload |
/// | 4 | 2 | flags: bit 0 mandatory; others zero, refused when set |
/// | 6 | 2 | zero |
/// | 8 | 4 | bytes of payload |
/// | 12 | 4 | CRC-32C over bytes 0..12 and the payload |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: u16,
    pub(super) version: u16,
    pub(super) mandatory: bool,
}

impl RecordHeader {
    /// Appends the header and the payload to `out`.
    pub(super) fn append(self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_PAYLOAD_BYTES)
            .ok_or(RecordError::TooLong {
                kind: self.kind,
                length: payload.len() as u64,
                max: MAX_PAYLOAD_BYTES,
            })?;
        let start = out.len();
        out.reserve(HEADER_BYTES + payload.len());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&if self.mandatory { MANDATORY } else { 0 }.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
        Ok(())
    }

    /// Splits the first record off `bytes`: its header, its payload, and what follows.
    pub(super) fn split(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), RecordError> {
        let truncated = |needed: usize| RecordError::Truncated {
            needed,
            found: bytes.len(),
        };
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(truncated(HEADER_BYTES))?;
        let [
            k0,
            k1,
            v0,
            v1,
            f0,
            f1,
            z0,
            z1,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
        ] = *header;
        let kind = u16::from_le_bytes([k0, k1]);
        let flags = u16::from_le_bytes([f0, f1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        // The length is used before the checksum can be checked, so it is bounded first.
        let payload_bytes = usize::try_from(length)
            .ok()
            .filter(|&bytes| bytes <= MAX_PAYLOAD_BYTES)
            .ok_or(RecordError::TooLong {
                kind,
                length: length.into(),
                max: MAX_PAYLOAD_BYTES,
            })?;
        let (payload, rest) = rest
            .split_at_checked(payload_bytes)
            .ok_or(truncated(HEADER_BYTES + payload_bytes))?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), payload);
        if crc != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(RecordError::Checksum { kind });
        }
        if flags & !MANDATORY != 0 || [z0, z1] != [0, 0] {
            return Err(RecordError::UnknownFlags { kind, flags });
        }
        let header = Self {
            kind,
            version: u16::from_le_bytes([v0, v1]),
            mandatory: flags & MANDATORY != 0,
        };
        Ok((header, payload, rest))
    }

    /// The kind, when this build knows it.
    pub(super) fn known_kind(self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }
}
