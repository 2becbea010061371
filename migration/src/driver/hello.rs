//! Settling on a version of the protocol, the first thing on a control stream (MIG-01).

use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::VERSIONS;
use godwit_proto::version::VersionRange;

use crate::transport::Framed;

/// How long the peer's hello may take: it is sent unasked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says which versions this build speaks, hears the peer, and returns the highest that both do.
///
/// # Errors
/// The peer speaks none of ours, or says something else, or nothing.
pub async fn settle(control: &mut Framed) -> Result<u16, CodedError> {
    let failed = |error: &dyn std::error::Error| {
        CodedError::from_error(ErrorCode::PeerProtocol, error)
            .with_fix("use builds of about the same version on both hosts")
    };
    control
        .sender
        .send_hello(VERSIONS)
        .await
        .map_err(|error| failed(&error))?;
    let frame = control
        .receiver
        .receive(PATIENCE)
        .await
        .map_err(|error| failed(&error))?;
    if frame.kind != FrameKind::Hello {
        let text = format!("the peer began with a {:?} instead of a hello", frame.kind);
        return Err(CodedError::new(ErrorCode::PeerProtocol, text));
    }
    let theirs = VersionRange::from_bytes(&frame.payload).map_err(|error| failed(&error))?;
    VERSIONS.settle(theirs).map_err(|error| failed(&error))
}
