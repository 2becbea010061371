//! The link between a source and a target: QUIC, with both certificates pinned for one migration.
mod admission;
mod base64url;
mod cap;
mod config;
mod error;
mod identity;
mod meter;
mod socket;
mod stall;
mod token;
mod verify;
pub use cap::{Bucket, MIN_RATE};
pub use config::{Congestion, Tuning};
pub use error::{CloseCode, Phase, TransportError};
pub use identity::{Fingerprint, Identity, IdentityError};
pub use meter::Meter;
pub use stall::{PATIENCE, Stall, StallDetector};
pub use token::{Token, TokenError};
