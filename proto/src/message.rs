//! Messages that are the whole payload of one frame each, of whichever protocol.

use rkyv::rancor;

use crate::frame::{FrameError, FrameKind};
use crate::version::VersionRange;

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
    #[error("message is in version {found}, this build speaks {ours}")]
    Version {
        /// The version found.
        found: u16,
        /// What this build speaks.
        ours: VersionRange,
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

/// Gives a type its frame: `message!(Type, FrameKind::Of, LIMITS)`.
macro_rules! message {
    ($name:ident, $kind:expr, $limits:expr) => {
        impl $name {
            /// The frame that holds this message, in the settled `version`.
            ///
            /// # Errors
            /// A message too long for its frame, or a version this build does not speak.
            pub fn to_frame(&self, version: u16) -> Result<Vec<u8>, $crate::message::MessageError> {
                let payload = self.to_payload(version)?;
                Ok($crate::frame::encode(
                    $kind,
                    version,
                    &payload,
                    $limits.max_payload_bytes,
                )?)
            }

            /// The payload of that frame, for who makes frames elsewhere.
            ///
            /// # Errors
            /// A version this build does not speak.
            pub fn to_payload(
                &self,
                version: u16,
            ) -> Result<Vec<u8>, $crate::message::MessageError> {
                $crate::message::check_version(version, $limits.versions)?;
                $crate::payload::to_bytes(self).map_err(|source| {
                    $crate::message::MessageError::Payload {
                        kind: $kind,
                        source,
                    }
                })
            }

            /// The kind of that frame.
            pub const FRAME_KIND: $crate::frame::FrameKind = $kind;

            /// The message in `frame`.
            ///
            /// # Errors
            /// Another kind of frame, a version this build does not speak, or a malformed payload.
            pub fn from_frame(
                frame: &$crate::frame::Frame,
            ) -> Result<Self, $crate::message::MessageError> {
                if frame.kind != $kind {
                    return Err($crate::message::MessageError::WrongKind {
                        found: frame.kind,
                        wanted: $kind,
                    });
                }
                $crate::message::check_version(frame.version, $limits.versions)?;
                $crate::payload::from_bytes(&frame.payload).map_err(|source| {
                    $crate::message::MessageError::Payload {
                        kind: $kind,
                        source,
                    }
                })
            }
        }
    };
}
pub(crate) use message;

pub(crate) fn check_version(version: u16, ours: VersionRange) -> Result<(), MessageError> {
    if ours.contains(version) {
        Ok(())
    } else {
        Err(MessageError::Version {
            found: version,
            ours,
        })
    }
}
