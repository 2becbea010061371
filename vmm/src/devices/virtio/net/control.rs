//! The control queue (5.1.6.5): how many queue pairs are in use, and announcements made.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use virtio_queue::QueueT;
use vm_memory::Bytes;

use super::config::STATUS_ANNOUNCE;
use super::counters::add;
use super::shared::Shared;
use super::tap::TapQueue;
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;

const KICK: u64 = 0;

/// Makes the first `active` queues of a tap take part in traffic, where `before` did until now.
pub(super) fn switch_queues(taps: &[Arc<TapQueue>], before: u16, active: u16) -> io::Result<()> {
    for (index, tap) in taps.iter().enumerate() {
        let index = index as u16;
        match (index < before, index < active) {
            (false, true) => tap.enable(true)?,
            (true, false) => tap.enable(false)?,
            _ => {}
        }
    }
    Ok(())
}

/// Serves the control queue.
pub(super) struct ControlWorker {
    pub(super) shared: Arc<Shared>,
    pub(super) taps: Vec<Arc<TapQueue>>,
    pub(super) queue: ActiveQueue,
    pub(super) memory: GuestMemory,
    pub(super) interrupt: Arc<dyn VirtioInterrupt>,
    /// Queue pairs that the driver set up; 0 without `VIRTIO_NET_F_MQ`.
    pub(super) max_pairs: u16,
    /// Whether the driver negotiated to announce itself.
    pub(super) can_announce: bool,
}

impl ControlWorker {
    fn serve(&mut self, poller: &mut Poller) -> Result<(), ControlError> {
        let mut chain = Chain::default();
        let mut used = UsedChains::default();
        let mut budget = usize::from(self.queue.queue.size());
        loop {
            self.queue.queue.disable_notification(&self.memory)?;
            while budget > 0
                && !poller.stop_requested()
                && chain.pop(&mut self.queue.queue, &self.memory)?
            {
                budget -= 1;
                self.answer(&mut chain, &mut used)?;
            }
            if used.wants_interrupt(&self.queue.queue, &self.memory) {
                add(&self.shared.counters.interrupts, 1);
                if let Err(error) = self.interrupt.used(self.queue.index) {
                    tracing::error!(net = self.shared.id, %error, "cannot raise an interrupt");
                }
            }
            if budget == 0 {
                poller.again(KICK);
                return Ok(());
            }
            if poller.stop_requested() || !self.queue.queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, chain: &mut Chain, used: &mut UsedChains) -> Result<(), ControlError> {
        let head = chain.head;
        let shape = |need| ChainError::Shape { head, need };
        let ack = chain::take_last_byte(&mut chain.writable)
            .ok_or(shape("is a command without room for its answer"))?;
        let command = chain::take_front::<2>(&self.memory, &mut chain.readable)
            .map_err(io::Error::other)?
            .ok_or(shape("is no command"))?;
        let mut data = [0; 2];
        let len = chain::gather(&self.memory, &chain.readable, &mut data);
        let data = &data[..len.map_err(io::Error::other)?];
        let answer = if self.obey(command, data) {
            VIRTIO_NET_OK
        } else {
            VIRTIO_NET_ERR
        };
        self.memory
            .write_obj(answer as u8, ack)
            .map_err(io::Error::other)?;
        used.add(&mut self.queue.queue, &self.memory, head, 1)?;
        Ok(())
    }

    /// Whether the command was one the card knows, and was done.
    fn obey(&mut self, [class, command]: [u8; 2], data: &[u8]) -> bool {
        match (u32::from(class), u32::from(command), data) {
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &[low, high]) => {
                self.use_pairs(u16::from_le_bytes([low, high]))
            }
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, _) if self.can_announce => {
                self.shared.set_status(STATUS_ANNOUNCE, false);
                true
            }
            _ => false,
        }
    }

    fn use_pairs(&mut self, pairs: u16) -> bool {
        if pairs == 0 || pairs > self.max_pairs {
            return false;
        }
        let before = self.shared.active_pairs.load(Ordering::Relaxed);
        match switch_queues(&self.taps, before, pairs) {
            Ok(()) => {
                self.shared.active_pairs.store(pairs, Ordering::Relaxed);
                true
            }
            Err(error) => {
                tracing::error!(net = self.shared.id, pairs, %error, "cannot switch tap queues");
                false
            }
        }
    }
}

/// Why the control queue is not served any more: the driver broke the rules.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("guest memory: {0}")]
    Memory(#[from] io::Error),
}

impl Handler for ControlWorker {
    fn sources(&self) -> Vec<Source> {
        vec![Source::kick(&self.queue.kick, KICK)]
    }

    fn handle(&mut self, _token: u64, poller: &mut Poller) -> ControlFlow<()> {
        match self.serve(poller) {
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
