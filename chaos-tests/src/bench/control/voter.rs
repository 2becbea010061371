//! A voter of a measurement, in a process of its own: `bench voter NUMBER PORT DIRECTORY`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_control_plane::raft::{
    BoxFuture, Limits, LinkError, Member, PeerLink, Replica, ReplicaConfig, Timing,
};
use godwit_proto::cluster::{Entry, Response};
use godwit_proto::id::{ClusterId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::wire::{self, Frame};

const CLUSTER: ClusterId = ClusterId::from_bytes([0xbe; 16]);
/// Messages that wait to be written; who has more waits.
const QUEUE: usize = 1024;

/// The id of the voter of a number.
pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// Votes until it is killed.
///
/// # Errors
/// Arguments that are wrong, a store that cannot be opened, a port that cannot be had.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [number, port, directory] = arguments else {
        return Err("want NUMBER PORT DIRECTORY".into());
    };
    let number: u8 = number
        .parse()
        .map_err(|_| "NUMBER is a number".to_owned())?;
    let port: u16 = port.parse().map_err(|_| "PORT is a number".to_owned())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(serve(number, port, directory.into()))
}

async fn serve(number: u8, port: u16, directory: PathBuf) -> Result<(), String> {
    let config = ReplicaConfig {
        node: node(number),
        cluster: CLUSTER,
        directory,
        timing: Timing::default(),
        limits: Limits::default(),
    };
    let link = Arc::new(Peers {
        me: node(number),
        ways: Arc::default(),
    });
    let replica = Replica::open(config, link).await;
    let replica = replica.map_err(|error| error.to_coded_error().to_string())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    let listener = listener.map_err(|error| error.to_string())?;
    loop {
        let accepted = listener.accept().await;
        let (stream, _) = accepted.map_err(|error| error.to_string())?;
        tokio::spawn(attend(stream, replica.clone()));
    }
}

/// Answers all requests of one connection, many at once.
async fn attend(stream: TcpStream, replica: Replica) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (reading, writing) = stream.into_split();
    let (replies, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write_all(writing, queue));
    let mut reader = Reader::new(reading);
    while let Ok(request) = reader.next().await {
        let (replica, replies) = (replica.clone(), replies.clone());
        tokio::spawn(async move {
            let (kind, payload) = match answer(&replica, &request).await {
                Ok(payload) => (wire::DONE, payload),
                Err(error) => (wire::FAILED, error.into_bytes()),
            };
            let mut bytes = Vec::new();
            wire::put(request.id, kind, &payload, &mut bytes);
            // Who asked may have gone.
            let _ = replies.send(bytes).await;
        });
    }
}

async fn answer(replica: &Replica, request: &Frame) -> Result<Vec<u8>, String> {
    let payload = &request.payload;
    match request.kind {
        wire::PROPOSE => {
            let entry = Entry::decode(payload).map_err(text)?;
            let committed = replica.propose(entry).await.map_err(text)?;
            match committed.response {
                Response::Applied(applied) => Ok(applied.revision.get().to_le_bytes().to_vec()),
                Response::Refused(error) => Err(error.to_string()),
            }
        }
        wire::RAFT => {
            let (from, message) = split_id(payload)?;
            replica.handle(from, message).await.map_err(text)
        }
        wire::BEGIN => {
            let me = member(node(0), payload);
            let begun = replica.initialize(Member { id: node(1), ..me });
            begun.await.map(|()| Vec::new()).map_err(text)
        }
        wire::LEARN => {
            let (id, address) = split_id(payload)?;
            let learned = replica.add_learner(member(id, address)).await;
            learned.map(|()| Vec::new()).map_err(text)
        }
        wire::VOTERS => {
            let ids = payload.chunks_exact(16);
            let ids: BTreeSet<NodeId> = ids.flat_map(|id| split_id(id).map(|(id, _)| id)).collect();
            let changed = replica.set_voters(ids).await;
            changed.map(|()| Vec::new()).map_err(text)
        }
        wire::STATUS => {
            let role = replica.role().borrow().clone();
            let leader = role.leader.map_or(0, |leader| leader.id.as_bytes()[0]);
            let voters = u8::try_from(role.voters.len()).unwrap_or(u8::MAX);
            let mut status = vec![u8::from(role.am_leader), leader, voters];
            status.extend_from_slice(&role.applied.unwrap_or(0).to_le_bytes());
            Ok(status)
        }
        kind => Err(format!("kind {kind} is not known")),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn split_id(bytes: &[u8]) -> Result<(NodeId, &[u8]), String> {
    let split = bytes.split_first_chunk::<16>();
    let (id, rest) = split.ok_or("a node's id is missing")?;
    Ok((NodeId::from_bytes(*id), rest))
}

fn member(id: NodeId, address: &[u8]) -> Member {
    Member {
        id,
        address: String::from_utf8_lossy(address).into_owned(),
    }
}

/// Reads frames.
struct Reader {
    stream: OwnedReadHalf,
    input: Vec<u8>,
}

impl Reader {
    const fn new(stream: OwnedReadHalf) -> Self {
        Self {
            stream,
            input: Vec::new(),
        }
    }

    async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = wire::take(&mut self.input)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Writes what waits, all of it at once.
async fn write_all(mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let bytes = waiting.concat();
        waiting.clear();
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The link to the other voters, one connection each.
struct Peers {
    me: NodeId,
    ways: Arc<Ways>,
}

#[derive(Default)]
struct Ways(Mutex<HashMap<String, Arc<Way>>>);

struct Way {
    queue: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Frame>>>>,
    next: AtomicU64,
}

impl Way {
    async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reading, writing) = stream.into_split();
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(writing, queued));
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Frame>>>> = Arc::default();
        let told = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut reader = Reader::new(reading);
            while let Ok(frame) = reader.next().await {
                let waits = lock(&told).remove(&frame.id);
                // Who waited may have given up.
                let _ = waits.map(|waits| waits.send(frame));
            }
            lock(&told).clear();
        });
        Ok(Self {
            queue,
            waiting,
            next: AtomicU64::new(1),
        })
    }

    async fn ask(&self, payload: &[u8]) -> Option<Frame> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        wire::put(id, wire::RAFT, payload, &mut bytes);
        let (told, reply) = oneshot::channel();
        lock(&self.waiting).insert(id, told);
        self.queue.send(bytes).await.ok()?;
        reply.await.ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ways {
    async fn way(&self, address: &str) -> io::Result<Arc<Way>> {
        let known = lock(&self.0).get(address).cloned();
        if let Some(way) = known {
            return Ok(way);
        }
        let way = Arc::new(Way::open(address).await?);
        lock(&self.0).insert(address.to_owned(), Arc::clone(&way));
        Ok(way)
    }

    async fn exchange(&self, address: &str, payload: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let unreachable = |error: String| LinkError::Unreachable(error);
        let way = self.way(address).await;
        let way = way.map_err(|error| unreachable(error.to_string()))?;
        match way.ask(&payload).await {
            Some(reply) if reply.kind == wire::DONE => Ok(reply.payload),
            Some(reply) => {
                let why = String::from_utf8_lossy(&reply.payload).into_owned();
                Err(LinkError::Refused(why))
            }
            None => {
                lock(&self.0).remove(address);
                Err(unreachable("the connection broke".into()))
            }
        }
    }
}

impl PeerLink for Peers {
    fn call(
        &self,
        to: &Member,
        request: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, LinkError>> {
        let mut payload = self.me.as_bytes().to_vec();
        payload.extend_from_slice(&request);
        let address = to.address.clone();
        let ways = Arc::clone(&self.ways);
        Box::pin(async move {
            let exchange = ways.exchange(&address, payload);
            let reply = tokio::time::timeout(within, exchange).await;
            reply.unwrap_or(Err(LinkError::TimedOut(within)))
        })
    }
}
