//! Why the transport failed, and the numbers that tell the peer so.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use godwit_proto::codes::ErrorCode;
use godwit_proto::frame::FrameError;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::identity::{Fingerprint, IdentityError};
use super::token::TokenError;

/// The most of a peer's explanation that is kept, in characters.
const MAX_TEXT: usize = 200;
/// QUIC's number of a TLS alert is 0x100 and the alert (RFC 9001, section 4.8); this is
/// `no_application_protocol` (RFC 7301).
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why one side ended a connection: QUIC's application error code. A number keeps its
        /// meaning for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CloseCode {
            $($(#[$doc])* $name,)*
            /// A reason of a newer build.
            Unknown(u64),
        }

        impl CloseCode {
            /// The code of this number.
            #[must_use]
            pub const fn from_number(number: u64) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unknown(number),
                }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u64 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown(number) => number,
                }
            }
        }

        impl fmt::Display for CloseCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(number) => write!(f, "unknown reason {number}"),
                }
            }
        }
    };
}

close_codes! {
    /// The link was dropped without a word: the program failed or ended.
    Abandoned = 0, "abandoned";
    /// All that there was to do is done.
    Done = 1, "done";
    /// The migration was cancelled.
    Cancelled = 2, "cancelled";
    /// The source does not have the secret of the token.
    BadToken = 3, "the token is not the one of this target";
    /// A migration already began with the token.
    TokenUsed = 4, "the token was already used";
    /// The token's time is over.
    TokenExpired = 5, "the token has expired";
    /// The peer broke the protocol.
    Protocol = 6, "protocol violation";
    /// The peer made no progress.
    Stalled = 7, "no progress";
    /// Too many connections at once.
    Busy = 8, "too many connections at once";
    /// This side failed.
    Internal = 9, "internal failure";
}

impl CloseCode {
    pub(super) fn varint(self) -> VarInt {
        VarInt::from_u64(self.number()).unwrap_or(VarInt::MAX)
    }

    const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::BadToken | Self::TokenUsed | Self::TokenExpired | Self::Busy
        )
    }
}

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reaching the peer, or waiting for one to come.
    Connect,
    /// Proving the token.
    Admission,
    /// Opening the streams of the link.
    Streams,
    /// On the control stream.
    Control,
    /// On the fault stream.
    Fault,
    /// On a bulk stream.
    Bulk,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Admission => "admission",
            Self::Streams => "opening streams",
            Self::Control => "the control stream",
            Self::Fault => "the fault stream",
            Self::Bulk => "a bulk stream",
        })
    }
}

/// Why a link could not be made, or broke.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was heard of the peer for the time-out of [`super::Tuning::dead_after`].
    #[error("peer is dead or unreachable")]
    DeadPeer,
    /// The target does not let this source in.
    #[error("target refused the migration: {code}{}", Said(text))]
    Refused {
        /// Why.
        code: CloseCode,
        /// What it says about it, without control characters.
        text: String,
    },
    /// The peer ended the link.
    #[error("peer closed the link: {code}{}", Said(text))]
    Closed {
        /// Why.
        code: CloseCode,
        /// What it says about it, without control characters.
        text: String,
    },
    /// This side ended the link.
    #[error("the link was closed on this side")]
    ClosedHere,
    /// Whoever answers is not the target of the token.
    #[error("certificate of the peer is {found}, the token names {expected}")]
    PinMismatch {
        /// The fingerprint in the token.
        expected: Fingerprint,
        /// That of the certificate shown.
        found: Fingerprint,
    },
    /// The two builds have no version of the transport in common.
    #[error(
        "peer does not speak {:?}",
        String::from_utf8_lossy(super::config::ALPN)
    )]
    Version,
    /// The peer lives but makes no progress.
    #[error("no progress in {phase} for {} ms", waited.as_millis())]
    Stalled {
        /// Where.
        phase: Phase,
        /// For how long.
        waited: Duration,
    },
    /// The peer ended a stream that it should go on with.
    #[error("peer ended {phase}: {code}")]
    StreamEnded {
        /// Which stream.
        phase: Phase,
        /// Why; [`CloseCode::Done`] when it ended in order.
        code: CloseCode,
    },
    /// The peer did what the protocol forbids.
    #[error("peer broke the protocol: {what}")]
    Protocol {
        /// What.
        what: &'static str,
    },
    /// A frame was refused.
    #[error("frame refused on {phase}")]
    Frame {
        /// Which stream.
        phase: Phase,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// An earlier write was given up half-way, so nothing can follow it.
    #[error("an earlier message on {phase} was cut short")]
    Broken {
        /// Which stream.
        phase: Phase,
    },
    /// The UDP socket cannot be had.
    #[error("cannot bind a udp socket to {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address cannot be dialled.
    #[error("cannot dial {address}")]
    Dial {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: quinn::ConnectError,
    },
    /// A setting is out of range.
    #[error("{setting} is out of range: {value}")]
    Tuning {
        /// Which.
        setting: &'static str,
        /// Its value.
        value: u64,
    },
    /// No certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// TLS cannot be set up.
    #[error("cannot set up tls")]
    Tls(#[from] rustls::Error),
    /// Any other end of a connection.
    #[error("connection failed")]
    Connection(#[source] ConnectionError),
}

impl TransportError {
    pub(super) fn lost(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut | ConnectionError::Reset => Self::DeadPeer,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::ApplicationClosed(close) => {
                let code = CloseCode::from_number(close.error_code.into_inner());
                let text = printable(&close.reason);
                if code.is_refusal() {
                    Self::Refused { code, text }
                } else {
                    Self::Closed { code, text }
                }
            }
            ConnectionError::ConnectionClosed(ref close)
                if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL =>
            {
                Self::Version
            }
            ConnectionError::TransportError(ref error)
                if u64::from(error.code) == NO_APPLICATION_PROTOCOL =>
            {
                Self::Version
            }
            other => Self::Connection(other),
        }
    }

    pub(super) fn write(phase: Phase, error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::lost(error),
            WriteError::Stopped(code) => Self::StreamEnded {
                phase,
                code: CloseCode::from_number(code.into_inner()),
            },
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Broken { phase },
        }
    }

    pub(super) fn read(phase: Phase, error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::lost(error),
            ReadError::Reset(code) => Self::StreamEnded {
                phase,
                code: CloseCode::from_number(code.into_inner()),
            },
            _ => Self::Broken { phase },
        }
    }

    /// What to tell a user when this ends a migration: whether the link was lost, or the peer is to
    /// blame.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::DeadPeer | Self::Closed { .. } | Self::ClosedHere | Self::Connection(_) => {
                ErrorCode::LinkLost
            }
            _ => ErrorCode::PeerProtocol,
        }
    }

    /// What to tell the peer when this ends the link.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Stalled { .. } => CloseCode::Stalled,
            Self::Protocol { .. } | Self::Frame { .. } => CloseCode::Protocol,
            _ => CloseCode::Internal,
        }
    }
}

/// A peer's words after a colon, if it said any.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.0)
        }
    }
}

/// A peer's words, fit for a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let kept = text.chars().take(MAX_TEXT);
    kept.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_keeps_its_number_also_when_it_is_not_known() {
        for number in 0..20 {
            assert_eq!(CloseCode::from_number(number).number(), number);
        }
        assert_eq!(CloseCode::from_number(99), CloseCode::Unknown(99));
        assert_eq!(CloseCode::TokenUsed.number(), 4);
    }

    #[test]
    fn a_peers_words_cannot_steer_the_terminal() {
        let words = [b"\x1b[2Jgone\n\xff".as_slice(), &[b'x'; 500]].concat();
        let shown = printable(&words);
        assert!(!shown.contains(char::is_control));
        assert_eq!(shown.chars().count(), MAX_TEXT);
    }
}
