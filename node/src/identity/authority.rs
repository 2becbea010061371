//! The authority of a cluster: it says who is a node.

use godwit_proto::id::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};

use super::{IdentityError, KeyPair, name_of};

/// The name of every authority. It tells nothing: the key does.
const NAME: &str = "godwit cluster authority";
/// Bytes of an uncompressed point of P-256.
const POINT_BYTES: usize = 65;

/// The authority of a cluster, with its key.
pub struct Authority {
    certificate: Vec<u8>,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let certificate = params()?.self_signed(key.signing())?.der().to_vec();
        Ok(Self { certificate, key })
    }

    /// That of these files.
    #[must_use]
    pub fn from_parts(certificate: Vec<u8>, key: KeyPair) -> Self {
        Self { certificate, key }
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// Says that whoever has the key of `public_key` is `node`: a certificate, DER.
    ///
    /// # Errors
    /// The key is no point of P-256.
    pub fn admit(&self, node: NodeId, public_key: &[u8]) -> Result<Vec<u8>, IdentityError> {
        if public_key.len() != POINT_BYTES || public_key[0] != 4 {
            return Err(IdentityError::Token("the public key is malformed"));
        }
        let mut params = CertificateParams::new([name_of(node)])?;
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let issuer = Issuer::new(self::params()?, self.key.signing());
        let certificate = params.signed_by(&Point(public_key), &issuer)?;
        Ok(certificate.der().to_vec())
    }
}

fn params() -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The public half of a key whose private half is elsewhere.
struct Point<'key>(&'key [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
