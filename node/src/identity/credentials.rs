//! What makes this machine a node, on disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use godwit_proto::id::NodeId;
use godwit_proto::peer::Peer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Authority, IdentityError};

const AUTHORITY: &str = "authority.der";
const AUTHORITY_KEY: &str = "authority.key";
const CERTIFICATE: &str = "node.der";
const KEY: &str = "node.key";
/// The node's id and the nodes it knew when it joined.
const NODE: &str = "node.json";

/// A private key: ECDSA on P-256.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        Ok(Self(rcgen::KeyPair::generate_for(algorithm)?))
    }

    /// The public half: an uncompressed point.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    #[cfg(test)]
    pub(crate) fn copy(&self) -> Self {
        Self::from_der(&self.to_der()).expect("it was a key")
    }

    pub(super) fn signing(&self) -> &rcgen::KeyPair {
        &self.0
    }

    fn to_der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    fn from_der(der: &[u8]) -> Result<Self, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from(der);
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, algorithm).map(Self)
    }
}

/// The identity of a node.
pub struct Credentials {
    /// Its id.
    pub node: NodeId,
    /// The certificate of its cluster's authority, DER.
    pub authority: Vec<u8>,
    /// Its own, DER.
    pub certificate: Vec<u8>,
    /// The nodes that it knew when it joined; empty on the first.
    pub peers: Vec<Peer>,
    key: KeyPair,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct NodeFile {
    id: String,
    peers: Vec<(String, String)>,
}

impl Credentials {
    /// Those of the first node of a new cluster, whose `authority` it keeps.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn first(node: NodeId, authority: &Authority) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        Ok(Self {
            node,
            authority: authority.certificate().to_vec(),
            certificate: authority.admit(node, key.public())?,
            peers: Vec::new(),
            key,
        })
    }

    /// Those of a node that was admitted with `key`.
    #[must_use]
    pub fn joined(joined: godwit_proto::peer::Joined, key: KeyPair) -> Self {
        Self {
            node: joined.node,
            authority: joined.authority,
            certificate: joined.certificate,
            peers: joined.peers,
            key,
        }
    }

    /// Writes them to `dir`, which is made; nothing is there yet. The file that makes a node of the
    /// machine is written last, and all are on disk before this returns.
    ///
    /// # Errors
    /// A file cannot be written, or there is an identity already.
    pub fn save(&self, dir: &Path, authority: Option<&Authority>) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::File {
            path: dir.into(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(failed)?;
        write(dir, AUTHORITY, &self.authority)?;
        if let Some(authority) = authority {
            write(dir, AUTHORITY_KEY, &authority.key().to_der())?;
        }
        write(dir, CERTIFICATE, &self.certificate)?;
        write(dir, KEY, &self.key.to_der())?;
        let node = NodeFile {
            id: self.node.to_string(),
            peers: self
                .peers
                .iter()
                .map(|peer| (peer.id.to_string(), peer.address.clone()))
                .collect(),
        };
        let node = serde_json::to_vec_pretty(&node).expect("a struct of strings is JSON");
        write(dir, NODE, &node)?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    /// Whether `dir` has an identity.
    #[must_use]
    pub fn exist(dir: &Path) -> bool {
        dir.join(NODE).exists()
    }

    /// Reads them from `dir`, with the authority's key where it is.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn load(dir: &Path) -> Result<(Self, Option<Authority>), IdentityError> {
        let authority = read(dir, AUTHORITY)?;
        let authority_key = match dir.join(AUTHORITY_KEY).exists() {
            true => Some(key(dir, AUTHORITY_KEY)?),
            false => None,
        };
        let path = dir.join(NODE);
        let damaged = |what: String| IdentityError::Damaged {
            path: path.clone(),
            what,
        };
        let node: NodeFile = serde_json::from_slice(&read(dir, NODE)?)
            .map_err(|error| damaged(error.to_string()))?;
        let id = |text: &str| text.parse().map_err(|error| damaged(format!("{error}")));
        let peers = node.peers.iter().map(|(peer, address)| {
            Ok(Peer {
                id: id(peer)?,
                address: address.clone(),
            })
        });
        let credentials = Self {
            node: id(&node.id)?,
            authority: authority.clone(),
            certificate: read(dir, CERTIFICATE)?,
            peers: peers.collect::<Result<_, IdentityError>>()?,
            key: key(dir, KEY)?,
        };
        let authority = authority_key.map(|key| Authority::from_parts(authority, key));
        Ok((credentials, authority))
    }

    /// What is shown to peers.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![
            CertificateDer::from(self.certificate.clone()),
            CertificateDer::from(self.authority.clone()),
        ]
    }

    /// The private key.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_der()).into()
    }

    /// SHA-256 of the node's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }
}

/// SHA-256 of `bytes`.
#[must_use]
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn key(dir: &Path, name: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_der(&read(dir, name)?).map_err(|error| IdentityError::Damaged {
        path: dir.join(name),
        what: error.to_string(),
    })
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, IdentityError> {
    let path = dir.join(name);
    fs::read(&path).map_err(|source| IdentityError::File { path, source })
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
    let path: PathBuf = dir.join(name);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(|source| IdentityError::File { path, source })
}
