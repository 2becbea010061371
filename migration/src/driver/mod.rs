//! What carries out the machines' commands: streams, threads and clocks around [`crate::source`] and
//! [`crate::target`].
//!
//! A driver makes no decision. It turns what happens on the link, in the guest and on the clock into
//! events, and the machine's commands into calls of the [ports](crate::ports). Calls that block run on
//! threads of their own, so that the machine hears of a cancellation, or of the peer's death, at once.
//!
//! Before the switch pages go in rounds over the bulk streams. In post-copy they follow the guest: what
//! it waits for over the fault stream, the rest over bulk. A link that is cut after the source gave
//! the guest up is made again, by the source; each has a number, by which what is left over from an
//! old one is told apart. A move within a host is not carried out.

#![allow(clippy::disallowed_methods)] // an edge: what the machines are told of time is read here

mod arrivals;
mod fault_around;
mod fault_stream;
mod first_frame;
mod hello;
mod pages;
mod rounds;
mod source;
mod target;
mod verify;

pub use hello::settle;
pub use source::{Controls, SourceGuest, Way, Window, forecast, migrate};
pub use target::{FirstFrame, Prepared, TargetHost, Watched, receive};

use std::error::Error;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::Offer;

use crate::page::DigestSeed;

/// Messages and batches of a peer that wait for the machine. One that sends more waits, as QUIC has it.
const MAX_HEARD: usize = 64;

/// The seed of a migration's digests: of its id, which is random and which no guest learns, or the one that
/// the source has used since the guest came to it (MIG-79).
fn digest_seed(offer: &Offer) -> DigestSeed {
    if let Some(retained) = &offer.retained {
        return DigestSeed(retained.digest_seed);
    }
    let id = offer.migration.as_bytes();
    let half = |from: usize| {
        u64::from_le_bytes(id[from..from + 8].try_into().expect("an id has 16 bytes"))
    };
    DigestSeed(half(0) ^ half(8))
}

/// An error of a port, for the peer and for people.
fn coded(code: ErrorCode, error: &(dyn Error + 'static)) -> CodedError {
    CodedError::from_error(code, error)
}
