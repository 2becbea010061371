//! What carries out the machines' commands: streams, threads and clocks around [`crate::source`] and
//! [`crate::target`].
//!
//! A driver makes no decision. It turns what happens on the link, in the guest and on the clock into
//! events, and the machine's commands into calls of the [ports](crate::ports). Calls that block run on
//! threads of their own, so that the machine hears of a cancellation, or of the peer's death, at once.

#![allow(clippy::disallowed_methods)] // an edge: what the machines are told of time is read here

mod rounds;
mod source;
mod target;

pub use source::{Controls, SourceGuest, migrate};
pub use target::{Prepared, TargetHost, receive};

use std::error::Error;

use godwit_proto::codes::{CodedError, ErrorCode};

/// An error of a port, for the peer and for people.
fn coded(code: ErrorCode, error: &(dyn Error + 'static)) -> CodedError {
    CodedError::from_error(code, error)
}
