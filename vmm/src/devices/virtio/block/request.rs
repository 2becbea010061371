//! One request as the driver wrote it, read and checked. Pure: nothing is done here.

use vm_memory::GuestAddress;

use super::config::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_RANGES, MAX_WRITE_ZEROES_SECTORS,
    SECTOR_BYTES,
};
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::memory::GuestMemory;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

/// What the driver is answered (5.2.6, `status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// The device or the driver erred.
    IoError = VIRTIO_BLK_S_IOERR as u8,
    /// The device does not do that.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// Why a request is answered without being tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("data of {bytes} bytes are no whole number of sectors")]
    Length { bytes: u64 },
    #[error("{sectors} sectors from {sector} end beyond the disk's {capacity}")]
    Range {
        sector: u64,
        sectors: u64,
        capacity: u64,
    },
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("the list of {bytes} bytes is not 1 to {limit} ranges of 16 bytes")]
    Ranges { bytes: u64, limit: u32 },
    #[error("{sectors} sectors are more than the {limit} allowed at once")]
    TooManySectors { sectors: u32, limit: u32 },
    #[error("range flags {flags:#x} are not supported")]
    Flags { flags: u32 },
    #[error("request type {kind} is not offered")]
    Kind { kind: u32 },
}

impl Refusal {
    /// What the driver is told.
    pub(super) fn status(self) -> Status {
        match self {
            Self::Flags { .. } | Self::Kind { .. } => Status::Unsupported,
            _ => Status::IoError,
        }
    }
}

/// What the driver may ask of this disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Sectors in the disk.
    pub(super) capacity: u64,
    /// Nothing may be changed.
    pub(super) read_only: bool,
    /// `VIRTIO_BLK_F_DISCARD` was negotiated.
    pub(super) discard: bool,
    /// `VIRTIO_BLK_F_WRITE_ZEROES` was negotiated.
    pub(super) write_zeroes: bool,
}

/// A contiguous part of the disk, bytes; inside the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// The space may be freed (write zeroes only).
    pub(super) unmap: bool,
}

/// A request that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Fill the chain's writable segments from byte `offset` on.
    Read { offset: u64 },
    /// Write the chain's readable segments to byte `offset` on.
    Write { offset: u64 },
    /// Make what was written durable.
    Flush,
    /// Return the serial number.
    Identify,
    /// Give up content.
    Discard(Vec<Range>),
    /// Make content zero.
    WriteZeroes(Vec<Range>),
}

/// A request: what to do, and where its answer goes.
#[derive(Debug)]
pub(super) struct Request {
    /// Where the status byte goes.
    pub(super) status: GuestAddress,
    /// What to do, or why not.
    pub(super) action: Result<Action, Refusal>,
}

impl Request {
    /// Reads the request in `chain`, and leaves only its data segments there.
    ///
    /// # Errors
    /// When the chain has no place for an answer, or no header.
    pub(super) fn parse(
        chain: &mut Chain,
        memory: &GuestMemory,
        limits: &Limits,
    ) -> Result<Self, ChainError> {
        let shape = |need| ChainError::Shape {
            head: chain.head,
            need,
        };
        let no_status = shape("has no room for the status byte");
        let no_header = shape("has less than 16 bytes of request header");
        let header = chain::take_front::<16>(memory, &mut chain.readable)
            .ok()
            .flatten();
        let header = header.ok_or(no_header)?;
        let status = chain::take_last_byte(&mut chain.writable).ok_or(no_status)?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = u64::from_le_bytes(sector);
        let action = action(kind, sector, chain, memory, limits);
        Ok(Self { status, action })
    }
}

fn action(
    kind: u32,
    sector: u64,
    chain: &Chain,
    memory: &GuestMemory,
    limits: &Limits,
) -> Result<Action, Refusal> {
    let writable = || match limits.read_only {
        true => Err(Refusal::ReadOnly),
        false => Ok(()),
    };
    match kind {
        VIRTIO_BLK_T_IN => {
            let offset = data_offset(sector, chain::total_len(&chain.writable), limits)?;
            Ok(Action::Read { offset })
        }
        VIRTIO_BLK_T_OUT => {
            writable()?;
            let offset = data_offset(sector, chain::total_len(&chain.readable), limits)?;
            Ok(Action::Write { offset })
        }
        VIRTIO_BLK_T_FLUSH => Ok(Action::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Action::Identify),
        VIRTIO_BLK_T_DISCARD if limits.discard => {
            writable()?;
            let (ranges, sectors) = (MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS);
            let ranges = read_ranges(chain, memory, limits, ranges, sectors, 0)?;
            Ok(Action::Discard(ranges))
        }
        VIRTIO_BLK_T_WRITE_ZEROES if limits.write_zeroes => {
            writable()?;
            let (ranges, sectors) = (MAX_WRITE_ZEROES_RANGES, MAX_WRITE_ZEROES_SECTORS);
            let ranges = read_ranges(chain, memory, limits, ranges, sectors, UNMAP)?;
            Ok(Action::WriteZeroes(ranges))
        }
        kind => Err(Refusal::Kind { kind }),
    }
}

/// Where in the disk `bytes` of data at `sector` begin.
fn data_offset(sector: u64, bytes: u64, limits: &Limits) -> Result<u64, Refusal> {
    if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(Refusal::Length { bytes });
    }
    byte_range(sector, bytes / SECTOR_BYTES, limits).map(|(offset, _)| offset)
}

/// Offset and length, bytes, of `sectors` from `sector` on, when they are in the disk.
fn byte_range(sector: u64, sectors: u64, limits: &Limits) -> Result<(u64, u64), Refusal> {
    match sector.checked_add(sectors) {
        Some(end) if end <= limits.capacity => {
            // The capacity in bytes is a file size, below 2^63.
            Ok((sector * SECTOR_BYTES, sectors * SECTOR_BYTES))
        }
        _ => Err(Refusal::Range {
            sector,
            sectors,
            capacity: limits.capacity,
        }),
    }
}

/// `struct virtio_blk_discard_write_zeroes`: sector u64, num_sectors u32, flags u32.
const RANGE_BYTES: usize = 16;
/// Its flag that allows to free the space.
const UNMAP: u32 = 1;

fn read_ranges(
    chain: &Chain,
    memory: &GuestMemory,
    limits: &Limits,
    max_ranges: u32,
    max_sectors: u32,
    allowed_flags: u32,
) -> Result<Vec<Range>, Refusal> {
    let bytes = chain::total_len(&chain.readable);
    let refused = Refusal::Ranges {
        bytes,
        limit: max_ranges,
    };
    let longest = u64::from(max_ranges) * RANGE_BYTES as u64;
    if bytes == 0 || bytes > longest || !bytes.is_multiple_of(RANGE_BYTES as u64) {
        return Err(refused);
    }
    let mut list = vec![0; bytes as usize];
    chain::gather(memory, &chain.readable, &mut list).map_err(|_| refused)?;
    let (entries, _) = list.as_chunks::<RANGE_BYTES>();
    let mut ranges = Vec::with_capacity(entries.len());
    for &[
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        n0,
        n1,
        n2,
        n3,
        f0,
        f1,
        f2,
        f3,
    ] in entries
    {
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !allowed_flags != 0 {
            return Err(Refusal::Flags { flags });
        }
        if sectors > max_sectors {
            return Err(Refusal::TooManySectors {
                sectors,
                limit: max_sectors,
            });
        }
        let (offset, len) = byte_range(sector, sectors.into(), limits)?;
        if len > 0 {
            ranges.push(Range {
                offset,
                len,
                unmap: flags & UNMAP != 0,
            });
        }
    }
    Ok(ranges)
}
