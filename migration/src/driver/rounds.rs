//! Sending pages over the bulk streams, at the source: rounds, and what is pushed after the guest.
//!
//! Each stream has a task with an encoder of its own. A round is a queue of runs from which the tasks
//! help themselves, so a slow stream takes less and all end together; each page of a round goes over
//! one stream (MIG-75). What is pushed goes over the stream that has least to do.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::migrate::PageRun;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, block_in_place};

use crate::PageSet;
use crate::page::{CodecChooser, Compression, PageEncoder, PageStats, Run, SentPages};
use crate::ports::GuestMemory;
use crate::report::BytesByKind;
use crate::source::RoundSent;
use crate::transport::BulkSender;

/// Pages that a stream takes from a round at a time: 2 MiB, some milliseconds of a fast link.
const SHARE_PAGES: u64 = 512;

/// Pages of a push that are encoded at a time, so that those who ask for others soon get a turn.
const PUSH_SHARE_PAGES: u64 = 64;

/// A write that takes longer had to wait for the link, if that was a good part of the time.
const FILLED: Duration = Duration::from_millis(1);
/// The part of the time, encoding included, from which on the link is what limits.
const LIMITING: u32 = 4;

/// What is left of a round.
struct Queue {
    pages: PageSet,
    next: u64,
}

impl Queue {
    /// The next runs, at most [`SHARE_PAGES`] pages in all; empty at the end.
    fn take(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut room = SHARE_PAGES;
        while room > 0 {
            let Some((first, count)) = self.pages.next_run(self.next) else {
                break;
            };
            let count = count.min(room);
            runs.push((first, count));
            room -= count;
            self.next = first + count;
        }
        runs
    }
}

/// A round that the streams work on.
#[derive(Clone)]
struct Job {
    round: u32,
    /// Which call of [`Rounds::send`] it belongs to; older ones are dropped.
    generation: u64,
    queue: Arc<Mutex<Queue>>,
    done: mpsc::UnboundedSender<Result<Share, CodedError>>,
}

/// Pages that follow the guest.
struct Push {
    run: PageRun,
    /// Counts what the stream has to do.
    waiting: Arc<AtomicUsize>,
    done: oneshot::Sender<Result<BytesByKind, CodedError>>,
}

enum Work {
    Round(Job),
    Push(Push),
}

/// What a stream did of a round.
struct Share {
    stream: usize,
    batches: u64,
    stats: PageStats,
}

/// The bulk streams.
pub(super) struct Rounds {
    streams: Vec<(mpsc::UnboundedSender<Work>, Arc<AtomicUsize>)>,
    tasks: JoinSet<()>,
    generation: Arc<AtomicU64>,
}

impl Rounds {
    /// Starts a task for each of `streams`.
    pub(super) fn start(
        streams: Vec<BulkSender>,
        memory: &Arc<dyn GuestMemory>,
        sent: &Arc<SentPages>,
        compression: Compression,
    ) -> Self {
        let generation = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let sharing = streams.len();
        let streams = streams
            .into_iter()
            .enumerate()
            .map(|(index, bulk)| {
                let (jobs, inbox) = mpsc::unbounded_channel();
                let begin = Instant::now();
                let clock = Box::new(move || begin.elapsed());
                let codec = CodecChooser::new(compression).sharing(sharing);
                let stream = Stream {
                    index,
                    encoder: PageEncoder::new(sent.clone(), codec, clock),
                    sent: sent.clone(),
                    round: 0,
                    bulk,
                    memory: memory.clone(),
                    generation: generation.clone(),
                    out: Vec::new(),
                };
                tasks.spawn(stream.serve(inbox));
                (jobs, Arc::default())
            })
            .collect();
        Self {
            streams,
            tasks,
            generation,
        }
    }

    /// Sends `pages` as `round`; the answer comes when all of it has been given to the link.
    pub(super) fn send(
        &self,
        round: u32,
        pages: PageSet,
    ) -> impl Future<Output = Result<RoundSent, CodedError>> + Send + use<> {
        let (done, mut shares) = mpsc::unbounded_channel();
        let job = Job {
            round,
            generation: self.generation.load(Ordering::Acquire),
            queue: Arc::new(Mutex::new(Queue { pages, next: 0 })),
            done,
        };
        let streams = self.streams.len();
        for (stream, _) in &self.streams {
            // A task that has ended answers by dropping `done`.
            let _ = stream.send(Work::Round(job.clone()));
        }
        drop(job);
        async move {
            let mut sent = RoundSent {
                round,
                batches: vec![0; streams],
                ..RoundSent::default()
            };
            for _ in 0..streams {
                let share = shares.recv().await.unwrap_or_else(|| Err(stream_ended()))?;
                sent.batches[share.stream] = share.batches;
                // Pages that are unchanged are in no batch.
                sent.pages += share.stats.total().pages - share.stats.unchanged.pages;
                sent.content_pages += content_pages(&share.stats);
                sent.bytes.add(&bytes_by_kind(&share.stats));
            }
            Ok(sent)
        }
    }

    /// Sends pages that follow the guest, whole, whatever the target had of them; the answer comes
    /// when they have been given to the link.
    pub(super) fn push(
        &self,
        run: PageRun,
    ) -> impl Future<Output = Result<BytesByKind, CodedError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        let least = self
            .streams
            .iter()
            .min_by_key(|(_, waiting)| waiting.load(Ordering::Relaxed));
        if let Some((stream, waiting)) = least {
            waiting.fetch_add(1, Ordering::Relaxed);
            let waiting = waiting.clone();
            let _ = stream.send(Work::Push(Push { run, waiting, done }));
        }
        async move { answer.await.unwrap_or_else(|_| Err(stream_ended())) }
    }

    /// Drops what has not been sent of earlier rounds.
    pub(super) fn stop_sending(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the streams, with what they have been given under way.
    pub(super) async fn end(mut self) {
        self.streams.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn stream_ended() -> CodedError {
    CodedError::new(
        ErrorCode::PeerProtocol,
        "a bulk stream ended before its time",
    )
}

fn content_pages(stats: &PageStats) -> u64 {
    stats.delta.pages + stats.zstd.pages + stats.raw.pages
}

pub(super) fn bytes_by_kind(stats: &PageStats) -> BytesByKind {
    BytesByKind {
        zero: stats.zero.bytes,
        unchanged: stats.unchanged.bytes,
        delta: stats.delta.bytes,
        zstd: stats.zstd.bytes,
        raw: stats.raw.bytes,
    }
}

struct Stream {
    index: usize,
    encoder: PageEncoder,
    sent: Arc<SentPages>,
    /// The last round, as batches number it.
    round: u32,
    bulk: BulkSender,
    memory: Arc<dyn GuestMemory>,
    generation: Arc<AtomicU64>,
    out: Vec<u8>,
}

impl Stream {
    async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<Work>) {
        while let Some(work) = inbox.recv().await {
            // Without a receiver the answer is of no interest any more.
            let failed = match work {
                Work::Round(job) => {
                    let share = self.work(&job).await;
                    let failed = share.is_err();
                    let _ = job.done.send(share);
                    failed
                }
                Work::Push(push) => {
                    let pushed = self.push(push.run).await;
                    let failed = pushed.is_err();
                    push.waiting.fetch_sub(1, Ordering::Relaxed);
                    let _ = push.done.send(pushed);
                    failed
                }
            };
            if failed {
                return;
            }
        }
    }

    async fn push(&mut self, run: PageRun) -> Result<BytesByKind, CodedError> {
        self.bulk.make_way();
        let before = self.encoder.stats();
        let end = run.first + run.count;
        let mut first = run.first;
        while first < end {
            let count = PUSH_SHARE_PAGES.min(end - first);
            // The target gave them up, or a batch was lost with its link (MIG-76).
            self.sent.digests().forget(first, count);
            self.send([(first, count)]).await?;
            first += count;
        }
        Ok(bytes_by_kind(&self.encoder.stats().since(&before)))
    }

    async fn work(&mut self, job: &Job) -> Result<Share, CodedError> {
        let before = (self.encoder.batches(), self.encoder.stats());
        // Batches are numbered from round 0, in which untouched memory need not be read.
        self.round = job.round - 1;
        loop {
            if self.generation.load(Ordering::Acquire) != job.generation {
                break;
            }
            let runs = job
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if runs.is_empty() {
                break;
            }
            self.send(runs).await?;
        }
        Ok(Share {
            stream: self.index,
            batches: self.encoder.batches() - before.0,
            stats: self.encoder.stats().since(&before.1),
        })
    }

    /// Encodes pages and gives them to the link.
    async fn send(&mut self, runs: impl IntoIterator<Item = Run>) -> Result<(), CodedError> {
        self.out.clear();
        let begin = Instant::now();
        block_in_place(|| {
            self.encoder
                .encode(&*self.memory, runs, self.round, &mut self.out)
        })
        .map_err(|error| super::coded(ErrorCode::Memory, &error))?;
        let bytes = self.out.len() as u64;
        let out = std::mem::take(&mut self.out);
        let encoded = Instant::now();
        self.bulk
            .write_owned(out)
            .await
            .map_err(|error| super::coded(error.code(), &error))?;
        let (took, waited) = (begin.elapsed(), encoded.elapsed());
        let limits = waited > FILLED.max(took / LIMITING);
        self.encoder.codec_mut().observe_link(bytes, took, limits);
        Ok(())
    }
}
