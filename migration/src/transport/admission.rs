//! Who may send: one token lets in one source for one migration. Pure, but for the HMAC.
//!
//! On the first stream of each connection the source asks; the target answers or closes the
//! connection with a [`CloseCode`].
//!
//! | bytes of the ask | field |
//! |---|---|
//! | 1 | 0: begin the migration; 1: take up the one that lost its link |
//! | 1 | index of this connection; 0 carries control and faults |
//! | 1 | bulk streams wanted |
//! | 1 | bulk connections wanted besides connection 0 |
//! | 32 | proof |
//!
//! | bytes of the answer | field |
//! |---|---|
//! | 1 | bulk streams granted |
//! | 1 | bulk connections granted |
//! | 2 | zero |
//! | 4 | the target's window for each stream, in bytes, little-endian |
//!
//! The proof is HMAC-SHA-256, under the token's secret, of the TLS exporter of this very connection
//! (RFC 8446, section 7.5; label [`EXPORTER_LABEL`]), the fields before the proof, and the fingerprint of the source's
//! certificate. So it cannot be recorded and used again, nor passed on by somebody in the middle.

use std::time::Instant;

use ring::hmac;

use super::error::CloseCode;
use super::identity::Fingerprint;
use super::token::Secret;

/// Names the use of the exporter.
pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-godwit-migrate-admission-1";
/// Bytes of keying material in the proof.
pub(super) const EXPORTER_BYTES: usize = 32;
const FIELD_BYTES: usize = 4;
/// Bytes of an ask.
pub(super) const ASK_BYTES: usize = FIELD_BYTES + 32;
/// Bytes of an answer.
pub(super) const ANSWER_BYTES: usize = 8;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A migration begins.
    Open,
    /// A migration goes on after its link broke.
    Resume,
}

/// What the source asks for on each of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) purpose: Purpose,
    pub(super) index: u8,
    pub(super) bulk_streams: u8,
    pub(super) bulk_connections: u8,
}

impl Ask {
    const fn fields(self) -> [u8; FIELD_BYTES] {
        [
            self.purpose as u8,
            self.index,
            self.bulk_streams,
            self.bulk_connections,
        ]
    }

    /// The bytes of the ask with its proof.
    pub(super) fn encode(
        self,
        secret: &Secret,
        exported: &[u8; EXPORTER_BYTES],
        source: Fingerprint,
    ) -> [u8; ASK_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let proof = hmac::sign(&key, &self.proven(exported, source));
        let mut bytes = [0; ASK_BYTES];
        bytes[..FIELD_BYTES].copy_from_slice(&self.fields());
        bytes[FIELD_BYTES..].copy_from_slice(proof.as_ref());
        bytes
    }

    /// Reads an ask and checks its proof in constant time.
    ///
    /// # Errors
    /// [`CloseCode::BadToken`], or [`CloseCode::Protocol`] from a holder of the secret.
    pub(super) fn decode(
        bytes: &[u8; ASK_BYTES],
        secret: &Secret,
        exported: &[u8; EXPORTER_BYTES],
        source: Fingerprint,
    ) -> Result<Self, CloseCode> {
        let &[
            purpose,
            index,
            bulk_streams,
            bulk_connections,
            ref proof @ ..,
        ] = bytes;
        let purpose = match purpose {
            0 => Purpose::Open,
            1 => Purpose::Resume,
            _ => return Err(CloseCode::Protocol),
        };
        let ask = Self {
            purpose,
            index,
            bulk_streams,
            bulk_connections,
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, &ask.proven(exported, source), proof)
            .map_err(|_| CloseCode::BadToken)?;
        if bulk_streams == 0 || index > bulk_connections {
            return Err(CloseCode::Protocol);
        }
        Ok(ask)
    }

    fn proven(self, exported: &[u8; EXPORTER_BYTES], source: Fingerprint) -> Vec<u8> {
        [&exported[..], &self.fields(), source.as_bytes()].concat()
    }
}

/// What the target grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) bulk_streams: u8,
    pub(super) bulk_connections: u8,
    pub(super) stream_window_bytes: u32,
}

impl Answer {
    pub(super) fn encode(self) -> [u8; ANSWER_BYTES] {
        let [a, b, c, d] = self.stream_window_bytes.to_le_bytes();
        [self.bulk_streams, self.bulk_connections, 0, 0, a, b, c, d]
    }

    pub(super) const fn decode(bytes: [u8; ANSWER_BYTES]) -> Self {
        let [bulk_streams, bulk_connections, _, _, a, b, c, d] = bytes;
        Self {
            bulk_streams,
            bulk_connections,
            stream_window_bytes: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

/// What became of the token. Only the source that used it may come again: to add connections, to take
/// up the migration after the link broke, or to begin once more after a forecast.
#[derive(Debug)]
pub(super) struct Admission {
    expires: Option<Instant>,
    holder: Option<Fingerprint>,
    /// What the holder began was only a forecast, and it may begin again; nobody else may.
    forecast: Option<Begun>,
}

/// Whether the holder of a token that was used for a forecast has begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    NotYet,
    Again,
}

impl Admission {
    pub(super) const fn new(expires: Option<Instant>) -> Self {
        Self {
            expires,
            holder: None,
            forecast: None,
        }
    }

    /// Decides on a source that proved the token.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        ask: Ask,
        source: Fingerprint,
    ) -> Result<(), CloseCode> {
        let begins = ask.purpose == Purpose::Open && ask.index == 0;
        match self.holder {
            Some(holder) if holder == source && !begins => Ok(()),
            Some(holder) if holder != source || self.forecast != Some(Begun::NotYet) => {
                Err(CloseCode::TokenUsed)
            }
            None if !begins => Err(CloseCode::Protocol),
            _ if self.expires.is_some_and(|expires| now >= expires) => Err(CloseCode::TokenExpired),
            _ => {
                self.holder = Some(source);
                self.forecast = self.forecast.and(Some(Begun::Again));
                Ok(())
            }
        }
    }

    /// Makes the token good again: its link broke before it was complete, so nothing was sent.
    pub(super) fn release(&mut self, source: Fingerprint) {
        if self.holder != Some(source) {
            return;
        }
        match &mut self.forecast {
            Some(begun) => *begun = Begun::NotYet,
            None => self.holder = None,
        }
    }

    /// What the holder began is over: the token is as good as new.
    pub(super) fn renew(&mut self) {
        self.holder = None;
        self.forecast = None;
    }

    /// What the holder began was a forecast and is over: it alone may begin again.
    pub(super) fn reopen(&mut self) {
        self.forecast = self.holder.map(|_| Begun::NotYet);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::token::Token;
    use super::*;

    const OPEN: Ask = Ask {
        purpose: Purpose::Open,
        index: 0,
        bulk_streams: 4,
        bulk_connections: 2,
    };
    const JOIN: Ask = Ask { index: 1, ..OPEN };
    const RESUME: Ask = Ask {
        purpose: Purpose::Resume,
        ..OPEN
    };
    const A: Fingerprint = Fingerprint::from_bytes([1; 32]);
    const B: Fingerprint = Fingerprint::from_bytes([2; 32]);

    #[test]
    fn a_proof_holds_for_its_secret_connection_fields_and_certificate_only() {
        let token = Token::generate(A, &[]).unwrap();
        let other = Token::generate(A, &[]).unwrap();
        let exported = [5; EXPORTER_BYTES];
        let bytes = OPEN.encode(token.secret(), &exported, A);
        let decode = |bytes: &[u8; ASK_BYTES], token: &Token, exported, source| {
            Ask::decode(bytes, token.secret(), exported, source)
        };
        assert_eq!(decode(&bytes, &token, &exported, A), Ok(OPEN));
        let bad = Err(CloseCode::BadToken);
        assert_eq!(decode(&bytes, &other, &exported, A), bad);
        assert_eq!(decode(&bytes, &token, &[6; EXPORTER_BYTES], A), bad);
        assert_eq!(decode(&bytes, &token, &exported, B), bad);
        for at in 1..ASK_BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(decode(&changed, &token, &exported, A), bad, "byte {at}");
        }
    }

    #[test]
    fn an_ask_without_sense_is_refused_even_with_a_proof() {
        let token = Token::generate(A, &[]).unwrap();
        let exported = [5; EXPORTER_BYTES];
        for ask in [
            Ask { index: 3, ..OPEN },
            Ask {
                bulk_streams: 0,
                ..OPEN
            },
        ] {
            let bytes = ask.encode(token.secret(), &exported, A);
            let read = Ask::decode(&bytes, token.secret(), &exported, A);
            assert_eq!(read, Err(CloseCode::Protocol));
        }
    }

    #[test]
    fn an_answer_survives_its_bytes() {
        let answer = Answer {
            bulk_streams: 3,
            bulk_connections: 1,
            stream_window_bytes: 8 << 20,
        };
        assert_eq!(Answer::decode(answer.encode()), answer);
    }

    #[test]
    fn a_token_lets_in_one_source_for_one_migration() {
        let now = Instant::now();
        let mut admission = Admission::new(None);
        assert_eq!(admission.decide(now, JOIN, A), Err(CloseCode::Protocol));
        assert_eq!(admission.decide(now, RESUME, A), Err(CloseCode::Protocol));
        assert_eq!(admission.decide(now, OPEN, A), Ok(()));
        assert_eq!(admission.decide(now, OPEN, A), Err(CloseCode::TokenUsed));
        for ask in [OPEN, JOIN, RESUME] {
            assert_eq!(admission.decide(now, ask, B), Err(CloseCode::TokenUsed));
        }
        assert_eq!(admission.decide(now, JOIN, A), Ok(()));
        assert_eq!(admission.decide(now, RESUME, A), Ok(()));
        admission.release(B);
        assert_eq!(admission.decide(now, OPEN, B), Err(CloseCode::TokenUsed));
        admission.release(A);
        assert_eq!(admission.decide(now, OPEN, B), Ok(()));
    }

    #[test]
    fn after_a_forecast_its_source_alone_may_begin_again_and_once() {
        let now = Instant::now();
        let mut admission = Admission::new(None);
        admission.reopen();
        assert_eq!(admission.decide(now, OPEN, A), Ok(()));
        for _ in 0..2 {
            admission.reopen();
            for ask in [OPEN, JOIN, RESUME] {
                assert_eq!(admission.decide(now, ask, B), Err(CloseCode::TokenUsed));
            }
            assert_eq!(admission.decide(now, OPEN, A), Ok(()));
            assert_eq!(admission.decide(now, OPEN, A), Err(CloseCode::TokenUsed));
        }
        // A link that was not completed does not let others in either.
        admission.release(A);
        assert_eq!(admission.decide(now, OPEN, B), Err(CloseCode::TokenUsed));
        assert_eq!(admission.decide(now, OPEN, A), Ok(()));
        assert_eq!(admission.decide(now, JOIN, A), Ok(()));
        admission.renew();
        assert_eq!(admission.decide(now, RESUME, A), Err(CloseCode::Protocol));
        assert_eq!(admission.decide(now, OPEN, B), Ok(()));
        let mut expired = Admission::new(Some(now + Duration::from_secs(60)));
        assert_eq!(expired.decide(now, OPEN, A), Ok(()));
        expired.reopen();
        let late = now + Duration::from_secs(60);
        assert_eq!(expired.decide(late, OPEN, A), Err(CloseCode::TokenExpired));
    }

    #[test]
    fn an_expired_token_begins_nothing_but_its_migration_goes_on() {
        let now = Instant::now();
        let expires = now + Duration::from_secs(60);
        let mut late = Admission::new(Some(expires));
        assert_eq!(late.decide(expires, OPEN, A), Err(CloseCode::TokenExpired));
        let mut admission = Admission::new(Some(expires));
        assert_eq!(admission.decide(now, OPEN, A), Ok(()));
        assert_eq!(admission.decide(expires, RESUME, A), Ok(()));
    }
}
