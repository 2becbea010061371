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
//! side closes. [`Request::HandOver`] changes it too: after its [`Response::HandedOver`] come files.
//!
//! A message is the payload of one [frame](crate::frame), archived in the version that the frame's header names.
//! Every build speaks version V and V-1 ([`VERSIONS`]): a daemon steers guest processes that an
//! older build started, and an older daemon those of a newer one.

mod mandate;
mod request;
mod response;

pub use mandate::{Departure, Leaving, Mandate, MandateState, Origin, Parting, Proof, Standing};
pub use request::{
    AwaitRequest, Compression, ConsoleKind, DiskOverride, MigrateRequest, NetOverride, Overrides,
    Request, TimeoutAction,
};
pub use response::{
    DeviceStats, ExitReason, GuestState, GuestStats, HandedTap, NamedCounter, Response,
    SnapshotReport, VcpuStats,
};

pub use crate::message::MessageError;

use crate::frame::{FrameKind, Limits};
use crate::message::message;
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

message!(Request, FrameKind::Request, REQUEST_LIMITS);
message!(Response, FrameKind::Response, RESPONSE_LIMITS);
