//! Messages that no honest peer sends, and those that a network spoils.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use godwit_proto::id::ClusterId;
use godwit_proto::raft::{
    AppendRequest, LogEntry, LogId, LogPayload, MAX_MESSAGE_BYTES, RaftCall, RaftReply,
    RaftRequest, SnapshotPiece, SnapshotReply, StoredMembership, Vote, VoteRequest,
};
use godwit_proto::record::Record;

use super::hub::{CLUSTER, Hub, entry, networks, node};
use crate::raft::{BoxFuture, HandleError, LinkError, Member, MessageError, PeerLink, Replica};

/// A vote beyond any that was given.
fn high_vote() -> Vote {
    Vote {
        term: 1 << 40,
        node: node(2),
        committed: true,
    }
}

fn request(call: RaftCall) -> RaftRequest {
    RaftRequest {
        cluster: CLUSTER,
        from: node(2),
        to: node(1),
        call,
    }
}

fn append(entries: Vec<LogEntry>) -> RaftCall {
    RaftCall::Append(AppendRequest {
        vote: high_vote(),
        previous: None,
        entries,
        committed: None,
    })
}

fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry {
        id: LogId {
            term,
            leader: node(2),
            index,
        },
        payload: LogPayload::Blank,
    }
}

fn piece(number: u32, ends: bool, bytes: &[u8]) -> RaftCall {
    RaftCall::Snapshot(SnapshotPiece {
        vote: high_vote(),
        last: Some(blank(1, 1000).id),
        membership: StoredMembership::default(),
        number,
        ends_chunk: true,
        ends,
        bytes: bytes.to_vec(),
    })
}

/// A replica that leads alone, and a check that what it was sent changed nothing.
async fn lone_leader() -> (Hub, Replica) {
    let hub = Hub::new();
    hub.begin().await;
    hub.propose(1).await;
    let replica = hub.replica(1);
    (hub, replica)
}

async fn is_unharmed(replica: &Replica) {
    replica.linearize().await.unwrap();
    assert!(replica.role().borrow().am_leader);
    assert!(networks(replica).contains(&"net-1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_speaks_only_for_itself_and_only_to_this_node_of_this_cluster() {
    let (_hub, replica) = lone_leader().await;
    let right = request(append(vec![]));
    let other_candidate = VoteRequest {
        vote: Vote {
            node: node(3),
            ..high_vote()
        },
        last: None,
        transfer: true,
    };
    let not_leading = AppendRequest {
        vote: Vote {
            committed: false,
            ..high_vote()
        },
        previous: None,
        entries: vec![],
        committed: None,
    };
    let wrong = [
        RaftRequest {
            cluster: ClusterId::from_bytes([9; 16]),
            ..right.clone()
        },
        RaftRequest {
            to: node(3),
            ..right.clone()
        },
        RaftRequest {
            from: node(3),
            ..right.clone()
        },
        request(RaftCall::Vote(other_candidate)),
        request(RaftCall::PreVote(other_candidate)),
        request(RaftCall::Append(not_leading)),
        request(append(vec![blank(1, 1)])),
        request(append(vec![blank(1, 0), blank(1, 2)])),
        request(append(vec![blank(2, 0), blank(1, 1)])),
        request(append(vec![blank(1 << 41, 0)])),
        request(append(vec![LogEntry {
            payload: LogPayload::Command(b"no entry".to_vec()),
            ..blank(1, 0)
        }])),
    ];
    for request in wrong {
        let answer = replica.handle(node(2), &request.encode().unwrap()).await;
        assert!(
            matches!(answer, Err(HandleError::Message(_))),
            "{request:?}: {answer:?}"
        );
    }
    let answer = replica.handle(node(3), &right.encode().unwrap()).await;
    assert!(
        matches!(
            answer,
            Err(HandleError::Message(MessageError::Sender { .. }))
        ),
        "{answer:?}"
    );
    is_unharmed(&replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_an_error_whatever_its_length() {
    let (_hub, replica) = lone_leader().await;
    let right = request(append(vec![])).encode().unwrap();
    for cut in 0..right.len() {
        assert!(replica.handle(node(2), &right[..cut]).await.is_err());
        let mut flipped = right.clone();
        flipped[cut] ^= 1 << (cut % 8);
        assert!(replica.handle(node(2), &flipped).await.is_err());
    }
    let long = vec![0; MAX_MESSAGE_BYTES + 1];
    let answer = replica.handle(node(2), &long).await;
    assert!(
        matches!(
            answer,
            Err(HandleError::Message(MessageError::TooLong { .. }))
        ),
        "{answer:?}"
    );
    is_unharmed(&replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_none_is_refused_and_one_out_of_order_begins_anew() {
    let (_hub, replica) = lone_leader().await;
    let send = async |call| {
        let answer = replica
            .handle(node(2), &request(call).encode().unwrap())
            .await;
        answer.map(|reply| RaftReply::decode(&reply).unwrap())
    };
    let taken = |next| RaftReply::Snapshot(SnapshotReply::Taken { next });
    assert_eq!(send(piece(3, false, b"late")).await.unwrap(), taken(0));
    assert_eq!(send(piece(0, false, b"first")).await.unwrap(), taken(1));
    assert_eq!(send(piece(2, false, b"third")).await.unwrap(), taken(0));
    assert_eq!(send(piece(1, false, b"second")).await.unwrap(), taken(2));
    assert_eq!(send(piece(0, false, b"first")).await.unwrap(), taken(1));
    let garbage = send(piece(1, true, b"last")).await;
    assert!(
        matches!(garbage, Err(HandleError::Snapshot(_))),
        "{garbage:?}"
    );
    assert_eq!(send(piece(2, true, b"after")).await.unwrap(), taken(0));
    is_unharmed(&replica).await;
}

/// Answers what no replica answers.
struct Liar {
    asked: AtomicUsize,
    answers: Mutex<Vec<Vec<u8>>>,
}

impl PeerLink for Liar {
    fn call(
        &self,
        _: &Member,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, LinkError>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let answers = self.answers.lock().unwrap();
        let answer = answers[asked % answers.len()].clone();
        Box::pin(async { Ok(answer) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_cost_a_leader_nothing() {
    let hub = Hub::new();
    let other = RaftReply::Snapshot(SnapshotReply::Taken { next: 7 });
    let liar = Arc::new(Liar {
        asked: AtomicUsize::new(0),
        answers: Mutex::new(vec![
            Vec::new(),
            b"garbage".to_vec(),
            other.encode().unwrap(),
            vec![0; MAX_MESSAGE_BYTES + 1],
        ]),
    });
    let link: Arc<dyn PeerLink> = Arc::<Liar>::clone(&liar);
    let replica = Replica::open(hub.config(1), link).await.unwrap();
    replica.initialize(super::hub::member(1)).await.unwrap();
    let led = async || replica.propose(entry(1)).await.ok();
    super::hub::eventually(led).await;
    replica.add_learner(super::hub::member(2)).await.unwrap();
    let asked = async || (liar.asked.load(Ordering::Relaxed) > 20).then_some(());
    super::hub::eventually(asked).await;
    is_unharmed(&replica).await;
    replica.shutdown().await;
}
