//! Who a node is: its id, its certificate, and the authority of its cluster.
//!
//! The authority's certificate is the cluster: whoever has a certificate signed by it is a node, with the
//! id that stands in the certificate as the name `ID.node.godwit`. A node that can admit others has the
//! authority's key as well. Everything lies in a directory that only its user can read.

mod authority;
mod credentials;
mod join_token;

pub use authority::Authority;
pub use credentials::{Credentials, KeyPair};
pub use join_token::{IssuedTokens, JoinToken};

use std::io;
use std::path::PathBuf;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;

/// What follows the id in the name that a certificate is for.
const DOMAIN: &str = ".node.godwit";

/// The name that the certificate of `node` is for.
#[must_use]
pub fn name_of(node: NodeId) -> String {
    format!("{node}{DOMAIN}")
}

/// The node whose certificate is for `name`.
#[must_use]
pub fn node_of(name: &str) -> Option<NodeId> {
    name.strip_suffix(DOMAIN)?.parse().ok()
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot access {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path:?} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// This node cannot admit others.
    #[error("this node does not have the key of the cluster's authority")]
    NoAuthority,
    /// The token is not good.
    #[error("{0}")]
    Token(&'static str),
}

impl IdentityError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        let (code, fix) = match self {
            Self::File { .. } => (ErrorCode::Other, "check the data directory"),
            Self::Damaged { .. } => (
                ErrorCode::Other,
                "restore the file, or remove the node from the cluster and join it again",
            ),
            Self::NoAuthority => (
                ErrorCode::TokenInvalid,
                "ask the node on which the cluster was made",
            ),
            Self::Token(_) => (
                ErrorCode::TokenInvalid,
                "get a new one with `godwit cluster token`",
            ),
            Self::Certificate(_) | Self::Random => (ErrorCode::Other, "try again"),
        };
        CodedError::from_error(code, self).with_fix(fix)
    }
}
