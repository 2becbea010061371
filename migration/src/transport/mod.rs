//! The link between a source and a target: QUIC with TLS 1.3, both certificates made for one
//! migration.
//!
//! ```text
//!   source                                               target
//!   Dialer                                               Receiver -- token --> to the source's user
//!     |  QUIC, ALPN godwit-migrate/1                        |
//!     |  the target's certificate is the token's            |
//!     |  ask + HMAC(token's secret, exporter of this TLS) ->|  once: Admission,
//!     |<- answer: streams and connections granted           |  or closed with a CloseCode
//!   Link                                                  Link
//!     fault    <=========== frames, priority 2 ===========>
//!     control  <=========== frames, priority 1 ===========>
//!     bulk 0.. ============ bytes,  priority 0 ===========>
//! ```
//!
//! It refuses to understand what it carries: frames and bytes are the business of the machines at
//! either end. It never redials by itself: [`Dialer::resume`] is theirs to call.
//!
//! Invariants:
//! - Bulk delays neither faults nor control: each stream has a window of its own, and that of a
//!   connection is as large as those of its streams together, on both sides. Bulk that nobody reads
//!   stops alone.
//! - Every wait ends: at the silence of the peer ([`Tuning::dead_after`]), without progress
//!   ([`Tuning::stall_limit`]), or at the time given by the caller.
//! - A token begins one migration; its secret is never sent.
//! - What a peer can make this side buffer is bounded by windows and [`Tuning::max_frame_bytes`].
//! - The connections of a link end together, and a link that is merely dropped is not "done".
//!
//! ```
//! use std::time::Duration;
//! use godwit_migration::transport::{CloseCode, Dialer, Invitation, Receiver, Tuning};
//! use godwit_proto::{frame::FrameKind, process::VERSIONS};
//!
//! # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let bind = "127.0.0.1:0".parse()?;
//! let mut receiver = Receiver::bind(bind, Invitation::default(), Tuning::default(), VERSIONS)?;
//! let text = receiver.token().to_text(); // handed over by the user
//!
//! let dialer = Dialer::new(text.parse()?, Tuning::default(), VERSIONS)?;
//! let (source, target) = tokio::join!(
//!     dialer.open(receiver.address()?),
//!     receiver.accept(Duration::from_secs(10)),
//! );
//! let (mut source, mut target) = (source?, target?);
//!
//! source.control.sender.send(FrameKind::Request, 1, b"prepare").await?;
//! let frame = target.control.receiver.receive(Duration::from_secs(3)).await?;
//! assert_eq!(frame.payload, b"prepare");
//!
//! source.bulk[0].write(&[7; 4096]).await?;
//! let mut page = [0; 4096];
//! target.bulk[0].read_exact(&mut page, Duration::from_secs(3)).await?;
//! target.peer.close(CloseCode::Done, "").await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(clippy::disallowed_methods)] // an edge: links have time-outs

mod admission;
mod base64url;
mod bulk;
mod cable;
mod cap;
mod config;
mod connections;
mod dialer;
mod error;
mod framed;
mod identity;
mod link;
mod meter;
mod receiver;
mod shallow;
mod socket;
mod stall;
mod stream;
mod token;
mod verify;
pub use bulk::{BulkReceiver, BulkSender, ByteCount};
pub use cable::Cable;
pub use cap::{Bucket, MIN_RATE};
pub use config::{Congestion, Tuning};
pub use dialer::Dialer;
pub use error::{CloseCode, Phase, TransportError};
pub use framed::{FrameReceiver, FrameSender, Framed};
pub use identity::{Fingerprint, Identity, IdentityError};
pub use link::{Link, LinkStats, Peer, SourceLink, TargetLink};
pub use meter::Meter;
pub use receiver::{Invitation, Receiver};
pub use stall::{PATIENCE, Stall, StallDetector};
pub use token::{Token, TokenError};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod throughput;
