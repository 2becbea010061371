//! One of each record of Raft, once per variant.

use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::raft::{
    AppendReply, AppendRequest, LogEntry, LogId, LogPayload, Marks, Member, Membership, RaftCall,
    RaftReply, RaftRequest, SnapshotHead, SnapshotPiece, SnapshotReply, StoreIdentity,
    StoredMembership, TransferReply, TransferRequest, Vote, VoteReply, VoteRequest,
};

use super::{Sample, record};

const CLUSTER: ClusterId = ClusterId::from_bytes([0xa1; 16]);
const NODE: NodeId = NodeId::from_bytes([0x11; 16]);
const OTHER: NodeId = NodeId::from_bytes([0x12; 16]);
const VOTE: Vote = Vote {
    term: 7,
    node: NODE,
    committed: true,
};

pub(super) fn records() -> Vec<Sample> {
    let entry = |payload| LogEntry {
        id: log(5),
        payload,
    };
    let mut samples = vec![
        record(
            "raft-identity",
            StoreIdentity {
                cluster: CLUSTER,
                node: NODE,
            },
        ),
        record("raft-vote", VOTE),
        record("raft-log-entry-blank", entry(LogPayload::Blank)),
        record(
            "raft-log-entry-command",
            entry(LogPayload::Command(b"command".to_vec())),
        ),
        record(
            "raft-log-entry-membership",
            entry(LogPayload::Membership(stored().membership)),
        ),
        record(
            "raft-marks",
            Marks {
                committed: Some(log(9)),
                purged: None,
            },
        ),
        record(
            "raft-snapshot",
            SnapshotHead {
                number: 3,
                last: Some(log(8)),
                membership: stored(),
                chunks: 2,
                checksums: vec![0x1234_5678, 0x9abc_def0],
            },
        ),
    ];
    samples.extend(calls().map(|(name, call)| {
        let request = RaftRequest {
            cluster: CLUSTER,
            from: NODE,
            to: OTHER,
            call,
        };
        record(name, request)
    }));
    samples.extend(replies().map(|(name, reply)| record(name, reply)));
    samples
}

fn log(index: u64) -> LogId {
    LogId {
        term: 6,
        leader: OTHER,
        index,
    }
}

fn stored() -> StoredMembership {
    let member = |id, address: &str| Member {
        id,
        address: address.into(),
    };
    StoredMembership {
        log: Some(log(2)),
        membership: Membership {
            configs: vec![vec![NODE], vec![NODE, OTHER]],
            members: vec![member(NODE, "a:7000"), member(OTHER, "b:7000")],
        },
    }
}

fn calls() -> impl Iterator<Item = (&'static str, RaftCall)> {
    let vote = VoteRequest {
        vote: VOTE,
        last: Some(log(5)),
        transfer: true,
    };
    [
        (
            "raft-request-append",
            RaftCall::Append(AppendRequest {
                vote: VOTE,
                previous: Some(log(4)),
                entries: vec![LogEntry {
                    id: log(5),
                    payload: LogPayload::Command(vec![1, 2, 3]),
                }],
                committed: Some(log(3)),
            }),
        ),
        ("raft-request-vote", RaftCall::Vote(vote)),
        ("raft-request-pre-vote", RaftCall::PreVote(vote)),
        (
            "raft-request-snapshot",
            RaftCall::Snapshot(SnapshotPiece {
                vote: VOTE,
                last: Some(log(8)),
                membership: stored(),
                number: 4,
                ends_chunk: true,
                ends: false,
                bytes: b"part of a chunk".to_vec(),
            }),
        ),
        (
            "raft-request-transfer",
            RaftCall::Transfer(TransferRequest {
                vote: VOTE,
                to: OTHER,
                last: None,
            }),
        ),
    ]
    .into_iter()
}

fn replies() -> impl Iterator<Item = (&'static str, RaftReply)> {
    let behind = TransferReply::Behind {
        expected: Some(log(5)),
        found: None,
    };
    let other = TransferReply::OtherVote {
        expected: VOTE,
        found: Vote {
            committed: false,
            ..VOTE
        },
    };
    let vote = VoteReply {
        vote: VOTE,
        granted: true,
        last: Some(log(5)),
    };
    [
        ("raft-reply-stored", RaftReply::Append(AppendReply::Stored)),
        (
            "raft-reply-stored-up-to",
            RaftReply::Append(AppendReply::StoredUpTo(Some(log(4)))),
        ),
        (
            "raft-reply-conflict",
            RaftReply::Append(AppendReply::Conflict),
        ),
        (
            "raft-reply-higher-vote",
            RaftReply::Append(AppendReply::HigherVote(VOTE)),
        ),
        ("raft-reply-vote", RaftReply::Vote(vote)),
        (
            "raft-reply-snapshot-taken",
            RaftReply::Snapshot(SnapshotReply::Taken { next: 5 }),
        ),
        (
            "raft-reply-snapshot-done",
            RaftReply::Snapshot(SnapshotReply::Done(VOTE)),
        ),
        (
            "raft-reply-transfer-begun",
            RaftReply::Transfer(TransferReply::Begun),
        ),
        ("raft-reply-transfer-other-vote", RaftReply::Transfer(other)),
        ("raft-reply-transfer-behind", RaftReply::Transfer(behind)),
    ]
    .into_iter()
}
