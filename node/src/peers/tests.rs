use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use godwit_proto::codes::ErrorCode;
use godwit_proto::id::NodeId;
use godwit_proto::peer::{JoinRequest, Joined, Peer, PeerRequest, PeerResponse};
use godwit_proto::process::ConsoleKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BoxFuture, Handler, PeerServer, Peers, Reply, join};
use crate::identity::{Authority, Credentials, IssuedTokens, JoinToken, KeyPair};

const LONG: Duration = Duration::from_secs(20);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// Admits whoever asks, echoes Raft messages, and notes who asked what.
struct Echo {
    authority: Authority,
    asked: Mutex<Vec<Option<NodeId>>>,
}

impl Handler for Echo {
    fn handle(
        self: Arc<Self>,
        from: Option<NodeId>,
        request: PeerRequest,
    ) -> BoxFuture<'static, Reply> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(from);
            match request {
                PeerRequest::Raft(bytes) => PeerResponse::Raft(bytes).into(),
                PeerRequest::Console { .. } => {
                    let (here, mut there) = tokio::io::duplex(64);
                    tokio::spawn(async move {
                        let mut bytes = [0; 5];
                        there.read_exact(&mut bytes).await.unwrap();
                        there.write_all(&bytes).await.unwrap();
                    });
                    Reply::Stream(Box::new(here))
                }
                PeerRequest::Join(request) => {
                    let certificate = self.authority.admit(id(9), &request.public_key).unwrap();
                    PeerResponse::Joined(Joined {
                        node: id(9),
                        authority: self.authority.certificate().to_vec(),
                        certificate,
                        peers: Vec::new(),
                    })
                    .into()
                }
                PeerRequest::ReadRevision => std::future::pending().await,
                _ => PeerResponse::Done.into(),
            }
        })
    }
}

struct Node {
    peers: Peers,
    echo: Arc<Echo>,
    here: Peer,
    _server: PeerServer,
}

fn node(number: u8, authority: Authority) -> Node {
    let credentials = Credentials::first(id(number), &authority).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peers = Peers::bind(any, &credentials).unwrap();
    let echo = Arc::new(Echo {
        authority,
        asked: Mutex::default(),
    });
    let server = peers.serve(echo.clone());
    let here = Peer {
        id: id(number),
        address: peers.address().unwrap().to_string(),
    };
    Node {
        peers,
        echo,
        here,
        _server: server,
    }
}

fn same(authority: &Authority) -> Authority {
    let key = authority.key().copy();
    Authority::from_parts(authority.certificate().to_vec(), key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_comes_with_the_proven_id_of_who_asks() {
    let authority = Authority::generate().unwrap();
    let (one, two) = (node(1, same(&authority)), node(2, authority));
    for bytes in [vec![], vec![7; 3 << 20]] {
        let request = PeerRequest::Raft(bytes.clone());
        let answer = one.peers.call(&two.here, &request, LONG).await.unwrap();
        assert_eq!(answer, PeerResponse::Raft(bytes));
    }
    assert_eq!(*two.echo.asked.lock().unwrap(), [Some(id(1)); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_or_under_another_id_is_not_talked_to() {
    let authority = Authority::generate().unwrap();
    let one = node(1, same(&authority));
    let stranger = node(2, Authority::generate().unwrap());
    let request = PeerRequest::Raft(vec![1]);
    let refused = one.peers.call(&stranger.here, &request, LONG).await;
    assert!(refused.unwrap_err().to_string().contains("certificate"));
    let refused = stranger.peers.call(&one.here, &request, LONG).await;
    refused.unwrap_err();
    // Who listens there is a node, but not the one that was meant.
    let other = Peer {
        id: id(3),
        ..node(2, authority).here
    };
    one.peers.call(&other, &request, LONG).await.unwrap_err();
    assert!(one.echo.asked.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_can_join_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::generate().unwrap();
    let one = node(1, same(&authority));
    let issued = IssuedTokens::open(dir.path()).unwrap();
    let addresses = vec!["127.0.0.1:1".into(), one.here.address.clone()];
    let token = issued.issue(authority.certificate(), LONG, addresses);
    let token = token.unwrap();
    let key = KeyPair::generate().unwrap();
    let request = JoinRequest {
        secret: token.secret,
        public_key: key.public().to_vec(),
        program: "0.1.0".into(),
    };
    let joined = join(&token, request.clone()).await.unwrap();
    assert_eq!(joined.node, id(9));
    // What it was given makes a node of it.
    let credentials = Credentials::joined(joined, key);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let nine = Peers::bind(any, &credentials).unwrap();
    let ask = PeerRequest::Raft(vec![2]);
    nine.call(&one.here, &ask, LONG).await.unwrap();
    assert_eq!(*one.echo.asked.lock().unwrap(), [None, Some(id(9))]);
    // Another authority's hash: the server is not believed.
    let wrong = JoinToken {
        authority: [0; 32],
        ..token
    };
    let error = join(&wrong, request).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoQuorum, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_or_is_gone_is_given_up_in_time() {
    let authority = Authority::generate().unwrap();
    let (one, two) = (node(1, same(&authority)), node(2, authority));
    let soon = Duration::from_millis(100);
    let silent = one.peers.call(&two.here, &PeerRequest::ReadRevision, soon);
    assert!(!silent.await.unwrap_err().unsent);
    let here = two.here.clone();
    drop(two);
    let request = PeerRequest::Raft(vec![1]);
    one.peers.call(&here, &request, LONG).await.unwrap_err();
    let nobody = Peer {
        address: "127.0.0.1:1".into(),
        ..here
    };
    let error = one.peers.call(&nobody, &request, soon).await.unwrap_err();
    assert!(error.unsent, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_raw_bytes_after_the_answer() {
    let authority = Authority::generate().unwrap();
    let (one, two) = (node(1, same(&authority)), node(2, authority));
    let request = PeerRequest::Console {
        guest: godwit_proto::id::GuestId::from_bytes([5; 16]),
        which: ConsoleKind::Serial,
    };
    let mut stream = one.peers.stream(&two.here, &request, LONG).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
}
