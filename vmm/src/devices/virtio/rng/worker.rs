//! Fills the driver's buffers, in batches, as fast as the budget allows.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use vmm_sys_util::timerfd::TimerFd;

use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;

use super::budget::Budget;

/// A request gets this much at most, bytes.
pub(super) const MAX_REQUEST: usize = 64 << 10;
const KICK: u64 = 0;
const REFILLED: u64 = 1;

/// Why the ring cannot be served any more; the device needs a reset then.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("entropy source: {0}")]
    Source(#[from] io::Error),
}

pub(super) struct RngWorker {
    source: Arc<File>,
    queue: ActiveQueue,
    memory: GuestMemory,
    interrupt: Arc<dyn VirtioInterrupt>,
    refill: TimerFd,
    budget: Budget,
    chain: Chain,
    used: UsedChains,
    /// What is being copied into the guest, reused.
    bytes: Vec<u8>,
}

impl RngWorker {
    pub(super) fn new(
        source: Arc<File>,
        queue: ActiveQueue,
        memory: GuestMemory,
        interrupt: Arc<dyn VirtioInterrupt>,
        budget: Budget,
    ) -> io::Result<Self> {
        Ok(Self {
            source,
            queue,
            memory,
            interrupt,
            refill: TimerFd::new().map_err(io::Error::from)?,
            budget,
            chain: Chain::default(),
            used: UsedChains::default(),
            bytes: Vec::new(),
        })
    }

    /// The queue, and what is left of the budget: a reset does not refill it.
    pub(super) fn into_parts(self) -> (ActiveQueue, Budget) {
        (self.queue, self.budget)
    }

    /// Answers what is on the ring, as far as the budget goes and for one ring's worth at a time.
    fn serve(&mut self, poller: &mut Poller) -> Result<(), ServeError> {
        use virtio_queue::QueueT;
        for _ in 0..self.queue.queue.size() {
            // A chain that was taken is answered, so the budget is asked first.
            let wanted = MAX_REQUEST as u64;
            let granted = match self.budget.draw(wanted, Instant::now()) {
                Ok(granted) => granted as usize,
                Err(wait) => {
                    self.refill.reset(wait, None).map_err(io::Error::from)?;
                    return Ok(());
                }
            };
            if poller.stop_requested() {
                return Ok(());
            }
            if !self.chain.pop(&mut self.queue.queue, &self.memory)? {
                self.budget.give_back(granted as u64);
                if !self.queue.queue.enable_notification(&self.memory)? {
                    return Ok(());
                }
                continue;
            }
            let drawn = self.answer(granted)?;
            self.budget.give_back((granted - drawn) as u64);
        }
        poller.again(KICK);
        Ok(())
    }

    /// Fills the chain with at most `limit` bytes and gives it back; returns how many.
    fn answer(&mut self, limit: usize) -> Result<usize, ServeError> {
        let head = self.chain.head;
        if self.chain.writable.is_empty() || !self.chain.readable.is_empty() {
            return Err(ChainError::Shape {
                head,
                need: "must have buffers to write, and none to read",
            }
            .into());
        }
        let length = chain::total_len(&self.chain.writable).min(limit as u64) as usize;
        self.bytes.resize(length, 0);
        (&*self.source).read_exact(&mut self.bytes)?;
        let written = chain::scatter(&self.memory, &self.chain.writable, &self.bytes)?;
        self.used
            .add(&mut self.queue.queue, &self.memory, head, written as u32)?;
        Ok(written)
    }

    /// One interrupt for the batch, if the driver wants one.
    fn signal(&mut self) {
        if self.used.wants_interrupt(&self.queue.queue, &self.memory)
            && let Err(error) = self.interrupt.used(self.queue.index)
        {
            tracing::warn!(%error, "cannot tell the driver of new entropy");
        }
    }
}

impl Handler for RngWorker {
    fn sources(&self) -> Vec<Source> {
        vec![
            Source::kick(&self.queue.kick, KICK),
            Source::readable_edge(&self.refill, REFILLED),
        ]
    }

    fn handle(&mut self, _token: u64, poller: &mut Poller) -> ControlFlow<()> {
        let served = self.serve(poller);
        self.signal();
        match served {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.interrupt.needs_reset(&error.to_string());
                ControlFlow::Break(())
            }
        }
    }
}
