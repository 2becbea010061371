//! What nodes of a cluster say to each other, over QUIC with mutual TLS.
//!
//! Each request goes on a stream of its own: one frame there, one frame back. The transport proves who
//! asks by a certificate of the cluster's authority; only [`PeerRequest::Join`] comes from somebody who
//! has none yet. What has a format of its own (log entries, Raft messages, heartbeats) travels as its
//! bytes, with its own checksums and versions.

mod request;
mod response;

pub use request::{JoinRequest, PeerRequest};
pub use response::{Joined, Peer, PeerResponse};

pub use crate::message::MessageError;

use crate::frame::{FrameKind, Limits};
use crate::message::message;
use crate::version::VersionRange;

/// The versions of this protocol that this build speaks.
pub const VERSIONS: VersionRange = match VersionRange::new(1, 1) {
    Ok(versions) => versions,
    Err(_) => panic!("the oldest version is not above the newest"),
};

/// The longest message, in bytes of payload: a batch of log entries or a chunk of a snapshot.
pub const MAX_MESSAGE_BYTES: u32 = 8 << 20;

/// What is taken, either way.
pub const LIMITS: Limits = Limits {
    versions: VERSIONS,
    max_payload_bytes: MAX_MESSAGE_BYTES,
};

message!(PeerRequest, FrameKind::PeerRequest, LIMITS);
message!(PeerResponse, FrameKind::PeerResponse, LIMITS);
