//! Frames: how messages follow each other on a byte stream.
//!
//! A frame is a 24-byte header and a payload. All numbers are little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `GDWF` |
//! | 4 | 2 | version of the protocol that the payload is in; 0 in a hello |
//! | 6 | 2 | kind: [`FrameKind`] |
//! | 8 | 2 | flags: bit 0 optional; others zero, refused when set |
//! | 10 | 2 | zero |
//! | 12 | 4 | bytes of payload |
//! | 16 | 4 | CRC-32C of the payload |
//! | 20 | 4 | CRC-32C of bytes 0..20 |
//!
//! Each use of frames states its own bound on the payload ([`Limits`]); a longer one is refused
//! from the header alone, before any of it is kept. The header has its own checksum, so that a
//! damaged length is seen as damage and not waited for. A frame of an unknown kind is an error, or
//! skipped when marked optional.
//!
//! Nothing here reads or writes: [`FrameDecoder`] is given bytes and hands out frames.

mod decoder;

pub use decoder::FrameDecoder;

use crate::version::VersionRange;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 24;

/// The version field of a [`FrameKind::Hello`], sent before a version is settled.
pub const UNSETTLED: u16 = 0;

const MAGIC: [u8; 4] = *b"GDWF";
/// Flag: who does not know the kind skips the frame.
const OPTIONAL: u16 = 1 << 0;

/// What the payload of a frame is. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// The versions the sender speaks: [`VersionRange::to_bytes`]. The first frame each way.
    Hello = 1,
    /// [`crate::process::Request`].
    Request = 2,
    /// [`crate::process::Response`].
    Response = 3,
    /// [`crate::migrate::FromSource`].
    FromSource = 4,
    /// [`crate::migrate::FromTarget`].
    FromTarget = 5,
    /// Pages that something at the target of a migration waits for, in batches as on bulk streams.
    Pages = 6,
    /// [`crate::peer::PeerRequest`].
    PeerRequest = 7,
    /// [`crate::peer::PeerResponse`].
    PeerResponse = 8,
}

impl FrameKind {
    /// The kind of this number; `None` when this build does not know it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Hello),
            2 => Some(Self::Request),
            3 => Some(Self::Response),
            4 => Some(Self::FromSource),
            5 => Some(Self::FromTarget),
            6 => Some(Self::Pages),
            7 => Some(Self::PeerRequest),
            8 => Some(Self::PeerResponse),
            _ => None,
        }
    }

    /// The number written in a frame header.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// What a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The versions it understands.
    pub versions: VersionRange,
    /// The longest payload, in bytes.
    pub max_payload_bytes: u32,
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The version of the protocol it is in.
    pub version: u16,
    /// The message.
    pub payload: Vec<u8>,
}

/// Why bytes were refused as a frame, or a payload could not be sent as one. After an error nothing
/// more can be read from the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream is not of frames, or is out of step.
    #[error("frame begins with {found:02x?} in place of the magic")]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The frame is in a version of the protocol that the receiver does not speak.
    #[error("frame is in protocol version {peer}, this build speaks {ours}")]
    VersionUnsupported {
        /// The version of the frame.
        peer: u16,
        /// What the receiver speaks.
        ours: VersionRange,
    },
    /// A frame that must not be skipped is of a kind the receiver does not know.
    #[error("frame of kind {kind} is not known and must not be skipped")]
    UnknownKind {
        /// The kind as found.
        kind: u16,
    },
    /// Reserved bits are set.
    #[error("frame has unknown flags {flags:#06x}")]
    UnknownFlags {
        /// All flags as found.
        flags: u16,
    },
    /// The payload is longer than this use of frames allows.
    #[error("frame of {len} bytes is longer than {max}")]
    TooLong {
        /// Bytes of payload.
        len: u64,
        /// The most bytes of payload.
        max: u32,
    },
    /// A checksum is not that of the bytes.
    #[error("checksum of the frame's {part} is wrong")]
    Checksum {
        /// `header` or `payload`.
        part: &'static str,
    },
    /// There are not enough bytes.
    #[error("frame is cut short: at least {need} bytes are missing")]
    Truncated {
        /// How many bytes are missing at least.
        need: usize,
    },
}

/// A header that was checked by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHeader {
    version: u16,
    /// `None`: unknown and optional.
    kind: Option<FrameKind>,
    payload_bytes: usize,
    payload_crc: u32,
}

impl FrameHeader {
    fn decode(header: &[u8; HEADER_BYTES], limits: &Limits) -> Result<Self, FrameError> {
        let &[
            m0,
            m1,
            m2,
            m3,
            v0,
            v1,
            k0,
            k1,
            f0,
            f1,
            z0,
            z1,
            l0,
            l1,
            l2,
            l3,
            p0,
            p1,
            p2,
            p3,
            ref crc @ ..,
        ] = header;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::BadMagic { found: magic });
        }
        if crc32c::crc32c(&header[..20]) != u32::from_le_bytes(*crc) {
            return Err(FrameError::Checksum { part: "header" });
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & !OPTIONAL != 0 || [z0, z1] != [0, 0] {
            return Err(FrameError::UnknownFlags { flags });
        }
        let number = u16::from_le_bytes([k0, k1]);
        let kind = FrameKind::from_number(number);
        if kind.is_none() && flags & OPTIONAL == 0 {
            return Err(FrameError::UnknownKind { kind: number });
        }
        let version = u16::from_le_bytes([v0, v1]);
        let understood = match kind {
            Some(FrameKind::Hello) => version == UNSETTLED,
            Some(_) => limits.versions.contains(version),
            None => true,
        };
        if !understood {
            return Err(FrameError::VersionUnsupported {
                peer: version,
                ours: limits.versions,
            });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > limits.max_payload_bytes {
            return Err(FrameError::TooLong {
                len: length.into(),
                max: limits.max_payload_bytes,
            });
        }
        Ok(Self {
            version,
            kind,
            payload_bytes: length as usize,
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
        })
    }
}

/// A whole frame: header and payload.
///
/// # Errors
/// [`FrameError::TooLong`] when `payload` has more than `max_payload_bytes`.
pub fn encode(
    kind: FrameKind,
    version: u16,
    payload: &[u8],
    max_payload_bytes: u32,
) -> Result<Vec<u8>, FrameError> {
    encode_number(kind.number(), version, 0, payload, max_payload_bytes)
}

/// The hello of a side that speaks `versions`.
#[must_use]
pub fn encode_hello(versions: VersionRange) -> Vec<u8> {
    let payload = versions.to_bytes();
    encode(FrameKind::Hello, UNSETTLED, &payload, 4).expect("a hello is four bytes")
}

/// Reads the one frame that `bytes` begins with; returns how many bytes it took. `None` in place of
/// the frame: it was of an unknown kind and optional.
///
/// # Errors
/// [`FrameError`]; [`FrameError::Truncated`] when more bytes could mend it.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<(Option<Frame>, usize), FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return Err(FrameError::Truncated {
            need: HEADER_BYTES - bytes.len(),
        });
    };
    let header = FrameHeader::decode(header, limits)?;
    let Some(payload) = rest.get(..header.payload_bytes) else {
        return Err(FrameError::Truncated {
            need: header.payload_bytes - rest.len(),
        });
    };
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err(FrameError::Checksum { part: "payload" });
    }
    let frame = header.kind.map(|kind| Frame {
        kind,
        version: header.version,
        payload: payload.to_vec(),
    });
    Ok((frame, HEADER_BYTES + header.payload_bytes))
}

fn encode_number(
    kind: u16,
    version: u16,
    flags: u16,
    payload: &[u8],
    max_payload_bytes: u32,
) -> Result<Vec<u8>, FrameError> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|&length| length <= max_payload_bytes)
        .ok_or(FrameError::TooLong {
            len: payload.len() as u64,
            max: max_payload_bytes,
        })?;
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&0u16.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(payload);
    Ok(out)
}

#[cfg(test)]
mod tests;
