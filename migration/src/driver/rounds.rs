//! Sending rounds of pages over the bulk streams, at the source.
//!
//! Each stream has a task with an encoder of its own. A round is a queue of runs from which the tasks
//! help themselves, so a slow stream takes less and all end together; each page of a round goes over
//! one stream (MIG-75).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, block_in_place};

use crate::PageSet;
use crate::page::{CodecChooser, Compression, PageEncoder, PageStats, Run, SentPages};
use crate::ports::GuestMemory;
use crate::report::BytesByKind;
use crate::source::RoundSent;
use crate::transport::BulkSender;

/// Pages that a stream takes from a round at a time: 2 MiB, some milliseconds of a fast link.
const SHARE_PAGES: u64 = 512;

/// A write that takes longer had to wait for the link, not just for a copy into its buffers.
const FILLED: Duration = Duration::from_millis(1);

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

/// What a stream did of a round.
struct Share {
    stream: usize,
    batches: u64,
    stats: PageStats,
}

/// The bulk streams.
pub(super) struct Rounds {
    streams: Vec<mpsc::UnboundedSender<Job>>,
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
        let streams = streams
            .into_iter()
            .enumerate()
            .map(|(index, bulk)| {
                let (jobs, inbox) = mpsc::unbounded_channel();
                let begin = Instant::now();
                let clock = Box::new(move || begin.elapsed());
                let codec = CodecChooser::new(compression);
                let stream = Stream {
                    index,
                    encoder: PageEncoder::new(sent.clone(), codec, clock),
                    bulk,
                    memory: memory.clone(),
                    generation: generation.clone(),
                    out: Vec::new(),
                };
                tasks.spawn(stream.serve(inbox));
                jobs
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
        for stream in &self.streams {
            // A task that has ended answers by dropping `done`.
            let _ = stream.send(job.clone());
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

fn bytes_by_kind(stats: &PageStats) -> BytesByKind {
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
    bulk: BulkSender,
    memory: Arc<dyn GuestMemory>,
    generation: Arc<AtomicU64>,
    out: Vec<u8>,
}

impl Stream {
    async fn serve(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let share = self.work(&job).await;
            let failed = share.is_err();
            // Without a receiver the round is of no interest any more.
            let _ = job.done.send(share);
            if failed {
                return;
            }
        }
    }

    async fn work(&mut self, job: &Job) -> Result<Share, CodedError> {
        let before = (self.encoder.batches(), self.encoder.stats());
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
            self.out.clear();
            // Batches are numbered from round 0, in which untouched memory need not be read.
            block_in_place(|| {
                self.encoder
                    .encode(&*self.memory, runs, job.round - 1, &mut self.out)
            })
            .map_err(|error| super::coded(ErrorCode::Memory, &error))?;
            let begin = Instant::now();
            self.bulk
                .write(&self.out)
                .await
                .map_err(|error| super::coded(ErrorCode::PeerProtocol, &error))?;
            let took = begin.elapsed();
            let bytes = self.out.len() as u64;
            self.encoder
                .codec_mut()
                .observe_link(bytes, took, took > FILLED);
        }
        Ok(Share {
            stream: self.index,
            batches: self.encoder.batches() - before.0,
            stats: self.encoder.stats().since(&before.1),
        })
    }
}
