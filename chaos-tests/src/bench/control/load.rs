//! Clients that ask for commits as fast as they are answered.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{system, wire};
use crate::bench::{BenchError, Samples};

/// Connections that many clients share, alike for all servers.
const CONNECTIONS: usize = 16;

/// What a server speaks.
pub(super) trait Protocol: Send + 'static {
    /// Adds what a connection begins with.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// Adds a request; answers its id.
    fn request(&mut self, out: &mut Vec<u8>) -> u64;
    /// Takes what has come; answers the ids of requests that are answered and whether they were
    /// done. Adds what has to be said to go on.
    fn answers(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<Vec<(u64, bool)>>;
}

/// What clients saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Microseconds from the request to its answer.
    pub(super) latencies: Samples,
}

/// How a load is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) clients: usize,
    pub(super) lasting: Duration,
}

impl Load {
    /// Puts the load on a server; answers what was seen, and commits a second.
    pub(super) fn put<P: Protocol>(
        self,
        address: &str,
        protocol: impl Fn(usize) -> P,
    ) -> Result<(Seen, f64), BenchError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.map_err(system("start clients"))?;
        let connections = self.clients.min(CONNECTIONS);
        let begin = Instant::now();
        let seen = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for number in 0..connections {
                let depth = self.clients / connections;
                let address = address.to_owned();
                let until = begin + self.lasting;
                tasks.spawn(client(address, protocol(number), depth, until));
            }
            let mut all = Seen::default();
            for seen in tasks.join_all().await {
                let seen = seen?;
                all.done += seen.done;
                all.failed += seen.failed;
                seen.latencies
                    .values()
                    .for_each(|value| all.latencies.push(*value));
            }
            Ok(all)
        });
        let seen: Seen = seen.map_err(system("ask for commits"))?;
        let rate = seen.done as f64 / begin.elapsed().as_secs_f64();
        Ok((seen, rate))
    }
}

/// Keeps `depth` requests under way on one connection.
async fn client<P: Protocol>(
    address: String,
    mut protocol: P,
    depth: usize,
    until: Instant,
) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut seen = Seen::default();
    let mut asked: HashMap<u64, Instant> = HashMap::new();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    protocol.begin(&mut out);
    for _ in 0..depth {
        asked.insert(protocol.request(&mut out), Instant::now());
    }
    while !asked.is_empty() {
        stream.write_all(&out).await?;
        out.clear();
        let limit = tokio::time::timeout(Duration::from_secs(30), stream.read_buf(&mut input));
        if limit.await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (id, is_done) in protocol.answers(&mut input, &mut out)? {
            let Some(begin) = asked.remove(&id) else {
                continue;
            };
            seen.latencies.push(begin.elapsed().as_secs_f64() * 1e6);
            seen.done += u64::from(is_done);
            seen.failed += u64::from(!is_done);
            if Instant::now() < until {
                asked.insert(protocol.request(&mut out), Instant::now());
            }
        }
    }
    Ok(seen)
}

/// What our voters speak.
pub(super) struct Ours {
    next: u64,
    entry: Vec<u8>,
}

impl Ours {
    pub(super) const fn new(entry: Vec<u8>) -> Self {
        Self { next: 1, entry }
    }
}

impl Protocol for Ours {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn request(&mut self, out: &mut Vec<u8>) -> u64 {
        let id = self.next;
        self.next += 1;
        wire::put(id, wire::PROPOSE, &self.entry, out);
        id
    }

    fn answers(&mut self, input: &mut Vec<u8>, _: &mut Vec<u8>) -> io::Result<Vec<(u64, bool)>> {
        let mut answers = Vec::new();
        while let Some(frame) = wire::take(input)? {
            answers.push((frame.id, frame.kind == wire::DONE));
        }
        Ok(answers)
    }
}
