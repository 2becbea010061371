//! The archive of every process and migration message, past frame header and checksum; what decodes must encode
//! and decode to itself. Golden files of messages are good seeds: their frame header is skipped.

#![no_main]

use godwit_proto::frame::{self, Frame, FrameKind, HEADER_BYTES};
use godwit_proto::migrate::{self, FromSource, FromTarget};
use godwit_proto::process::{REQUEST_LIMITS, RESPONSE_LIMITS, Request, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let payload = input.get(HEADER_BYTES..).unwrap_or(input).to_vec();
    let mut received = Frame {
        kind: FrameKind::Request,
        version: 1,
        payload,
    };
    if let Ok(request) = Request::from_frame(&received)
        && let Ok(sent) = request.to_frame(1)
    {
        let (again, _) = frame::decode(&sent, &REQUEST_LIMITS).unwrap();
        assert_eq!(Request::from_frame(&again.unwrap()).unwrap(), request);
    }
    received.kind = FrameKind::Response;
    if let Ok(response) = Response::from_frame(&received)
        && let Ok(sent) = response.to_frame(1)
    {
        let (again, _) = frame::decode(&sent, &RESPONSE_LIMITS).unwrap();
        assert_eq!(Response::from_frame(&again.unwrap()).unwrap(), response);
    }
    received.kind = FrameKind::FromSource;
    if let Ok(message) = FromSource::from_frame(&received)
        && let Ok(sent) = message.to_frame(1)
    {
        let (again, _) = frame::decode(&sent, &migrate::LIMITS).unwrap();
        assert_eq!(FromSource::from_frame(&again.unwrap()).unwrap(), message);
    }
    received.kind = FrameKind::FromTarget;
    if let Ok(message) = FromTarget::from_frame(&received)
        && let Ok(sent) = message.to_frame(1)
    {
        let (again, _) = frame::decode(&sent, &migrate::LIMITS).unwrap();
        assert_eq!(FromTarget::from_frame(&again.unwrap()).unwrap(), message);
    }
});
