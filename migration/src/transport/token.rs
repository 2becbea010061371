//! The token: what a target hands to whoever may send it one guest.
//!
//! Text: `godwit1_` and base64url of these bytes, all numbers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | flags: bit 0 a guest id follows, bit 1 an expiry follows; others zero |
//! | 32 | fingerprint of the target's certificate |
//! | 16 | secret |
//! | 16 | guest id, if flagged: the only guest that may come |
//! | 8 | expiry, if flagged: seconds since 1970 |
//! | 1 | number of addresses, at most [`Token::MAX_ADDRESSES`] |
//! | 7 or 19 each | 4 or 6, the IP address, the port |
//! | 4 | CRC-32C of all bytes above |
//!
//! The checksum is there for slips of the mouse; what protects the token is that it is kept secret.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use godwit_proto::id::GuestId;
use ring::rand::{SecureRandom, SystemRandom};

use super::base64url;
use super::identity::Fingerprint;

const PREFIX: &str = "godwit";
const VERSION: &str = "1";
const HAS_GUEST: u8 = 1 << 0;
const HAS_EXPIRY: u8 = 1 << 1;
const CHECKSUM_BYTES: usize = 4;
/// The longest text that is looked at: that of a token with all fields is shorter.
const MAX_TEXT_BYTES: usize = 512;

/// The secret half of a token. It is never sent: a source proves that it has it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret([u8; Secret::BYTES]);

impl Secret {
    const BYTES: usize = 16;

    pub(super) const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Permission to send one guest to one target, and how to be sure that it is that target.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The certificate of the target.
    pub target: Fingerprint,
    /// The guest it is for; `None`: any one guest.
    pub guest: Option<GuestId>,
    /// Until when a migration can begin with it, in seconds since 1970. The target enforces it.
    pub expires_unix_seconds: Option<u64>,
    addresses: Vec<SocketAddr>,
    secret: Secret,
}

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else altogether.
    #[error("a token begins with \"godwit1_\"")]
    NotAToken,
    /// It was made by a build that this one does not know.
    #[error("the token is of version {found:?}, this build reads {VERSION:?}")]
    Version {
        /// The version, cut to 8 characters.
        found: String,
    },
    /// A character of it was changed, or is not of the alphabet.
    #[error("the token is damaged: its checksum or alphabet is wrong")]
    Damaged,
    /// It has an intact checksum but fields that no target writes.
    #[error("the token's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// More addresses than a token holds.
    #[error(
        "a token holds at most {} addresses, not {count}",
        Token::MAX_ADDRESSES
    )]
    TooManyAddresses {
        /// How many were given.
        count: usize,
    },
    /// The system gives no randomness for the secret.
    #[error("the system gives no random bytes")]
    Random,
}

impl Token {
    /// The most addresses in a token.
    pub const MAX_ADDRESSES: usize = 8;

    /// A token with a fresh secret, for a target with the certificate `target` that may be reached
    /// at `addresses`.
    ///
    /// # Errors
    /// [`TokenError::TooManyAddresses`], [`TokenError::Random`].
    pub fn generate(target: Fingerprint, addresses: &[SocketAddr]) -> Result<Self, TokenError> {
        if addresses.len() > Self::MAX_ADDRESSES {
            let count = addresses.len();
            return Err(TokenError::TooManyAddresses { count });
        }
        let mut secret = [0; Secret::BYTES];
        let random = SystemRandom::new();
        random.fill(&mut secret).map_err(|_| TokenError::Random)?;
        Ok(Self {
            target,
            guest: None,
            expires_unix_seconds: None,
            addresses: addresses.to_vec(),
            secret: Secret(secret),
        })
    }

    /// Where the target may be reached, best first; may be empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The text to hand over. Whoever reads it can use it: so there is no `Display`.
    #[must_use]
    pub fn to_text(&self) -> String {
        let guest = self.guest.map_or(0, |_| HAS_GUEST);
        let expiry = self.expires_unix_seconds.map_or(0, |_| HAS_EXPIRY);
        let mut bytes = vec![guest | expiry];
        bytes.extend_from_slice(self.target.as_bytes());
        bytes.extend_from_slice(self.secret.as_bytes());
        if let Some(guest) = &self.guest {
            bytes.extend_from_slice(guest.as_bytes());
        }
        if let Some(expiry) = self.expires_unix_seconds {
            bytes.extend_from_slice(&expiry.to_be_bytes());
        }
        let count = u8::try_from(self.addresses.len());
        bytes.push(count.expect("a token has at most 8 addresses"));
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        format!("{PREFIX}{VERSION}_{}", base64url::encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let (version, body) = rest.split_once('_').ok_or(TokenError::NotAToken)?;
        if version != VERSION {
            let found = version.chars().take(8).collect();
            return Err(TokenError::Version { found });
        }
        if body.len() > MAX_TEXT_BYTES {
            return Err(TokenError::Damaged);
        }
        let bytes = base64url::decode(body).ok_or(TokenError::Damaged)?;
        let (fields, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(TokenError::Damaged)?;
        if crc32c::crc32c(fields) != u32::from_be_bytes(*checksum) {
            return Err(TokenError::Damaged);
        }
        Fields(fields).token()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("target", &self.target)
            .field("guest", &self.guest)
            .field("expires_unix_seconds", &self.expires_unix_seconds)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// The bytes of a token that are not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TokenError> {
        let taken = self.0.split_first_chunk();
        let (&taken, rest) = taken.ok_or(TokenError::Malformed { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn token(mut self) -> Result<Token, TokenError> {
        let [flags] = self.take("flags")?;
        if flags & !(HAS_GUEST | HAS_EXPIRY) != 0 {
            return Err(TokenError::Malformed { field: "flags" });
        }
        let target = Fingerprint::from_bytes(self.take("fingerprint")?);
        let secret = Secret(self.take("secret")?);
        let mut guest = None;
        if flags & HAS_GUEST != 0 {
            guest = Some(GuestId::from_bytes(self.take("guest id")?));
        }
        let mut expires_unix_seconds = None;
        if flags & HAS_EXPIRY != 0 {
            expires_unix_seconds = Some(u64::from_be_bytes(self.take("expiry")?));
        }
        let [count] = self.take("address count")?;
        if usize::from(count) > Token::MAX_ADDRESSES {
            return Err(TokenError::TooManyAddresses {
                count: count.into(),
            });
        }
        let mut addresses = Vec::with_capacity(count.into());
        for _ in 0..count {
            addresses.push(self.address()?);
        }
        if !self.0.is_empty() {
            return Err(TokenError::Malformed { field: "length" });
        }
        Ok(Token {
            target,
            guest,
            expires_unix_seconds,
            addresses,
            secret,
        })
    }

    fn address(&mut self) -> Result<SocketAddr, TokenError> {
        let field = "address";
        let ip = match self.take(field)? {
            [4] => Ipv4Addr::from(self.take::<4>(field)?).into(),
            [6] => Ipv6Addr::from(self.take::<16>(field)?).into(),
            _ => return Err(TokenError::Malformed { field }),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take(field)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> Token {
        let addresses = ["192.0.2.1:7000", "[2001:db8::1]:7001"].map(|text| text.parse().unwrap());
        let mut token = Token::generate(Fingerprint::from_bytes([7; 32]), &addresses).unwrap();
        token.guest = Some(GuestId::from_bytes([9; 16]));
        token.expires_unix_seconds = Some(1_900_000_000);
        token
    }

    #[test]
    fn a_token_survives_its_text_with_and_without_its_optional_fields() {
        let full = token();
        assert_eq!(full.to_text().parse(), Ok(full.clone()));
        let least = Token::generate(full.target, &[]).unwrap();
        assert_eq!(format!(" {}\n", least.to_text()).parse(), Ok(least.clone()));
        assert!(full.secret != least.secret);
    }

    #[test]
    fn any_one_changed_character_is_noticed() {
        let text = token().to_text();
        for at in "godwit1_".len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Token>(), Err(TokenError::Damaged), "{at}");
        }
    }

    #[test]
    fn what_is_no_token_is_told_apart_from_a_newer_one() {
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!("".parse::<Token>(), Err(TokenError::NotAToken));
        let found = "2".to_owned();
        assert_eq!(
            "godwit2_AAAA".parse::<Token>(),
            Err(TokenError::Version { found })
        );
        let long = format!("godwit1_{}", "A".repeat(1 << 20));
        assert_eq!(long.parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn fields_that_no_target_writes_are_refused_although_the_checksum_fits() {
        let mut bytes = vec![4]; // an unknown flag
        bytes.extend([0; 49]);
        for (flags, extra, error) in [
            (4, 0, TokenError::Malformed { field: "flags" }),
            (1, 0, TokenError::Malformed { field: "guest id" }),
            (0, 1, TokenError::Malformed { field: "length" }),
        ] {
            let mut bytes = bytes.clone();
            bytes[0] = flags;
            bytes.extend(vec![0; extra]);
            bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
            let text = format!("godwit1_{}", base64url::encode(&bytes));
            assert_eq!(text.parse::<Token>(), Err(error));
        }
    }

    #[test]
    fn a_token_shown_for_debugging_keeps_its_secret() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(!shown.contains(&token.to_text()), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(godwit1_)?[A-Za-z0-9_-]{0,200}") {
            let _ = text.parse::<Token>();
        }
    }
}
