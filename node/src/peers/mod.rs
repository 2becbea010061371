//! Nodes of a cluster talking to each other: QUIC with mutual TLS, a stream for each request.
//!
//! Who connects shows a certificate of the cluster's authority, in which its id stands; a handler is told
//! that id and nothing that the peer says of itself. Only who joins has no certificate yet: it checks the
//! server's by the authority's hash in its token, and may ask one thing. Every message, stream and
//! wait is bounded.

mod dialer;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use dialer::{PeerError, Peers, join};
pub use server::{BoxFuture, Duplex, Handler, PeerServer, Reply};
