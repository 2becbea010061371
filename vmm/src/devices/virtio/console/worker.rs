//! Moves bytes between the rings, the inbox and the sink.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes};

use crate::devices::terminal::Sink;
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;

use super::inbox::{CAPACITY, Inbox};

const RECEIVE: u64 = 0;
const TRANSMIT: u64 = 1;
const ARRIVED: u64 = 2;
/// The longest write of the driver, bytes. Linux writes at most 32 KiB at once.
pub(super) const MAX_WRITE: u64 = 1 << 20;
/// Output is copied out of the guest in pieces of this many bytes.
const PIECE: usize = 4096;

/// Why the rings cannot be served any more; the device needs a reset then.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A ring with what is reused from chain to chain.
struct Port {
    active: ActiveQueue,
    chain: Chain,
    used: UsedChains,
    bytes: Vec<u8>,
}

impl Port {
    fn new(active: ActiveQueue) -> Self {
        Self {
            active,
            chain: Chain::default(),
            used: UsedChains::default(),
            bytes: Vec::new(),
        }
    }

    fn queue(&mut self) -> &mut Queue {
        &mut self.active.queue
    }

    fn give_back(&mut self, memory: &GuestMemory, written: u32) -> Result<(), ServeError> {
        let head = self.chain.head;
        Ok(self
            .used
            .add(&mut self.active.queue, memory, head, written)?)
    }
}

pub(super) struct ConsoleWorker {
    receive: Port,
    transmit: Port,
    memory: GuestMemory,
    interrupt: Arc<dyn VirtioInterrupt>,
    inbox: Arc<Inbox>,
    sink: Arc<Mutex<Box<dyn Sink>>>,
}

impl ConsoleWorker {
    pub(super) fn new(
        [receive, transmit]: [ActiveQueue; 2],
        memory: GuestMemory,
        interrupt: Arc<dyn VirtioInterrupt>,
        inbox: Arc<Inbox>,
        sink: Arc<Mutex<Box<dyn Sink>>>,
    ) -> Self {
        Self {
            receive: Port::new(receive),
            transmit: Port::new(transmit),
            memory,
            interrupt,
            inbox,
            sink,
        }
    }

    pub(super) fn into_queues(self) -> [ActiveQueue; 2] {
        [self.receive.active, self.transmit.active]
    }

    /// Gives input to the driver as long as there are both.
    fn receive(&mut self, poller: &mut Poller) -> Result<(), ServeError> {
        let port = &mut self.receive;
        for _ in 0..port.queue().size() {
            if self.inbox.is_empty() || poller.stop_requested() {
                return Ok(());
            }
            if !port.chain.pop(&mut port.active.queue, &self.memory)? {
                // The next buffer that the driver offers rings.
                if !port.queue().enable_notification(&self.memory)? {
                    return Ok(());
                }
                continue;
            }
            if port.chain.writable.is_empty() || !port.chain.readable.is_empty() {
                return Err(shape(
                    &port.chain,
                    "must have buffers to receive into, and no others",
                ));
            }
            let room = chain::total_len(&port.chain.writable).min(CAPACITY as u64);
            port.bytes.clear();
            self.inbox.take(room as usize, &mut port.bytes);
            let written = chain::scatter(&self.memory, &port.chain.writable, &port.bytes)?;
            port.give_back(&self.memory, written as u32)?;
        }
        poller.again(RECEIVE);
        Ok(())
    }

    /// Gives the driver's output to the sink.
    fn transmit(&mut self, poller: &mut Poller) -> Result<(), ServeError> {
        let port = &mut self.transmit;
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..port.queue().size() {
            if poller.stop_requested() {
                return Ok(());
            }
            if !port.chain.pop(&mut port.active.queue, &self.memory)? {
                if !port.queue().enable_notification(&self.memory)? {
                    return Ok(());
                }
                continue;
            }
            if !port.chain.writable.is_empty() {
                return Err(shape(&port.chain, "has a buffer to write in its output"));
            }
            if chain::total_len(&port.chain.readable) > MAX_WRITE {
                return Err(shape(&port.chain, "has more than 1 MiB of output"));
            }
            for segment in &port.chain.readable {
                let mut at = segment.address;
                let mut left = segment.len as usize;
                while left > 0 {
                    let count = left.min(PIECE);
                    port.bytes.resize(count, 0);
                    self.memory.read_slice(&mut port.bytes, at)?;
                    sink.write(&port.bytes);
                    at = at.unchecked_add(count as u64);
                    left -= count;
                }
            }
            port.give_back(&self.memory, 0)?;
        }
        poller.again(TRANSMIT);
        Ok(())
    }

    /// One interrupt per ring and batch, if the driver wants one.
    fn signal(&mut self) {
        for port in [&mut self.receive, &mut self.transmit] {
            if port.used.wants_interrupt(&port.active.queue, &self.memory)
                && let Err(error) = self.interrupt.used(port.active.index)
            {
                tracing::warn!(%error, "cannot tell the console's driver");
            }
        }
    }
}

fn shape(chain: &Chain, need: &'static str) -> ServeError {
    ServeError::Chain(ChainError::Shape {
        head: chain.head,
        need,
    })
}

impl Handler for ConsoleWorker {
    fn sources(&self) -> Vec<Source> {
        vec![
            Source::kick(&self.receive.active.kick, RECEIVE),
            Source::kick(&self.transmit.active.kick, TRANSMIT),
            Source::kick(self.inbox.arrived(), ARRIVED),
        ]
    }

    fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()> {
        let served = match token {
            TRANSMIT => self.transmit(poller),
            _ => self.receive(poller),
        };
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
