//! Join tokens: what is carried to a machine by hand, so that it becomes a node of this cluster and of
//! no other.
//!
//! Text: `godwit-join1_` and base64url of these bytes, numbers big-endian: 32 the SHA-256 of the
//! authority's certificate, 16 the secret, 8 the expiry in seconds since 1970, then addresses,
//! each of a length byte and text, then 4 the CRC-32C of all that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};

use super::IdentityError;
use super::credentials::sha256;

const PREFIX: &str = "godwit-join1_";
const MAX_TEXT_BYTES: usize = 2048;
/// Tokens that are not used yet.
const MAX_TOKENS: usize = 1024;
/// Before the addresses.
const FIXED_BYTES: usize = 32 + 16 + 8;

/// Permission for one machine to become a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the certificate of the cluster's authority.
    pub authority: [u8; 32],
    /// What the machine proves itself with.
    pub secret: [u8; 16],
    /// Until when it is good, seconds since 1970.
    pub expires_unix_seconds: u64,
    /// Where nodes can be asked.
    pub addresses: Vec<String>,
}

impl JoinToken {
    /// The token as text.
    ///
    /// # Panics
    /// With an address of more than 255 bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.authority);
        bytes.extend(self.secret);
        bytes.extend(self.expires_unix_seconds.to_be_bytes());
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).expect("an address is short"));
            bytes.extend(address.bytes());
        }
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let wrong = IdentityError::Token;
        let text = text.trim();
        let rest = text
            .strip_prefix(PREFIX)
            .ok_or(wrong("a join token begins with \"godwit-join1_\""))?;
        let damaged = || wrong("the join token is damaged: a character of it was lost or changed");
        if text.len() > MAX_TEXT_BYTES {
            return Err(damaged());
        }
        let bytes = BASE64URL_NOPAD
            .decode(rest.as_bytes())
            .map_err(|_| damaged())?;
        let (bytes, checksum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if crc32c::crc32c(bytes).to_be_bytes() != *checksum || bytes.len() < FIXED_BYTES {
            return Err(damaged());
        }
        let (fixed, mut rest) = bytes.split_at(FIXED_BYTES);
        let mut addresses = Vec::new();
        while let Some((&length, after)) = rest.split_first() {
            let (address, after) = after.split_at_checked(length.into()).ok_or_else(damaged)?;
            addresses.push(String::from_utf8(address.to_vec()).map_err(|_| damaged())?);
            rest = after;
        }
        let array = "the lengths are those of the parts";
        Ok(Self {
            authority: fixed[..32].try_into().expect(array),
            secret: fixed[32..48].try_into().expect(array),
            expires_unix_seconds: u64::from_be_bytes(fixed[48..].try_into().expect(array)),
            addresses,
        })
    }
}

/// The tokens that this node gave out and that nobody used yet: a file each, which is removed before
/// its user is admitted, so that none is used twice, also when this node dies meanwhile.
pub struct IssuedTokens(PathBuf);

impl IssuedTokens {
    /// Those in `dir`, which is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(dir).map_err(|source| IdentityError::File {
            path: dir.into(),
            source,
        })?;
        Ok(Self(dir.into()))
    }

    /// A new token, good for `lifetime`.
    ///
    /// # Errors
    /// It cannot be kept, or too many are.
    pub fn issue(
        &self,
        authority: &[u8],
        lifetime: Duration,
        addresses: Vec<String>,
    ) -> Result<JoinToken, IdentityError> {
        if self.sweep()? >= MAX_TOKENS {
            return Err(IdentityError::Token(
                "too many join tokens are waiting to be used",
            ));
        }
        let mut secret = [0; 16];
        let random = SystemRandom::new();
        random
            .fill(&mut secret)
            .map_err(|_| IdentityError::Random)?;
        let token = JoinToken {
            authority: sha256(authority),
            secret,
            expires_unix_seconds: now() + lifetime.as_secs(),
            addresses,
        };
        let path = self.path(&secret);
        let text = token.expires_unix_seconds.to_string();
        fs::write(&path, text).map_err(|source| IdentityError::File { path, source })?;
        Ok(token)
    }

    /// Uses the token with this secret up.
    ///
    /// # Errors
    /// There is none such, it was used, or it has expired.
    pub fn redeem(&self, secret: &[u8; 16]) -> Result<(), IdentityError> {
        let path = self.path(secret);
        let unknown =
            || IdentityError::Token("the join token is not known here, or was used before");
        let text = fs::read_to_string(&path).map_err(|_| unknown())?;
        // Of two who use it at once, one removes it.
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(source) => return Err(IdentityError::File { path, source }),
        }
        match text.parse::<u64>() {
            Ok(expires) if expires > now() => Ok(()),
            _ => Err(IdentityError::Token("the join token has expired")),
        }
    }

    /// Removes what has expired; how many are left.
    fn sweep(&self) -> Result<usize, IdentityError> {
        let entries = fs::read_dir(&self.0).map_err(|source| IdentityError::File {
            path: self.0.clone(),
            source,
        })?;
        let mut left = 0;
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.parse::<u64>().is_ok_and(|expires| expires > now()) {
                left += 1;
            } else {
                // Somebody else may have.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(left)
    }

    /// The file's name tells nothing of the secret.
    fn path(&self, secret: &[u8; 16]) -> PathBuf {
        self.0.join(HEXLOWER.encode(&sha256(secret)))
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (tempfile::TempDir, IssuedTokens) {
        let dir = tempfile::tempdir().unwrap();
        let tokens = IssuedTokens::open(dir.path()).unwrap();
        (dir, tokens)
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_damage_is_seen() {
        let (_dir, tokens) = tokens();
        let addresses = vec!["192.0.2.7:7400".into(), "[2001:db8::1]:7400".into()];
        let token = tokens
            .issue(b"authority", Duration::from_secs(60), addresses)
            .unwrap();
        let text = token.to_text();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        for index in PREFIX.len()..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[index] = if damaged[index] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(damaged.parse::<JoinToken>().is_err(), "{damaged}");
            assert!(text[..index].parse::<JoinToken>().is_err());
        }
        for text in ["", "godwit1_x", &format!("{PREFIX}{}", "A".repeat(5000))] {
            assert!(text.parse::<JoinToken>().is_err());
        }
    }

    #[test]
    fn a_token_is_used_once() {
        let (dir, tokens) = tokens();
        let lifetime = Duration::from_secs(60);
        let token = tokens.issue(b"a", lifetime, Vec::new()).unwrap();
        // Also by a node that was restarted meanwhile.
        let tokens = IssuedTokens::open(dir.path()).unwrap();
        tokens.redeem(&token.secret).unwrap();
        assert!(tokens.redeem(&token.secret).is_err());
        assert!(tokens.redeem(&[0; 16]).is_err());
    }

    #[test]
    fn a_token_that_has_expired_is_worth_nothing() {
        let (dir, tokens) = tokens();
        let token = tokens.issue(b"a", Duration::ZERO, Vec::new()).unwrap();
        let error = tokens.redeem(&token.secret).unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
        tokens.issue(b"a", Duration::ZERO, Vec::new()).unwrap();
        tokens
            .issue(b"a", Duration::from_secs(9), Vec::new())
            .unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
