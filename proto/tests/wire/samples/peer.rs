//! One of each message between nodes.

use godwit_proto::frame;
use godwit_proto::id::{GuestId, MigrationId, NodeId, Revision};
use godwit_proto::peer::{JoinRequest, Joined, LIMITS, Peer, PeerRequest, PeerResponse};
use godwit_proto::process::ConsoleKind;

use super::{Sample, coded_error, counting, one_frame};

pub(super) fn samples() -> Vec<Sample> {
    let requests = requests().into_iter().map(request);
    requests
        .chain(responses().into_iter().map(response))
        .collect()
}

fn requests() -> Vec<PeerRequest> {
    let migration = MigrationId::from_bytes([2; 16]);
    vec![
        PeerRequest::Join(JoinRequest {
            secret: [3; 16],
            public_key: counting(65),
            program: "0.1.0".into(),
        }),
        PeerRequest::Raft(counting(20)),
        PeerRequest::Propose(counting(20)),
        PeerRequest::ReadRevision,
        PeerRequest::Heartbeat(counting(20)),
        PeerRequest::Wake,
        PeerRequest::Progress { migration },
        PeerRequest::Cancel { migration },
        PeerRequest::Console {
            guest: GuestId::from_bytes([1; 16]),
            which: ConsoleKind::Serial,
        },
    ]
}

fn responses() -> Vec<PeerResponse> {
    let peer = Peer {
        id: NodeId::from_bytes([4; 16]),
        address: "192.0.2.7:7400".into(),
    };
    vec![
        PeerResponse::Done,
        PeerResponse::Joined(Joined {
            node: NodeId::from_bytes([5; 16]),
            authority: counting(30),
            certificate: counting(40),
            peers: vec![peer.clone()],
        }),
        PeerResponse::Raft(counting(20)),
        PeerResponse::Proposed(counting(20)),
        PeerResponse::Revision(Revision::new(7)),
        PeerResponse::Heartbeat(counting(20)),
        PeerResponse::Text(Some("{}".into())),
        PeerResponse::NotLeader(Some(peer)),
        PeerResponse::Error(coded_error()),
    ]
}

/// Without a wildcard: a new request has to be given a name, and then a sample.
fn request_name(request: &PeerRequest) -> &'static str {
    match request {
        PeerRequest::Join(_) => "join",
        PeerRequest::Raft(_) => "raft",
        PeerRequest::Propose(_) => "propose",
        PeerRequest::ReadRevision => "read-revision",
        PeerRequest::Heartbeat(_) => "heartbeat",
        PeerRequest::Wake => "wake",
        PeerRequest::Progress { .. } => "progress",
        PeerRequest::Cancel { .. } => "cancel",
        PeerRequest::Console { .. } => "console",
    }
}

fn response_name(response: &PeerResponse) -> &'static str {
    match response {
        PeerResponse::Done => "done",
        PeerResponse::Joined(_) => "joined",
        PeerResponse::Raft(_) => "raft",
        PeerResponse::Proposed(_) => "proposed",
        PeerResponse::Revision(_) => "revision",
        PeerResponse::Heartbeat(_) => "heartbeat",
        PeerResponse::Text(_) => "text",
        PeerResponse::NotLeader(_) => "not-leader",
        PeerResponse::Error(_) => "error",
    }
}

fn request(value: PeerRequest) -> Sample {
    Sample {
        name: format!("peer-request-{}.v1", request_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &LIMITS).map_err(|error| error.to_string())?;
            let found = PeerRequest::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}

fn response(value: PeerResponse) -> Sample {
    Sample {
        name: format!("peer-response-{}.v1", response_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &LIMITS).map_err(|error| error.to_string())?;
            let found = PeerResponse::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}
