//! Ranges of protocol versions.

use std::fmt;

/// The versions of a protocol that one side speaks, both ends included.
///
/// On the wire it is four bytes, oldest then newest, little-endian: the payload of a
/// [`Hello`](crate::frame::FrameKind::Hello) frame, which no version of a protocol ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    oldest: u16,
    newest: u16,
}

/// Why a range of versions was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The bytes are no range.
    #[error("a range of versions is 4 bytes, found {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// The range is empty, or holds version 0, which is that of frames before any agreement.
    #[error("versions {oldest} to {newest} are no range")]
    Empty {
        /// The oldest version as found.
        oldest: u16,
        /// The newest version as found.
        newest: u16,
    },
    /// The two sides have no version in common.
    #[error("the peer speaks protocol versions {theirs}, this build speaks {ours}")]
    NothingInCommon {
        /// Our versions.
        ours: VersionRange,
        /// The peer's versions.
        theirs: VersionRange,
    },
}

impl VersionRange {
    /// The versions `oldest..=newest`.
    ///
    /// # Errors
    /// [`VersionError::Empty`].
    pub const fn new(oldest: u16, newest: u16) -> Result<Self, VersionError> {
        if oldest == 0 || oldest > newest {
            return Err(VersionError::Empty { oldest, newest });
        }
        Ok(Self { oldest, newest })
    }

    /// The oldest version of the range.
    #[must_use]
    pub const fn oldest(self) -> u16 {
        self.oldest
    }

    /// The newest version of the range.
    #[must_use]
    pub const fn newest(self) -> u16 {
        self.newest
    }

    /// Whether the range holds `version`.
    #[must_use]
    pub const fn contains(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The version to speak with a peer: the highest that both sides know. Both sides find the
    /// same.
    ///
    /// # Errors
    /// [`VersionError::NothingInCommon`].
    pub const fn settle(self, theirs: Self) -> Result<u16, VersionError> {
        let newest = if self.newest < theirs.newest {
            self.newest
        } else {
            theirs.newest
        };
        if self.contains(newest) && theirs.contains(newest) {
            Ok(newest)
        } else {
            Err(VersionError::NothingInCommon { ours: self, theirs })
        }
    }

    /// The range as sent.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        let [o0, o1] = self.oldest.to_le_bytes();
        let [n0, n1] = self.newest.to_le_bytes();
        [o0, o1, n0, n1]
    }

    /// The range that a peer sent.
    ///
    /// # Errors
    /// [`VersionError::Length`] or [`VersionError::Empty`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VersionError> {
        let &[o0, o1, n0, n1] = bytes else {
            return Err(VersionError::Length { found: bytes.len() });
        };
        Self::new(u16::from_le_bytes([o0, o1]), u16::from_le_bytes([n0, n1]))
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.oldest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(oldest: u16, newest: u16) -> VersionRange {
        VersionRange::new(oldest, newest).unwrap()
    }

    #[test]
    fn peers_settle_on_the_highest_common_version_whoever_asks() {
        for (a, b, version) in [
            (range(1, 1), range(1, 1), 1),
            (range(1, 2), range(2, 3), 2),
            (range(1, 9), range(3, 4), 4),
        ] {
            assert_eq!(a.settle(b), Ok(version));
            assert_eq!(b.settle(a), Ok(version));
        }
    }

    #[test]
    fn peers_without_a_common_version_are_told_both_ranges() {
        let error = range(1, 2).settle(range(3, 4)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the peer speaks protocol versions 3 to 4, this build speaks 1 to 2"
        );
        assert!(range(3, 4).settle(range(1, 2)).is_err());
    }

    #[test]
    fn what_is_no_range_is_refused() {
        assert_eq!(
            VersionRange::from_bytes(&range(2, 7).to_bytes()),
            Ok(range(2, 7))
        );
        for bytes in [
            &[0, 0, 1, 0][..],
            &[2, 0, 1, 0],
            &[],
            &[1, 0, 1],
            &[1, 0, 1, 0, 0],
        ] {
            assert!(VersionRange::from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
