//! The certificate of one side of one migration, and how the other side names it.

use std::fmt;

use ring::digest;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Fingerprint::BYTES]);

impl Fingerprint {
    /// Bytes of a fingerprint.
    pub const BYTES: usize = 32;

    /// The fingerprint with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The fingerprint of a certificate in DER.
    pub(super) fn of(certificate: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, certificate);
        let bytes = hash.as_ref().try_into();
        Self(bytes.expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for the migration")]
pub struct IdentityError(#[from] rcgen::Error);

/// A self-signed certificate with its private key, made for one migration.
///
/// Nobody vouches for it: the peer knows its [`Fingerprint`], or learns it together with the proof
/// that its holder has the token.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// The name in every certificate, and the server name that a source asks for. It tells nothing
    /// and is not checked: the fingerprint is.
    pub(super) const NAME: &str = "godwit";

    /// A new key pair (ECDSA, P-256) and its certificate.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let made = rcgen::generate_simple_self_signed([Self::NAME.to_owned()])?;
        let certificate = made.cert.der().clone();
        Ok(Self {
            fingerprint: Fingerprint::of(&certificate),
            key: PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()),
            certificate,
        })
    }

    /// What a peer pins.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(super) fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("fingerprint", &self.fingerprint);
        shown.finish_non_exhaustive()
    }
}
