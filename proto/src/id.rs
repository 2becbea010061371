//! Typed names and numbers. Nothing here draws randomness: who creates an id brings its bytes.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// Bytes of a guest page frame: [`Gfn`] counts these.
pub const PAGE_BYTES: u64 = 4096;

/// Why a text is not a 128-bit id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: want 32 hexadecimal digits grouped 8-4-4-4-12")]
pub struct ParseIdError {
    /// The text as given, cut to 64 characters.
    pub text: String,
}

/// Where the dashes of the 8-4-4-4-12 form are, in characters.
const DASHES: [usize; 4] = [8, 13, 18, 23];

fn parse_uuid(text: &str) -> Result<[u8; 16], ParseIdError> {
    let refuse = || ParseIdError {
        text: text.chars().take(64).collect(),
    };
    if text.len() != 36 {
        return Err(refuse());
    }
    let mut bytes = [0; 16];
    let mut nibbles = 0;
    for (position, character) in text.bytes().enumerate() {
        if DASHES.contains(&position) {
            if character != b'-' {
                return Err(refuse());
            }
            continue;
        }
        let digit = char::from(character).to_digit(16).ok_or_else(refuse)?;
        let digit = u8::try_from(digit).expect("a hexadecimal digit is below 16");
        bytes[nibbles / 2] |= if nibbles % 2 == 0 { digit << 4 } else { digit };
        nibbles += 1;
    }
    Ok(bytes)
}

fn format_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 128 bits, shown and parsed as 8-4-4-4-12 hexadecimal digits; ordered bytewise.
        #[derive(Archive, Serialize, Deserialize)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id of these bytes, first byte shown first.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id, first byte shown first.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_uuid(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id! {
    /// A guest, from its creation to its deletion, wherever it runs.
    GuestId
}
uuid_id! {
    /// A cluster, from its first node to its last.
    ClusterId
}
uuid_id! {
    /// A node of the cluster.
    NodeId
}
uuid_id! {
    /// One attempt to move a guest.
    MigrationId
}
uuid_id! {
    /// A place for volumes: a directory of one node, or one that several nodes share.
    PoolId
}
uuid_id! {
    /// A disk of a guest.
    VolumeId
}
uuid_id! {
    /// A network that guests are attached to.
    NetworkId
}
uuid_id! {
    /// A rule about where guests may live.
    RuleId
}
uuid_id! {
    /// Something long that the cluster does: a drain.
    OperationId
}
uuid_id! {
    /// An idempotency key: a request that is sent twice with it is done once.
    RequestId
}

macro_rules! growing_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The number as read from a record.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number as written to a record.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one.
            ///
            /// # Panics
            /// After 2^64 - 1; at a million a second that is 580,000 years away. A number read
            /// from a peer is compared, never advanced.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("2^64 steps were taken"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

growing_number! {
    /// Who owns a guest: each change of owner takes the next epoch, so the higher one is right.
    Epoch
}
growing_number! {
    /// The revision of the cluster's state: each change of any object takes the next one.
    Revision
}
growing_number! {
    /// Which time round a node holds its lease. A lapsed lease is never renewed, only granted anew.
    Incarnation
}
growing_number! {
    /// A set of CPU features that guests were promised.
    BaselineId
}
growing_number! {
    /// The revision of a desired state; a node refuses one that is not newer than what it has.
    Generation
}

/// A time of day: milliseconds since 1970-01-01 UTC. Compared with others of its kind for display
/// and order only; no lease depends on it.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time so many milliseconds after 1970-01-01 UTC.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

/// Guest frame number: a guest-physical address divided by [`PAGE_BYTES`].
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
pub struct Gfn(u64);

impl Gfn {
    /// The frame of this number; `None` when its address would not fit 64 bits.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number <= u64::MAX / PAGE_BYTES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The frame that holds the guest-physical `address`.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address / PAGE_BYTES)
    }

    /// The number of the frame.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The guest-physical address of the frame's first byte.
    ///
    /// Saturates for a number above 2^52, which only an unchecked record can carry.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0.saturating_mul(PAGE_BYTES)
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn an_id_is_shown_as_it_is_parsed() {
        let id: GuestId = TEXT.parse().unwrap();
        assert_eq!(id.as_bytes()[..4], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!(id.to_string(), TEXT);
        assert_eq!(format!("{id:?}"), format!("GuestId({TEXT})"));
        assert_eq!(TEXT.to_uppercase().parse::<GuestId>().unwrap(), id);
    }

    #[test]
    fn what_is_not_an_id_is_refused_with_the_text() {
        let short = &TEXT[1..];
        let long = format!("{TEXT}0");
        let dash_moved = TEXT.replacen("33-4", "3-34", 1);
        let not_hex = TEXT.replace('a', "g");
        let not_ascii = format!("{}é", &TEXT[..34]);
        for text in ["", short, &long, &dash_moved, &not_hex, &not_ascii] {
            let error = text.parse::<NodeId>().unwrap_err();
            assert_eq!(error.text, text);
        }
        assert_eq!(
            "x".repeat(1000).parse::<NodeId>().unwrap_err().text.len(),
            64
        );
    }

    #[test]
    fn an_epoch_only_grows() {
        let epoch = Epoch::new(7);
        assert!(epoch.next() > epoch);
        assert_eq!(epoch.next().get(), 8);
    }

    #[test]
    fn a_frame_number_names_the_page_around_an_address() {
        assert_eq!(Gfn::containing(0x1fff), Gfn::containing(0x1000));
        assert_eq!(Gfn::containing(0x1fff).address(), 0x1000);
        assert_eq!(Gfn::new(1 << 52), None);
        assert_eq!(Gfn::new((1 << 52) - 1).unwrap().address(), u64::MAX - 0xfff);
    }
}
