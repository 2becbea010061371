//! The first byte of each stream: what the stream is for.
//!
//! | byte | stream |
//! |---|---|
//! | 0x00 | admission; on connection 0 then control |
//! | 0x01 | faults |
//! | 0x40 + i | bulk stream i |

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Admission,
    Fault,
    Bulk(u8),
}

const BULK: u8 = 0x40;
const BULK_END: u8 = BULK + super::config::MAX_BULK_STREAMS;

impl StreamKind {
    /// QUIC sends data of a higher priority first.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Fault => 2,
            Self::Admission => 1,
            Self::Bulk(_) => 0,
        }
    }

    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Admission => 0,
            Self::Fault => 1,
            Self::Bulk(index) => BULK + index,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Admission),
            1 => Some(Self::Fault),
            BULK..BULK_END => Some(Self::Bulk(byte - BULK)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_one_kind_or_none() {
        let known = (0..=u8::MAX).filter_map(|byte| {
            let kind = StreamKind::from_byte(byte)?;
            assert_eq!(kind.byte(), byte);
            Some(kind)
        });
        assert_eq!(known.count(), 2 + 16);
    }
}
