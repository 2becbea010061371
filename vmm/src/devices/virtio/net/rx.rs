//! Frames from the tap into the guest's receive buffers.
//!
//! Buffers are taken off the ring ahead of need and given back in order. A frame is read straight
//! into them, and what does not fit spills into a host buffer, from where it is copied into further
//! buffers once there are some. So no frame is lost for want of knowing its length beforehand, and
//! small frames do not pay for preparing room for large ones.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;

use virtio_queue::QueueT;
use vm_memory::Bytes;

use super::config::{HEADER_BYTES, MAX_FRAME_BYTES, NUM_BUFFERS_OFFSET};
use super::counters::add;
use super::shared::Shared;
use super::tap::TapQueue;
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;
use crate::memory::iovec::{GuestIo, Segment};

const KICK: u64 = 0;
const TAP: u64 = 1;
/// Frames per call before other events get their turn.
const FRAMES_PER_CALL: usize = 128;
/// The driver is told at least every so many bytes, so that it works while the next are read.
const SIGNAL_BYTES: usize = 256 << 10;
/// Room to prepare while frames are small, bytes.
const SMALL_ROOM: usize = 4096;
/// Room to prepare while frames are large, bytes.
const LARGE_ROOM: usize = HEADER_BYTES + MAX_FRAME_BYTES;
/// So many small frames in a row make the next ones expected to be small.
const CALM_FRAMES: u32 = 64;
/// No further buffer is prepared beyond so many segments. The last one adds at most 256, and the
/// kernel takes 1024 at once, of which the spill is one.
const MAX_SEGMENTS: usize = 1024 - 1 - 256;

/// A receive buffer taken off the ring.
#[derive(Debug)]
struct Buffer {
    head: u16,
    room: usize,
    segments: usize,
}

/// A frame of which a part waits in the spill for more buffers.
#[derive(Clone, Copy, Debug)]
struct Partial {
    /// Length with header.
    len: usize,
    /// How much of it is in the guest's buffers.
    placed: usize,
}

/// Serves one receive queue.
pub(super) struct RxWorker {
    shared: Arc<Shared>,
    tap: Arc<TapQueue>,
    queue: ActiveQueue,
    io: GuestIo,
    interrupt: Arc<dyn VirtioInterrupt>,
    /// `VIRTIO_NET_F_MRG_RXBUF`: a frame may fill several buffers.
    mergeable: bool,
    chain: Chain,
    /// Taken off the ring and not given back, oldest first.
    buffers: VecDeque<Buffer>,
    /// The segments of `buffers`, one after the other.
    segments: VecDeque<Segment>,
    /// Bytes of room in `buffers`.
    room: usize,
    /// Bytes of room to prepare for a frame.
    wanted: usize,
    calm: u32,
    spill: Vec<u8>,
    partial: Option<Partial>,
    given: Vec<(u16, u32)>,
    used: UsedChains,
    unsignalled_bytes: usize,
    starved: bool,
}

/// What came of trying to bring one frame to the guest.
enum Step {
    /// One more was dealt with.
    Frame,
    /// The tap has none.
    Empty,
    /// The guest has no buffers.
    Starved,
}

impl RxWorker {
    pub(super) fn new(
        shared: Arc<Shared>,
        tap: Arc<TapQueue>,
        queue: ActiveQueue,
        memory: GuestMemory,
        interrupt: Arc<dyn VirtioInterrupt>,
        mergeable: bool,
    ) -> Self {
        Self {
            shared,
            tap,
            queue,
            io: GuestIo::new(memory),
            interrupt,
            mergeable,
            chain: Chain::default(),
            buffers: VecDeque::new(),
            segments: VecDeque::new(),
            room: 0,
            wanted: SMALL_ROOM,
            calm: 0,
            spill: vec![0; LARGE_ROOM],
            partial: None,
            given: Vec::new(),
            used: UsedChains::default(),
            unsignalled_bytes: 0,
            starved: false,
        }
    }

    /// Puts the buffers that hold no frame back and returns the queue.
    pub(super) fn finish(mut self) -> ActiveQueue {
        if self.partial.is_some() {
            add(&self.shared.counters.rx_dropped, 1);
        }
        let unused = self.buffers.len() as u16;
        let queue = &mut self.queue.queue;
        queue.set_next_avail(queue.next_avail().wrapping_sub(unused));
        self.queue
    }

    fn serve(&mut self, poller: &mut Poller) -> Result<(), RxError> {
        for _ in 0..FRAMES_PER_CALL {
            if poller.stop_requested() {
                return Ok(());
            }
            match self.step()? {
                Step::Frame => {
                    if self.unsignalled_bytes >= SIGNAL_BYTES {
                        self.signal();
                    }
                }
                Step::Empty => return Ok(()),
                Step::Starved => {
                    let memory = self.io.memory();
                    if self.queue.queue.enable_notification(memory)? {
                        self.queue.queue.disable_notification(memory)?;
                        continue;
                    }
                    if !self.starved {
                        self.starved = true;
                        add(&self.shared.counters.rx_starved, 1);
                        poller.pause(TAP)?;
                    }
                    return Ok(());
                }
            }
        }
        // The tap is reported again as long as it has frames; a starved one is not waited for.
        poller.again(TAP);
        Ok(())
    }

    fn step(&mut self) -> Result<Step, RxError> {
        if let Some(partial) = self.partial {
            self.refill(partial.len)?;
            return self.place_rest(partial);
        }
        self.refill(if self.mergeable { self.wanted } else { 1 })?;
        if self.buffers.is_empty() {
            return Ok(Step::Starved);
        }
        let room = self.room_for_frame();
        let count = if self.mergeable {
            self.segments.len()
        } else {
            self.buffers.front().map_or(0, |b| b.segments)
        };
        let segments = &self.segments.make_contiguous()[..count];
        let len = match self
            .io
            .read_packet(self.tap.as_fd(), segments, &mut self.spill)
        {
            // A tap never gives nothing; what stands in for one does when its other end is gone.
            Ok(0) => return Err(RxError::Tap),
            Ok(len) => len,
            Err(error) => return tap_answer(&error, &self.shared.id),
        };
        self.expect_after(len);
        if len <= HEADER_BYTES || !self.shared.link_up() {
            add(&self.shared.counters.rx_dropped, 1);
        } else if len <= room {
            self.deliver(len)?;
        } else if self.mergeable {
            let partial = Partial { len, placed: room };
            self.partial = Some(partial);
            self.refill(len)?;
            return self.place_rest(partial);
        } else {
            add(&self.shared.counters.rx_dropped, 1);
        }
        Ok(Step::Frame)
    }

    fn room_for_frame(&self) -> usize {
        if self.mergeable {
            self.room
        } else {
            self.buffers.front().map_or(0, |b| b.room)
        }
    }

    /// Follows the size of frames, so that room for large ones is prepared only while they come.
    fn expect_after(&mut self, len: usize) {
        if len > SMALL_ROOM {
            self.wanted = LARGE_ROOM;
            self.calm = 0;
        } else if self.wanted > SMALL_ROOM {
            self.calm += 1;
            if self.calm >= CALM_FRAMES {
                self.wanted = SMALL_ROOM;
            }
        }
    }

    /// Takes buffers off the ring until there are `wanted` bytes of room or no more buffers.
    fn refill(&mut self, wanted: usize) -> Result<(), RxError> {
        let memory = self.io.memory();
        while self.room < wanted
            && self.segments.len() < MAX_SEGMENTS
            && self.chain.pop(&mut self.queue.queue, memory)?
        {
            let room = chain::total_len(&self.chain.writable) as usize;
            let need = if !self.chain.readable.is_empty() {
                "is a receive buffer with a readable part"
            } else if room < HEADER_BYTES {
                "is a receive buffer without room for a header"
            } else {
                ""
            };
            if !need.is_empty() {
                let head = self.chain.head;
                return Err(ChainError::Shape { head, need }.into());
            }
            self.buffers.push_back(Buffer {
                head: self.chain.head,
                room,
                segments: self.chain.writable.len(),
            });
            self.segments.extend(&self.chain.writable);
            self.room += room;
        }
        Ok(())
    }

    /// Moves what spilled of a frame into buffers that came since, when they hold all of it.
    fn place_rest(&mut self, partial: Partial) -> Result<Step, RxError> {
        if self.room < partial.len {
            let all = self.buffers.len() >= usize::from(self.queue.queue.size());
            if !all && self.segments.len() < MAX_SEGMENTS {
                return Ok(Step::Starved);
            }
            // The driver has given all it can: the frame will never fit.
            self.partial = None;
            add(&self.shared.counters.rx_dropped, 1);
            return Ok(Step::Frame);
        }
        let mut rest: Vec<Segment> = self.segments.iter().copied().collect();
        chain::split_front(&mut rest, partial.placed as u64);
        let spilled = &self.spill[..partial.len - partial.placed];
        chain::scatter(self.io.memory(), &rest, spilled).map_err(io::Error::other)?;
        self.partial = None;
        self.deliver(partial.len)?;
        Ok(Step::Frame)
    }

    /// Gives the buffers that hold a frame of `len` bytes, header included, to the driver.
    fn deliver(&mut self, len: usize) -> Result<(), RxError> {
        let mut rest = len;
        let mut segments = 0;
        self.given.clear();
        while rest > 0 {
            let buffer = self
                .buffers
                .pop_front()
                .expect("the frame fits the buffers");
            let part = rest.min(buffer.room);
            rest -= part;
            self.room -= buffer.room;
            segments += buffer.segments;
            self.given.push((buffer.head, part as u32));
        }
        self.write_num_buffers(self.given.len() as u16)?;
        self.segments.drain(..segments);
        let memory = self.io.memory();
        self.used
            .add_together(&mut self.queue.queue, memory, &self.given)?;
        let counters = &self.shared.counters;
        add(&counters.rx_packets, 1);
        add(&counters.rx_bytes, (len - HEADER_BYTES) as u64);
        self.unsignalled_bytes += len;
        Ok(())
    }

    /// Fills the one field of the header that the tap leaves out.
    fn write_num_buffers(&self, count: u16) -> Result<(), RxError> {
        let mut skip = NUM_BUFFERS_OFFSET;
        let mut bytes = count.to_le_bytes().into_iter().peekable();
        for segment in &self.segments {
            while skip < u64::from(segment.len) {
                let Some(byte) = bytes.next() else {
                    return Ok(());
                };
                let at = vm_memory::Address::unchecked_add(&segment.address, skip);
                self.io
                    .memory()
                    .write_obj(byte, at)
                    .map_err(io::Error::other)?;
                skip += 1;
            }
            if bytes.peek().is_none() {
                break;
            }
            skip -= u64::from(segment.len);
        }
        Ok(())
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
            tracing::error!(net = self.shared.id, %error, "cannot raise a receive interrupt");
        }
    }
}

/// What the tap's refusal of a read means.
fn tap_answer(error: &io::Error, id: &str) -> Result<Step, RxError> {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Ok(Step::Empty),
        Some(libc::EINTR) => Ok(Step::Frame),
        _ => {
            tracing::error!(net = id, %error, "cannot read from the tap");
            Err(RxError::Tap)
        }
    }
}

/// Why receiving stops.
#[derive(Debug, thiserror::Error)]
enum RxError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("guest memory or events: {0}")]
    Io(#[from] io::Error),
    #[error("the tap is gone")]
    Tap,
}

impl Handler for RxWorker {
    fn sources(&self) -> Vec<Source> {
        vec![
            Source::kick(&self.queue.kick, KICK),
            Source::readable(self.tap.as_ref(), TAP),
        ]
    }

    fn handle(&mut self, token: u64, poller: &mut Poller) -> ControlFlow<()> {
        // Buffers are looked for when a frame needs them; a kick matters only if one waits.
        if token == KICK && !self.starved {
            return ControlFlow::Continue(());
        }
        let mut result = Ok(());
        if self.starved {
            self.starved = false;
            result = self.resume(poller);
        }
        let result = result.and_then(|()| self.serve(poller));
        self.signal();
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(RxError::Tap) => ControlFlow::Break(()),
            Err(error) => {
                let net = &self.shared.id;
                tracing::warn!(net, %error, "the network card's driver must reset it");
                self.interrupt.needs_reset(&error.to_string());
                ControlFlow::Break(())
            }
        }
    }
}

impl RxWorker {
    fn resume(&mut self, poller: &mut Poller) -> Result<(), RxError> {
        self.queue.queue.disable_notification(self.io.memory())?;
        poller.unpause(TAP)?;
        Ok(())
    }
}
