//! Frames from the guest to the tap.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use virtio_queue::QueueT;

use super::config::{HEADER_BYTES, MAX_FRAME_BYTES};
use super::counters::add;
use super::shared::Shared;
use super::tap::TapQueue;
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::log_gate::LogGate;
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;
use crate::memory::iovec::GuestIo;

const KICK: u64 = 0;
/// An Ethernet header, bytes: less is no frame.
const MIN_FRAME_BYTES: usize = 14;
/// The driver is told at least every so many bytes, so that it refills while the rest is sent.
const SIGNAL_BYTES: u64 = 256 << 10;

/// Serves one transmit queue.
pub(super) struct TxWorker {
    shared: Arc<Shared>,
    tap: Arc<TapQueue>,
    queue: ActiveQueue,
    io: GuestIo,
    interrupt: Arc<dyn VirtioInterrupt>,
    chain: Chain,
    used: UsedChains,
    unsignalled_bytes: u64,
    refusals: LogGate,
}

impl TxWorker {
    pub(super) fn new(
        shared: Arc<Shared>,
        tap: Arc<TapQueue>,
        queue: ActiveQueue,
        memory: GuestMemory,
        interrupt: Arc<dyn VirtioInterrupt>,
    ) -> Self {
        Self {
            shared,
            tap,
            queue,
            io: GuestIo::new(memory),
            interrupt,
            chain: Chain::default(),
            used: UsedChains::default(),
            unsignalled_bytes: 0,
            refusals: LogGate::default(),
        }
    }

    /// Returns the queue; nothing is ever in flight.
    pub(super) fn finish(self) -> ActiveQueue {
        self.queue
    }

    fn serve(&mut self, poller: &mut Poller) -> Result<(), TxError> {
        let mut budget = usize::from(self.queue.queue.size());
        loop {
            self.queue.queue.disable_notification(self.io.memory())?;
            while self.chain_available(poller, &mut budget)? {
                self.send()?;
            }
            if poller.stop_requested() {
                return Ok(());
            }
            if budget == 0 {
                poller.again(KICK);
                return Ok(());
            }
            if !self.queue.queue.enable_notification(self.io.memory())? {
                return Ok(());
            }
        }
    }

    fn chain_available(&mut self, poller: &Poller, budget: &mut usize) -> Result<bool, TxError> {
        if *budget == 0 || poller.stop_requested() {
            return Ok(false);
        }
        *budget -= 1;
        Ok(self.chain.pop(&mut self.queue.queue, self.io.memory())?)
    }

    /// Sends the frame in `self.chain`, or drops it, and gives the chain back.
    fn send(&mut self) -> Result<(), TxError> {
        let head = self.chain.head;
        if !self.chain.writable.is_empty() {
            let need = "is a frame to send with a writable part";
            return Err(ChainError::Shape { head, need }.into());
        }
        let len = chain::total_len(&self.chain.readable);
        let longest = (HEADER_BYTES + MAX_FRAME_BYTES) as u64;
        let is_frame = len >= (HEADER_BYTES + MIN_FRAME_BYTES) as u64 && len <= longest;
        let sent = (is_frame && self.shared.link_up()).then(|| self.write());
        let counters = &self.shared.counters;
        if let Some(Ok(())) = sent {
            self.shared.first_frame.sent();
            add(&counters.tx_packets, 1);
            add(&counters.tx_bytes, len - HEADER_BYTES as u64);
        } else {
            add(&counters.tx_dropped, 1);
        }
        if let Some(Err(error)) = sent
            && let Some(held_back) = self.refusals.pass(Instant::now())
        {
            let net = &self.shared.id;
            tracing::warn!(net, len, held_back, %error, "the tap refused a frame");
        }
        self.used
            .add(&mut self.queue.queue, self.io.memory(), head, 0)?;
        self.unsignalled_bytes += len;
        if self.unsignalled_bytes >= SIGNAL_BYTES {
            self.signal();
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        loop {
            match self.io.write_packet(self.tap.as_fd(), &self.chain.readable) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn signal(&mut self) {
        self.unsignalled_bytes = 0;
        if !self
            .used
            .wants_interrupt(&self.queue.queue, self.io.memory())
        {
            return;
        }
        add(&self.shared.counters.interrupts, 1);
        if let Err(error) = self.interrupt.used(self.queue.index) {
            tracing::error!(net = self.shared.id, %error, "cannot raise a transmit interrupt");
        }
    }
}

/// Why sending stops: the driver broke the rules of the ring.
#[derive(Debug, thiserror::Error)]
enum TxError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
}

impl Handler for TxWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::kick(&self.queue.kick, KICK)]
    }

    fn handle(&mut self, _token: u64, poller: &mut Poller) -> ControlFlow<()> {
        let result = self.serve(poller);
        self.signal();
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                let net = &self.shared.id;
                tracing::warn!(net, %error, "the network card's driver must reset it");
                self.interrupt.needs_reset(&error.to_string());
                ControlFlow::Break(())
            }
        }
    }
}
