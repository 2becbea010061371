//! Pages that come in at the target, over the bulk streams and over the fault stream.
//!
//! Until the switch they are written. Once memory follows the guest they are installed: each page
//! once, and whoever waits for it goes on (MIG-42).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::FrameKind;
use godwit_proto::migrate::PageRun;
use tokio::task::block_in_place;

use super::arrivals::{Events, Happening};
use super::coded;
use crate::fault::{self, Faults};
use crate::page::{ApplyError, Batch, BatchReader, DigestTable, PAGE_VERSIONS, PageDecoder};
use crate::ports::{ArrivingMemory, GuestMemory, PortError};
use crate::target::{Event, Step};
use crate::transport::{BulkReceiver, FrameReceiver};

/// Bytes that are read from a bulk stream at a time.
const READ_BYTES: usize = 256 << 10;

/// Where pages go; the streams share it.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) memory: Arc<dyn GuestMemory>,
    pub(super) digests: Arc<DigestTable>,
    /// From the moment on that memory follows the guest.
    pub(super) arriving: Arc<OnceLock<Arc<dyn ArrivingMemory>>>,
}

impl Destination {
    /// The memory that `memory` is, of which nothing has come.
    pub(super) fn new(memory: Arc<dyn GuestMemory>, digests: DigestTable) -> Self {
        Self {
            memory,
            digests: Arc::new(digests),
            arriving: Arc::default(),
        }
    }
}

/// Puts the batches of one stream where they belong.
pub(super) struct Reader {
    stream: u16,
    batches: BatchReader,
    decoder: PageDecoder,
    destination: Destination,
    events: Events,
    faults: Faults,
}

impl Reader {
    pub(super) fn new(
        stream: u16,
        destination: &Destination,
        events: Events,
        faults: Faults,
    ) -> Self {
        let digests = destination.digests.clone();
        Self {
            stream,
            batches: BatchReader::new(PAGE_VERSIONS.newest(), digests.pages()),
            decoder: PageDecoder::new(digests),
            destination: destination.clone(),
            events,
            faults,
        }
    }

    /// Reads a bulk stream to its end.
    pub(super) async fn serve_bulk(mut self, mut bulk: BulkReceiver) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.events.room().await;
            let read = match bulk.read(&mut buffer).await {
                Ok(0) => return,
                Ok(read) => read,
                // The control stream tells that the link has ended.
                Err(error) => return tracing::debug!(%error, "a bulk stream has ended"),
            };
            let applied = match self.faults.at(self.step()).await {
                Ok(()) => block_in_place(|| self.apply(&buffer[..read])),
                Err(error) => Err(self.struck(error)),
            };
            if let Err(event) = applied {
                self.events.tell(event);
                // The source hears why on the control stream. Letting this one go would tell it first,
                // and less.
                return std::future::pending().await;
            }
        }
    }

    /// Reads the fault stream to its end. A page that somebody waits for is installed right here.
    pub(super) async fn serve_faults(mut self, mut frames: FrameReceiver) {
        loop {
            self.events.room().await;
            let applied = match frames.next().await {
                Ok(frame) if frame.kind == FrameKind::Pages => {
                    match self.faults.at(self.step()).await {
                        Ok(()) => self.apply(&frame.payload),
                        Err(error) => Err(self.struck(error)),
                    }
                }
                Ok(_) => Err(self.broken(CodedError::new(
                    ErrorCode::PeerProtocol,
                    "the source sent something else than pages on the fault stream",
                ))),
                Err(error) => return tracing::debug!(%error, "the fault stream has ended"),
            };
            if let Err(event) = applied {
                return self.events.tell(event);
            }
        }
    }

    /// What reading is, for those who plan faults.
    fn step(&self) -> fault::Step {
        match self.destination.arriving.get() {
            Some(_) => fault::Step::InstallPages,
            None => fault::Step::ApplyBatch,
        }
    }

    fn struck(&self, error: CodedError) -> Happening {
        match self.destination.arriving.get() {
            Some(_) => failed(Step::InstallPages, error),
            None => failed(Step::ApplyBatch, error),
        }
    }

    fn apply(&mut self, mut input: &[u8]) -> Result<(), Happening> {
        loop {
            let batch = match self.batches.next(&mut input) {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let error = coded(error.code(), &error);
                    return Err(self.broken(error));
                }
            };
            let applied = match self.destination.arriving.get() {
                Some(arriving) => install(&mut self.decoder, &batch, &**arriving, &self.events),
                None => {
                    let applied = self.decoder.apply(&batch, &*self.destination.memory);
                    applied.map(|()| {
                        self.events.tell(Happening::Event(Event::BatchApplied {
                            // Batches are numbered from round 0.
                            round: batch.header.round.saturating_add(1),
                            stream: self.stream,
                            pages: batch.header.pages.into(),
                        }));
                    })
                }
            };
            if let Err(error) = applied {
                // What is only read are bases of differences, of which none can come.
                let is_ours = matches!(error, ApplyError::Memory { verb, .. } if verb != "read");
                let error = coded(error.code(), &error);
                return Err(match self.destination.arriving.get() {
                    Some(_) if is_ours => failed(Step::InstallPages, error),
                    _ => self.broken(error),
                });
            }
        }
    }

    /// The source sent nonsense. While the guest runs here that costs the link, not the guest.
    fn broken(&self, error: CodedError) -> Happening {
        match self.destination.arriving.get() {
            Some(_) => {
                tracing::warn!(%error, "the source breaks the protocol");
                self.events.link_is_useless()
            }
            None => failed(Step::ApplyBatch, error),
        }
    }
}

fn failed(step: Step, error: CodedError) -> Happening {
    Happening::Event(Event::Failed { step, error })
}

/// Installs a batch, and tells what is there because of it.
fn install(
    decoder: &mut PageDecoder,
    batch: &Batch<'_>,
    arriving: &dyn ArrivingMemory,
    events: &Events,
) -> Result<(), ApplyError> {
    let installer = Installer {
        arriving,
        arrived: Mutex::default(),
    };
    let applied = decoder.apply(batch, &installer);
    let arrived = installer.arrived.into_inner();
    for run in arrived.unwrap_or_else(PoisonError::into_inner) {
        events.tell(Happening::Event(Event::PagesInstalled(run)));
    }
    applied
}

/// Memory that follows the guest, as a decoder sees it.
struct Installer<'memory> {
    arriving: &'memory dyn ArrivingMemory,
    arrived: Mutex<Vec<PageRun>>,
}

impl Installer<'_> {
    fn arrived(&self) -> impl FnMut(u64, u64) + '_ {
        |first, count| {
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            arrived.push(PageRun { first, count });
        }
    }
}

impl GuestMemory for Installer<'_> {
    fn pages(&self) -> u64 {
        // The reader of batches has looked that pages are the guest's.
        u64::MAX
    }

    fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError> {
        let count = bytes.len() / crate::ports::PAGE_BYTES;
        Err(
            format!("{count} pages from {first} on came as differences to what was given up")
                .into(),
        )
    }

    fn write(&self, first: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.arriving.install(first, bytes, &mut self.arrived())
    }

    fn write_zeros(&self, first: u64, count: u64) -> Result<(), PortError> {
        self.arriving
            .install_zeros(first, count, &mut self.arrived())
    }

    fn is_untouched(&self, _: u64, _: u64) -> bool {
        // Somebody may wait for it.
        false
    }
}
