//! Why a kernel cannot be booted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use vm_memory::GuestMemoryError;

use super::image::Found;

/// Which of the two files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The kernel image.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

/// Why a kernel, initrd or command line was refused.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened.
    #[error("cannot open {part} {}; check the path and its permissions", path.display())]
    Open {
        /// Which file.
        part: Part,
        /// Its path as given.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A directory, pipe or device.
    #[error("the {part} is not a regular file; name the image file itself")]
    NotAFile {
        /// Which file.
        part: Part,
    },
    /// The file has no bytes.
    #[error("the {part} is empty; it was probably not downloaded or copied completely")]
    Empty {
        /// Which file.
        part: Part,
    },
    /// Reading failed.
    #[error("cannot read the {part}")]
    Read {
        /// Which file.
        part: Part,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Copying the file's bytes into guest memory failed.
    #[error("cannot copy the {part} into guest memory at {address:#x}")]
    Copy {
        /// Which file.
        part: Part,
        /// Guest physical address.
        address: u64,
        /// What memory or the file said.
        #[source]
        source: GuestMemoryError,
    },
    /// The loader library refused what the checks here let through, for instance because the file
    /// changed meanwhile.
    #[error("cannot load the kernel image; did the file change while it was read?")]
    Loader(#[source] linux_loader::loader::Error),
    /// The image ends before its own headers say.
    #[error(
        "the kernel is cut short: its headers name {needed} bytes, the file has {len}; copy it again"
    )]
    Truncated {
        /// Bytes that the headers name.
        needed: u64,
        /// Bytes that are there.
        len: u64,
    },
    /// Not a kernel that this machine can start.
    #[error("the kernel is {found}, not an x86-64 ELF or bzImage; {}", found.fix())]
    NotAKernel {
        /// What it is instead.
        found: Found,
    },
    /// ELF headers that contradict themselves.
    #[error("the kernel's ELF headers are invalid: {problem}; rebuild or copy the image again")]
    InvalidElf {
        /// What is wrong.
        problem: &'static str,
    },
    /// An ELF segment that lies outside the RAM that a kernel may use.
    #[error(
        "kernel segment at {start:#x} of {len} bytes does not fit into RAM from 0x100000 to {ram_end:#x}; \
         give the guest more memory or link the kernel elsewhere"
    )]
    SegmentOutsideRam {
        /// First guest physical address.
        start: u64,
        /// Length in memory, bytes.
        len: u64,
        /// End of low RAM.
        ram_end: u64,
    },
    /// Two ELF segments cover the same memory.
    #[error("kernel segments at {first:#x} and {second:#x} overlap; rebuild the image")]
    SegmentsOverlap {
        /// Start of the lower segment.
        first: u64,
        /// Start of the higher segment, inside the lower one.
        second: u64,
    },
    /// The entry point is not in bytes that the image holds.
    #[error("kernel entry {entry:#x} lies outside what the image loads; rebuild the image")]
    EntryOutsideImage {
        /// Guest physical address.
        entry: u64,
    },
    /// A boot protocol without what the 64-bit entry needs.
    #[error(
        "the bzImage speaks boot protocol {}.{:02}, at least 2.12 is needed; use Linux 3.8 or later",
        version >> 8, version & 0xff
    )]
    BzImageTooOld {
        /// Protocol version: major in the high byte.
        version: u16,
    },
    /// A zImage, which loads below 1 MiB.
    #[error("the kernel is a zImage that loads below 1 MiB; build a bzImage")]
    ZImage,
    /// No 64-bit entry.
    #[error("the bzImage has no 64-bit entry point; use an x86-64 kernel (CONFIG_64BIT)")]
    BzImage32Bit,
    /// Header fields that contradict themselves.
    #[error("the bzImage header is invalid: {problem}; copy or build the image again")]
    InvalidBzImage {
        /// What is wrong.
        problem: &'static str,
    },
    /// The kernel needs more memory than the guest has.
    #[error(
        "the kernel needs RAM from {start:#x} to {end:#x}, the guest's low RAM ends at {ram_end:#x}; \
         give it at least {} MiB",
        end.div_ceil(1 << 20)
    )]
    KernelTooLarge {
        /// Where the kernel wants to lie.
        start: u64,
        /// End of what it needs to unpack itself.
        end: u64,
        /// End of low RAM.
        ram_end: u64,
    },
    /// No room above the kernel.
    #[error(
        "the initrd of {len} bytes does not fit into the {available} bytes between the kernel and {limit:#x}; \
         give the guest more memory or use a smaller initrd"
    )]
    InitrdTooLarge {
        /// Length of the initrd, bytes.
        len: u64,
        /// Bytes available.
        available: u64,
        /// End of the memory that the kernel lets an initrd use.
        limit: u64,
    },
    /// The command line is longer than the kernel or the layout takes.
    #[error("the command line has {len} bytes, the kernel takes at most {max}; shorten it")]
    CmdlineTooLong {
        /// Length, bytes.
        len: usize,
        /// Longest allowed, bytes.
        max: usize,
    },
    /// A byte that a kernel command line cannot carry.
    #[error("the command line has byte {byte:#04x} at offset {offset}; use printable ASCII only")]
    CmdlineNotAscii {
        /// The offending byte.
        byte: u8,
        /// Where it is.
        offset: usize,
    },
    /// The guest has no RAM that a kernel may use.
    #[error(
        "low RAM ends at {end:#x}, a kernel needs RAM above 0x100000; give the guest at least 16 MiB"
    )]
    NoRam {
        /// End of low RAM.
        end: u64,
    },
    /// The loader library could not write boot structures.
    #[error("cannot write boot structures")]
    Structures(#[source] linux_loader::configurator::Error),
    /// A boot structure could not be written.
    #[error("cannot write boot structures at {address:#x}")]
    Write {
        /// Guest physical address.
        address: u64,
        /// What memory said.
        #[source]
        source: GuestMemoryError,
    },
}

impl BootError {
    /// Which file is at fault; `None` for the command line and for guest memory.
    pub fn part(&self) -> Option<Part> {
        match self {
            Self::Open { part, .. }
            | Self::NotAFile { part }
            | Self::Empty { part }
            | Self::Read { part, .. }
            | Self::Copy { part, .. } => Some(*part),
            Self::InitrdTooLarge { .. } => Some(Part::Initrd),
            Self::CmdlineTooLong { .. } | Self::CmdlineNotAscii { .. } | Self::NoRam { .. } => None,
            _ => Some(Part::Kernel),
        }
    }
}
