//! What a file is, before anything in it is believed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vm_memory::ReadVolatile;

use super::error::{BootError, Part};

/// Offset of the bzImage magic (Linux x86 boot protocol, "The Real-Mode Kernel Header").
const HDRS_OFFSET: usize = 0x202;
/// As many bytes as the kinds below need to be told apart.
const HEAD_LEN: usize = 0x206;

/// Where a kernel image comes from.
#[derive(Debug)]
pub enum KernelSource<'a> {
    /// An open file, read from its start.
    File(&'a mut File),
    /// An image in memory, such as the built-in guest.
    Bytes(&'a [u8]),
}

/// What an image is read through.
pub(super) trait Image: Read + Seek + ReadVolatile {}

impl<T: Read + Seek + ReadVolatile> Image for T {}

/// Opens a kernel image for [`super::load`].
///
/// # Errors
/// [`BootError::Open`] or [`BootError::NotAFile`].
pub fn open_kernel(path: &Path) -> Result<File, BootError> {
    open(Part::Kernel, path)
}

/// Opens an initrd for [`super::load`].
///
/// # Errors
/// [`BootError::Open`] or [`BootError::NotAFile`].
pub fn open_initrd(path: &Path) -> Result<File, BootError> {
    open(Part::Initrd, path)
}

fn open(part: Part, path: &Path) -> Result<File, BootError> {
    let file = OpenOptions::new()
        .read(true)
        // A pipe without a writer must not hang the caller; regular files ignore the flag.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| BootError::Open {
            part,
            path: path.to_owned(),
            source,
        })?;
    check_regular(part, &file)?;
    Ok(file)
}

/// Refuses what has no length and no positions.
pub(super) fn check_regular(part: Part, file: &File) -> Result<(), BootError> {
    let metadata = file
        .metadata()
        .map_err(|source| BootError::Read { part, source })?;
    if metadata.is_file() {
        Ok(())
    } else {
        Err(BootError::NotAFile { part })
    }
}

/// The kernel formats that can be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    Elf,
    BzImage,
}

impl Format {
    /// Looks at the first bytes of an image of `len` bytes.
    pub(super) fn of<F: Image>(image: &mut F, len: u64) -> Result<Self, BootError> {
        if len == 0 {
            return Err(BootError::Empty { part: Part::Kernel });
        }
        let mut head = Vec::with_capacity(HEAD_LEN);
        image
            .seek(SeekFrom::Start(0))
            .and_then(|_| image.by_ref().take(HEAD_LEN as u64).read_to_end(&mut head))
            .map_err(|source| BootError::Read {
                part: Part::Kernel,
                source,
            })?;
        if head.starts_with(b"\x7fELF") {
            return Ok(Self::Elf);
        }
        if at(&head, HDRS_OFFSET, b"HdrS") {
            return Ok(Self::BzImage);
        }
        Err(BootError::NotAKernel {
            found: Found::of(&head),
        })
    }
}

/// What a file is that is not a kernel for this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A compressed file: gzip, xz, zstd, lz4 or bzip2.
    Compressed(&'static str),
    /// A kernel or program of another architecture.
    Foreign(&'static str),
    /// An ELF for another ELF machine number.
    ForeignElf(u16),
    /// An ELF that is a program with an interpreter, not a kernel.
    Program,
    /// Some other file that people mistake for a kernel.
    Other(&'static str),
    /// Nothing known; its first bytes.
    Unknown([u8; 4]),
}

/// Magic numbers: offset, bytes, what it is.
const MAGICS: &[(usize, &[u8], Found)] = &[
    (0, b"\x1f\x8b", Found::Compressed("gzip")),
    (0, b"\xfd7zXZ\0", Found::Compressed("xz")),
    (0, b"\x28\xb5\x2f\xfd", Found::Compressed("zstd")),
    (0, b"\x02\x21\x4c\x18", Found::Compressed("lz4")),
    (0, b"\x04\x22\x4d\x18", Found::Compressed("lz4")),
    (0, b"BZh", Found::Compressed("bzip2")),
    (0x38, b"ARM\x64", Found::Foreign("an arm64 Image")),
    (0x38, b"RSC\x05", Found::Foreign("a RISC-V Image")),
    (0x24, b"\x18\x28\x6f\x01", Found::Foreign("an arm zImage")),
    (0, b"\x27\x05\x19\x56", Found::Foreign("a U-Boot uImage")),
    (0, b"0707", Found::Other("a cpio archive (an initrd?)")),
    (0, b"QFI\xfb", Found::Other("a qcow2 disk image")),
    (0, b"#!", Found::Other("a script")),
    (0, b"MZ", Found::Other("an EFI or Windows program")),
    (
        0x1fe,
        b"\x55\xaa",
        Found::Other("a boot sector or raw disk image"),
    ),
];

impl Found {
    fn of(head: &[u8]) -> Self {
        MAGICS
            .iter()
            .find(|(offset, magic, _)| at(head, *offset, magic))
            .map_or_else(
                || {
                    let mut first = [0; 4];
                    let len = head.len().min(first.len());
                    first[..len].copy_from_slice(&head[..len]);
                    Self::Unknown(first)
                },
                |(_, _, found)| *found,
            )
    }

    /// What the user can do about it.
    pub(super) fn fix(self) -> &'static str {
        match self {
            Self::Compressed(_) => "decompress it first",
            Self::Foreign(_) | Self::ForeignElf(_) => "use a kernel built for x86-64",
            Self::Program | Self::Other(_) | Self::Unknown(_) => {
                "use vmlinux, or vmlinuz from a distribution"
            }
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed(kind) => write!(f, "a {kind} file"),
            Self::Foreign(kind) | Self::Other(kind) => f.write_str(kind),
            Self::ForeignElf(machine) => write!(f, "an ELF for machine {machine}"),
            Self::Program => f.write_str("a dynamically linked program"),
            Self::Unknown([a, b, c, d]) => {
                write!(f, "data beginning {a:02x} {b:02x} {c:02x} {d:02x}")
            }
        }
    }
}

fn at(head: &[u8], offset: usize, magic: &[u8]) -> bool {
    head.get(offset..)
        .is_some_and(|rest| rest.starts_with(magic))
}
