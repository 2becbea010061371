//! How a disk's data moves: by io_uring where the kernel has it, by system calls otherwise.
//!
//! What direct I/O cannot take as it is (a buffer or an offset that is not aligned) goes through a
//! bounce buffer, alone: nothing else is in flight while a block is read, patched and written back,
//! so a neighbour in the same block cannot be lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{AlignedBuffer, Disk};
use crate::devices::virtio::chain;
use crate::memory::GuestMemory;
use crate::memory::io_ring::{IoRing, Operation};
use crate::memory::iovec::{GuestIo, Segment};

/// How long a wait for I/O in flight lasts before it is logged and begun again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest part of a request that is copied through a bounce buffer at once, bytes.
const BOUNCE_BYTES: u64 = 1 << 20;

/// What became of a request that was given to an engine.
#[derive(Debug)]
pub(super) enum Progress<T> {
    /// [`Engine::next_done`] will return it.
    Started,
    /// It is finished.
    Done(T, io::Result<()>),
}

/// Moves data between a disk and guest memory. `T` is the caller's name for a request.
pub(super) struct Engine<T> {
    disk: Arc<Disk>,
    io: GuestIo,
    /// `None` where io_uring is not to be had.
    ring: Option<IoRing<T>>,
    /// Taken off the ring while something else had to wait for it.
    finished: VecDeque<(T, io::Result<()>)>,
}

impl<T> Engine<T> {
    /// An engine with up to `depth` requests in flight. `asynchronous` asks for io_uring.
    pub(super) fn new(
        disk: Arc<Disk>,
        memory: GuestMemory,
        depth: u16,
        asynchronous: bool,
    ) -> Self {
        let ring = asynchronous
            .then(|| IoRing::new(depth, memory.clone(), disk.file().clone()))
            .and_then(|ring| {
                ring.inspect_err(|error| {
                    tracing::warn!(%error, "no io_uring, disk I/O is synchronous");
                })
                .ok()
            });
        Self {
            disk,
            io: GuestIo::new(memory),
            ring,
            finished: VecDeque::new(),
        }
    }

    /// What becomes readable when a request is finished; `None` when requests finish at once.
    pub(super) fn completion_fd(&self) -> Option<RawFd> {
        self.ring.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether another request may be started.
    pub(super) fn has_room(&self) -> bool {
        self.ring.as_ref().is_none_or(IoRing::has_room)
    }

    /// Begins to fill `segments` from the disk. `alone` says that no other request would wait for
    /// this one; it is then done at once, which spares a trip through epoll.
    pub(super) fn read(
        &mut self,
        offset: u64,
        segments: &[Segment],
        alone: bool,
        tag: T,
    ) -> Progress<T> {
        if !self.suits(offset, segments) {
            let result = self
                .settle()
                .and_then(|()| self.bounce_read(offset, segments));
            return Progress::Done(tag, result);
        }
        let file = self.disk.file().as_fd();
        let Some(ring) = self.ring.as_mut().filter(|_| !alone) else {
            return Progress::Done(tag, self.io.read_at(file, offset, segments));
        };
        // What is in the page cache is there at once, at a fraction of what io_uring costs.
        if self.disk.direct().is_none() && self.io.read_cached(file, offset, segments).is_ok() {
            return Progress::Done(tag, Ok(()));
        }
        begin(ring, Operation::Read { offset }, segments, tag)
    }

    /// Begins to write `segments` to the disk. A `durable` write finishes on stable storage. `alone`
    /// is as for [`Engine::read`].
    pub(super) fn write(
        &mut self,
        offset: u64,
        segments: &[Segment],
        durable: bool,
        alone: bool,
        tag: T,
    ) -> Progress<T> {
        if !self.suits(offset, segments) {
            let result = self
                .settle()
                .and_then(|()| self.bounce_write(offset, segments, durable));
            return Progress::Done(tag, result);
        }
        // A write into the page cache is a copy. Most filesystems do not do it without blocking, so
        // io_uring would pass it to a kernel thread, one at a time per file: slower than here.
        let waits = !alone && (durable || self.disk.direct().is_some());
        match &mut self.ring {
            Some(ring) if waits => begin(ring, Operation::Write { offset, durable }, segments, tag),
            _ => {
                let file = self.disk.file().as_fd();
                let result = self.io.write_at(file, offset, segments, durable);
                Progress::Done(tag, result)
            }
        }
    }

    /// Begins to make every write that was answered durable.
    pub(super) fn sync(&mut self, tag: T) -> Progress<T> {
        match &mut self.ring {
            Some(ring) => begin(ring, Operation::Sync, &[], tag),
            None => Progress::Done(tag, self.disk.sync()),
        }
    }

    /// Hands what was begun to the kernel.
    ///
    /// # Errors
    /// The kernel is short of something; call again later.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.ring.as_mut().map_or(Ok(()), IoRing::submit)
    }

    /// A request that is finished by now, with its pages marked dirty.
    pub(super) fn next_done(&mut self) -> Option<(T, io::Result<()>)> {
        self.finished
            .pop_front()
            .or_else(|| self.ring.as_mut()?.next_done())
    }

    /// How many requests were started and not returned by [`Engine::next_done`].
    pub(super) fn in_flight(&self) -> usize {
        self.finished.len() + self.ring.as_ref().map_or(0, IoRing::in_flight)
    }

    /// Waits until a request is finished, or for a while and says so in the log.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        if self.finished.is_empty() && !ring.wait(PATIENCE)? {
            let requests = ring.in_flight();
            tracing::warn!(requests, "still waiting for disk I/O in flight");
        }
        Ok(())
    }

    /// Waits until the kernel has finished everything; what is finished stays to be returned.
    fn settle(&mut self) -> io::Result<()> {
        while let Some(ring) = &mut self.ring
            && ring.in_flight() > 0
        {
            ring.submit()?;
            match ring.next_done() {
                Some(done) => self.finished.push_back(done),
                None => self.wait()?,
            }
        }
        Ok(())
    }

    /// Whether the kernel can take the request as it is.
    fn suits(&self, offset: u64, segments: &[Segment]) -> bool {
        let Some(direct) = self.disk.direct() else {
            return true;
        };
        let memory = u64::from(direct.memory);
        let block = u64::from(direct.offset);
        // A region of guest memory begins at a page of the host, so guest alignment is host alignment.
        offset.is_multiple_of(block)
            && chain::total_len(segments).is_multiple_of(block)
            && segments.iter().all(|s| {
                s.address.0.is_multiple_of(memory) && u64::from(s.len).is_multiple_of(memory)
            })
    }

    fn bounce_read(&self, offset: u64, segments: &[Segment]) -> io::Result<()> {
        self.bounce(offset, segments, |buffer, span, pieces| {
            self.disk
                .file()
                .read_exact_at(buffer.bytes_mut(), span.start)?;
            let memory = self.io.memory();
            chain::scatter(memory, pieces, &buffer.bytes()[span.head..])
                .map_err(io::Error::other)?;
            Ok(())
        })
    }

    fn bounce_write(&self, offset: u64, segments: &[Segment], durable: bool) -> io::Result<()> {
        self.bounce(offset, segments, |buffer, span, pieces| {
            let file = self.disk.file();
            if span.partial {
                file.read_exact_at(buffer.bytes_mut(), span.start)?;
            }
            let end = span.head + span.len;
            let memory = self.io.memory();
            chain::gather(memory, pieces, &mut buffer.bytes_mut()[span.head..end])
                .map_err(io::Error::other)?;
            file.write_all_at(buffer.bytes(), span.start)
        })?;
        if durable { self.disk.sync() } else { Ok(()) }
    }

    /// Cuts a request into spans of whole blocks of at most [`BOUNCE_BYTES`] and calls `each`.
    fn bounce(
        &self,
        offset: u64,
        segments: &[Segment],
        mut each: impl FnMut(&mut AlignedBuffer, &Span, &[Segment]) -> io::Result<()>,
    ) -> io::Result<()> {
        let block = self.disk.direct().map_or(512, |d| u64::from(d.offset));
        let mut rest = segments.to_vec();
        let mut at = offset;
        let end = offset + chain::total_len(segments);
        while at < end {
            let len = (end - at).min(BOUNCE_BYTES);
            let start = at - at % block;
            // The disk consists of whole blocks, so this stays inside it.
            let stop = (at + len).next_multiple_of(block);
            let span = Span {
                start,
                head: (at - start) as usize,
                len: len as usize,
                partial: start != at || stop != at + len,
            };
            let mut buffer = AlignedBuffer::new((stop - start) as usize);
            let pieces = chain::split_front(&mut rest, len);
            each(&mut buffer, &span, &pieces)?;
            at += len;
        }
        Ok(())
    }
}

/// A part of a request with the blocks around it.
struct Span {
    /// Offset of the first block, bytes.
    start: u64,
    /// Where in the first block the request begins, bytes.
    head: usize,
    /// How much of the request is in it, bytes.
    len: usize,
    /// Whether a block is only partly the request's.
    partial: bool,
}

fn begin<T>(
    ring: &mut IoRing<T>,
    operation: Operation,
    segments: &[Segment],
    tag: T,
) -> Progress<T> {
    match ring.start(operation, segments, tag) {
        Ok(()) => Progress::Started,
        Err((tag, error)) => Progress::Done(tag, Err(error)),
    }
}
