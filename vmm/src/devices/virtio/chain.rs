//! A descriptor chain taken off a ring and checked once, as two scatter lists.
//!
//! `virtio_queue::DescriptorChain` ends silently wherever a chain is broken. Here a broken chain is
//! an error, so a device never mistakes half a request for a whole one. What is refused: a head or
//! next index outside the table, a loop, more descriptors than the ring has entries (2.7.5.3.1), a
//! table or buffer outside memory, a readable descriptor after a writable one (2.7.4.2), a nested
//! indirect table, 4 GiB or more in all (2.7.5.2).

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, Permissions};

use crate::memory::GuestMemory;
use crate::memory::iovec::Segment;

/// How the driver broke the rules of the ring. The device needs a reset then.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The ring itself cannot be used.
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// The chain ends before its last descriptor: bad index, loop, overlong, unreadable table.
    #[error("descriptor chain {head} is broken after {count} descriptors")]
    Broken {
        /// Index of the chain's first descriptor.
        head: u16,
        /// How many descriptors could be followed.
        count: usize,
    },
    /// More descriptors than the ring has entries.
    #[error("descriptor chain {head} has more than {limit} descriptors")]
    Overlong {
        /// Index of the chain's first descriptor.
        head: u16,
        /// The ring's size.
        limit: u16,
    },
    /// A device-readable descriptor follows a device-writable one.
    #[error("descriptor chain {head} has a readable buffer after a writable one")]
    Order {
        /// Index of the chain's first descriptor.
        head: u16,
    },
    /// A buffer is not in guest memory.
    #[error("descriptor chain {head} has a buffer {address:#x}+{len:#x} outside memory")]
    OutOfMemory {
        /// Index of the chain's first descriptor.
        head: u16,
        /// Where the buffer starts.
        address: u64,
        /// Its length, bytes.
        len: u32,
    },
    /// The chain is too short, or lacks the buffers, for what the device needs of it.
    #[error("descriptor chain {head} {need}")]
    Shape {
        /// Index of the chain's first descriptor.
        head: u16,
        /// What is wrong, in words.
        need: &'static str,
    },
}

/// A checked chain. Reused from request to request so that the hot path does not allocate.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of the first descriptor; what goes into the used ring.
    pub head: u16,
    /// What the device may read, in order. No segment is empty.
    pub readable: Vec<Segment>,
    /// What the device may write, in order. No segment is empty.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// Takes the next chain off `queue` into `self`; `false` when the ring is empty.
    ///
    /// # Errors
    /// [`ChainError`] when the driver broke the rules; what `self` holds means nothing then.
    pub fn pop(&mut self, queue: &mut Queue, memory: &GuestMemory) -> Result<bool, ChainError> {
        let limit = queue.size();
        match queue.iter(memory)?.next() {
            Some(chain) => self.take(chain, memory, limit).map(|()| true),
            None => Ok(false),
        }
    }

    fn take(
        &mut self,
        chain: DescriptorChain<&GuestMemory>,
        memory: &GuestMemory,
        limit: u16,
    ) -> Result<(), ChainError> {
        let head = chain.head_index();
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        let mut count = 0;
        let mut complete = false;
        for descriptor in chain {
            count += 1;
            if count > usize::from(limit) {
                return Err(ChainError::Overlong { head, limit });
            }
            complete = !descriptor.has_next();
            let segment = Segment {
                address: descriptor.addr(),
                len: descriptor.len(),
            };
            let (list, access) = if descriptor.is_write_only() {
                (&mut self.writable, Permissions::Write)
            } else if self.writable.is_empty() {
                (&mut self.readable, Permissions::Read)
            } else {
                return Err(ChainError::Order { head });
            };
            if segment.len == 0 {
                continue;
            }
            if !memory.check_range(segment.address, segment.len as usize, access) {
                return Err(ChainError::OutOfMemory {
                    head,
                    address: segment.address.raw_value(),
                    len: segment.len,
                });
            }
            list.push(segment);
        }
        if complete {
            Ok(())
        } else {
            Err(ChainError::Broken { head, count })
        }
    }
}

/// Total length of `segments`, bytes; at most 4 GiB by the checks of [`Chain::pop`].
pub fn total_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// Removes the first `N` bytes of `segments` and returns them; `None` when there are fewer.
///
/// # Errors
/// The memory's answer; it holds every segment, so this is an invariant and not the guest's doing.
pub fn take_front<const N: usize>(
    memory: &GuestMemory,
    segments: &mut Vec<Segment>,
) -> Result<Option<[u8; N]>, GuestMemoryError> {
    if total_len(segments) < N as u64 {
        return Ok(None);
    }
    let mut bytes = [0; N];
    let mut filled = 0;
    let mut emptied = 0;
    for segment in segments.iter_mut() {
        let part = (N - filled).min(segment.len as usize);
        memory.read_slice(&mut bytes[filled..filled + part], segment.address)?;
        filled += part;
        segment.address = segment.address.unchecked_add(part as u64);
        segment.len -= part as u32;
        if segment.len > 0 {
            break;
        }
        emptied += 1;
    }
    segments.drain(..emptied);
    Ok(Some(bytes))
}

/// Removes the last byte of `segments` and returns where it is; `None` when there is none.
pub fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    let last = segments.last_mut()?;
    last.len -= 1;
    let address = last.address.unchecked_add(u64::from(last.len));
    if last.len == 0 {
        segments.pop();
    }
    Some(address)
}

/// Removes the first `len` bytes of `segments` (at most all there are) and returns them.
pub fn split_front(segments: &mut Vec<Segment>, mut len: u64) -> Vec<Segment> {
    let mut front = Vec::new();
    let mut emptied = 0;
    for segment in segments.iter_mut() {
        let part = len.min(u64::from(segment.len)) as u32;
        if part > 0 {
            front.push(Segment {
                address: segment.address,
                len: part,
            });
        }
        len -= u64::from(part);
        segment.address = segment.address.unchecked_add(u64::from(part));
        segment.len -= part;
        if segment.len > 0 {
            break;
        }
        emptied += 1;
    }
    segments.drain(..emptied);
    front
}

/// Copies `bytes` into `segments` from their start, as far as there is room; returns how many.
///
/// # Errors
/// The memory's answer; it holds every segment, so this is an invariant and not the guest's doing.
pub fn scatter(
    memory: &GuestMemory,
    segments: &[Segment],
    bytes: &[u8],
) -> Result<usize, GuestMemoryError> {
    let mut done = 0;
    for segment in segments {
        let part = (bytes.len() - done).min(segment.len as usize);
        memory.write_slice(&bytes[done..done + part], segment.address)?;
        done += part;
    }
    Ok(done)
}

/// Fills `bytes` from the start of `segments`, as far as they reach; returns how many.
///
/// # Errors
/// The memory's answer; it holds every segment, so this is an invariant and not the guest's doing.
pub fn gather(
    memory: &GuestMemory,
    segments: &[Segment],
    bytes: &mut [u8],
) -> Result<usize, GuestMemoryError> {
    let mut done = 0;
    for segment in segments {
        let part = (bytes.len() - done).min(segment.len as usize);
        memory.read_slice(&mut bytes[done..done + part], segment.address)?;
        done += part;
    }
    Ok(done)
}
