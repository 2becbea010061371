//! The protocol between a guest process and whoever steers it: the daemon or the command line, over
//! a Unix socket.
//!
//! ```text
//! client                          guest process
//!   hello (versions) ------------->
//!   <------------- hello (versions)     both settle on the highest common version
//!   request  --------------------->
//!   <--------------------- response     one per request, in order
//!   <------------- response Exited      at any time, unasked, then the stream ends
//! ```
//!
//! A client has at most one request under way. [`Request::AttachConsole`] changes the stream: after
//! its [`Response::Ok`] no more frames follow either way, but the console's raw bytes, until one
//! side closes.
//!
//! A message is the payload of one [frame], archived in the version that the frame's header names.
//! Every build speaks version V and V-1 ([`VERSIONS`]): a daemon steers guest processes that an
//! older build started, and an older daemon those of a newer one.

mod request;
mod response;

pub use request::{ConsoleKind, DiskOverride, NetOverride, Overrides, Request};
pub use response::{
    DeviceStats, ExitReason, GuestState, GuestStats, NamedCounter, Response, SnapshotReport,
    VcpuStats,
};

use rkyv::rancor;

use crate::frame::{self, Frame, FrameError, FrameKind, Limits};
use crate::version::VersionRange;

/// The versions of this protocol that this build speaks.
pub const VERSIONS: VersionRange = match VersionRange::new(1, 1) {
    Ok(versions) => versions,
    Err(_) => panic!("the oldest version is not above the newest"),
};

/// The longest request, in bytes of payload.
pub const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// The longest response, in bytes of payload: [`Response::Saved`] with 64 vCPUs is about 2 MiB.
pub const MAX_RESPONSE_BYTES: u32 = 16 << 20;

/// What a guest process takes.
pub const REQUEST_LIMITS: Limits = Limits {
    versions: VERSIONS,
    max_payload_bytes: MAX_REQUEST_BYTES,
};
/// What a client takes.
pub const RESPONSE_LIMITS: Limits = Limits {
    versions: VERSIONS,
    max_payload_bytes: MAX_RESPONSE_BYTES,
};

/// Why a message was refused or cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The message does not fit a frame.
    #[error("cannot frame a message")]
    Frame(#[from] FrameError),
    /// Another kind of frame was expected.
    #[error("found a {found:?} frame in place of a {wanted:?} frame")]
    WrongKind {
        /// The kind found.
        found: FrameKind,
        /// The kind expected.
        wanted: FrameKind,
    },
    /// The message is in a version that this build does not speak.
    #[error("message is in version {found}, this build speaks {VERSIONS}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The payload is no such message.
    #[error("{kind:?} is malformed")]
    Payload {
        /// What it should be.
        kind: FrameKind,
        /// What is wrong.
        #[source]
        source: rancor::Error,
    },
}

macro_rules! message {
    ($name:ident, $kind:expr, $max:expr) => {
        impl $name {
            /// The frame that holds this message, in the settled `version`.
            ///
            /// # Errors
            /// A message too long for its frame, or a version this build does not speak.
            pub fn to_frame(&self, version: u16) -> Result<Vec<u8>, MessageError> {
                check_version(version)?;
                let payload =
                    crate::payload::to_bytes(self).map_err(|source| MessageError::Payload {
                        kind: $kind,
                        source,
                    })?;
                Ok(frame::encode($kind, version, &payload, $max)?)
            }

            /// The message in `frame`.
            ///
            /// # Errors
            /// Another kind of frame, a version this build does not speak, or a malformed payload.
            pub fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
                if frame.kind != $kind {
                    return Err(MessageError::WrongKind {
                        found: frame.kind,
                        wanted: $kind,
                    });
                }
                check_version(frame.version)?;
                crate::payload::from_bytes(&frame.payload).map_err(|source| MessageError::Payload {
                    kind: $kind,
                    source,
                })
            }
        }
    };
}

message!(Request, FrameKind::Request, MAX_REQUEST_BYTES);
message!(Response, FrameKind::Response, MAX_RESPONSE_BYTES);

fn check_version(version: u16) -> Result<(), MessageError> {
    if VERSIONS.contains(version) {
        Ok(())
    } else {
        Err(MessageError::Version { found: version })
    }
}
