//! A disk's backing: a raw image or a block device, opened, checked and locked.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::config::{BlockConfig, CacheMode, ID_BYTES, SECTOR_BYTES};
use crate::kvm::disk_ioctl::{self, DirectAlignment};

/// What is assumed of direct I/O where the kernel does not say.
const SAFE_ALIGNMENT: DirectAlignment = DirectAlignment {
    memory: 4096,
    offset: 4096,
};
/// How much is written at once where zeroes must be written out, bytes.
const ZERO_CHUNK: usize = 1 << 20;

/// Why a disk cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such file.
    #[error("disk {path:?} does not exist; create it, for instance with `truncate -s 10G`")]
    Missing {
        /// The disk.
        path: PathBuf,
    },
    /// This user may not open it.
    #[error(
        "disk {path:?} may not be opened for {access}; grant the user access, or attach it read-only"
    )]
    Permission {
        /// The disk.
        path: PathBuf,
        /// What was asked for, in words.
        access: &'static str,
    },
    /// It is neither a file nor a block device.
    #[error("disk {path:?} is {found}; give a raw image or a block device")]
    Kind {
        /// The disk.
        path: PathBuf,
        /// What it is, in words.
        found: &'static str,
    },
    /// Nothing is in it.
    #[error("disk {path:?} has size 0; give it a size, for instance with `truncate -s 10G`")]
    Empty {
        /// The disk.
        path: PathBuf,
    },
    /// It does not consist of whole sectors, or of whole blocks where direct I/O asks for them.
    #[error(
        "disk {path:?} has {bytes} bytes, not a multiple of {block}; it is cut short or not a raw image, extend it with `truncate`"
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What the size must be a multiple of, bytes.
        block: u64,
    },
    /// Another guest, or QEMU, has it open.
    #[error(
        "disk {path:?} is in use by another guest; stop that guest, or attach the disk read-only to both"
    )]
    Locked {
        /// The disk.
        path: PathBuf,
    },
    /// The filesystem cannot do direct I/O.
    #[error("disk {path:?} is on a filesystem without direct I/O; use the host cache for it")]
    Direct {
        /// The disk.
        path: PathBuf,
    },
    /// The id does not fit the serial number field.
    #[error("disk id {id:?} must have 1 to 20 bytes; choose another")]
    Id {
        /// The id.
        id: String,
    },
    /// The kernel refused for another reason.
    #[error("cannot {operation} disk {path:?}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The disk.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// An opened disk. A lock on it lasts as long as this, unless it is released.
#[derive(Debug)]
pub(super) struct Disk {
    file: Arc<File>,
    path: PathBuf,
    is_device: bool,
    read_only: bool,
    /// Whether space may be given back to the host.
    discard: bool,
    sectors: u64,
    block_bytes: u32,
    /// `Some` for direct I/O.
    direct: Option<DirectAlignment>,
}

impl Disk {
    /// Opens, checks and locks the disk of `config`; changes nothing in it.
    pub(super) fn open(config: &BlockConfig) -> Result<Self, DiskError> {
        let disk = Self::open_unlocked(config)?;
        disk.claim()?;
        Ok(disk)
    }

    /// Opens and checks the disk of `config`, which another guest may have until [`Disk::claim`].
    pub(super) fn open_unlocked(config: &BlockConfig) -> Result<Self, DiskError> {
        if config.id.is_empty() || config.id.len() > ID_BYTES {
            let id = config.id.clone();
            return Err(DiskError::Id { id });
        }
        let path = config.path.as_path();
        let failed = |operation| {
            move |source| DiskError::Io {
                operation,
                path: path.into(),
                source,
            }
        };
        let is_device = check_kind(path)?;
        let mut file = open_file(config)?;
        // The name may have changed hands between the look and the opening: ask the opened file.
        let metadata = file.metadata().map_err(failed("inspect"))?;
        if is_device != metadata.file_type().is_block_device() {
            let found = "changing while it is opened";
            return Err(DiskError::Kind {
                path: path.into(),
                found,
            });
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed("measure"))?;
        if bytes == 0 {
            return Err(DiskError::Empty { path: path.into() });
        }
        let direct = (config.cache == CacheMode::Direct)
            .then(|| disk_ioctl::direct_alignment(file.as_fd()).unwrap_or(SAFE_ALIGNMENT));
        let block = direct.map_or(SECTOR_BYTES, |d| SECTOR_BYTES.max(d.offset.into()));
        if !bytes.is_multiple_of(block) {
            return Err(DiskError::Size {
                path: path.into(),
                bytes,
                block,
            });
        }
        let block_bytes = if is_device {
            let size = disk_ioctl::logical_block_bytes(file.as_fd());
            size.map_err(failed("read the block size of"))?
        } else {
            direct.map_or(SECTOR_BYTES as u32, |d| d.offset)
        };
        Ok(Self {
            file: Arc::new(file),
            path: path.into(),
            is_device,
            read_only: config.read_only,
            discard: config.discard,
            sectors: bytes / SECTOR_BYTES,
            block_bytes: block_bytes.clamp(SECTOR_BYTES as u32, 4096),
            direct,
        })
    }

    /// Takes the lock that keeps other guests away; nothing when it is held.
    pub(super) fn claim(&self) -> Result<(), DiskError> {
        disk_ioctl::lock(self.file.as_fd(), !self.read_only).map_err(|source| {
            let path = self.path.clone();
            match source.kind() {
                io::ErrorKind::WouldBlock => DiskError::Locked { path },
                _ => DiskError::Io {
                    operation: "lock",
                    path,
                    source,
                },
            }
        })
    }

    /// Gives up the lock; nothing when it is not held.
    pub(super) fn release(&self) -> Result<(), DiskError> {
        disk_ioctl::unlock(self.file.as_fd()).map_err(|source| DiskError::Io {
            operation: "unlock",
            path: self.path.clone(),
            source,
        })
    }

    /// The opened file.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Capacity in sectors of 512 bytes; at least 1.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The block size that suits the backing, bytes: a power of two from 512 to 4096.
    pub(super) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Whether writes are refused.
    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    /// What direct I/O wants; `None` when the page cache is used and anything goes.
    pub(super) fn direct(&self) -> Option<DirectAlignment> {
        self.direct
    }

    /// Gives up the content of a range, in bytes; it reads as anything afterwards.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.is_device {
            return disk_ioctl::discard(self.file.as_fd(), offset, len);
        }
        Ok(fallocate(
            self.file.as_ref(),
            FallocateMode::PunchHole,
            true,
            offset,
            len,
        )?)
    }

    /// Makes a range, in bytes, read as zero. `unmap` allows to free the space, where the disk's
    /// configuration allows it too.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if self.is_device {
            return disk_ioctl::zero_out(self.file.as_fd(), offset, len);
        }
        let mode = if unmap && self.discard {
            FallocateMode::PunchHole
        } else {
            FallocateMode::ZeroRange
        };
        match fallocate(self.file.as_ref(), mode, true, offset, len).map_err(io::Error::from) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.write_out_zeroes(offset, len)
            }
            other => other,
        }
    }

    /// Writes zeroes where the filesystem has no better way.
    fn write_out_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = AlignedBuffer::new(ZERO_CHUNK.min(len as usize));
        let mut done = 0;
        while done < len {
            let part = (len - done).min(ZERO_CHUNK as u64);
            self.file
                .write_all_at(&zeroes.bytes()[..part as usize], offset + done)?;
            done += part;
        }
        Ok(())
    }

    /// Makes all writes that returned durable (`fdatasync`).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Looks at what is there before opening it, since opening a FIFO would block.
fn check_kind(path: &Path) -> Result<bool, DiskError> {
    let metadata = std::fs::metadata(path).map_err(|error| opening(path, true, error))?;
    let kind = metadata.file_type();
    let found = if kind.is_file() || kind.is_block_device() {
        return Ok(kind.is_block_device());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a socket"
    };
    Err(DiskError::Kind {
        path: path.into(),
        found,
    })
}

fn open_file(config: &BlockConfig) -> Result<File, DiskError> {
    let direct = config.cache == CacheMode::Direct;
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(!config.read_only)
        // Not O_NONBLOCK: io_uring would then answer EAGAIN where a filesystem cannot but block.
        .custom_flags(flags | libc::O_CLOEXEC)
        .open(&config.path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) if direct => DiskError::Direct {
                path: config.path.clone(),
            },
            _ => opening(&config.path, config.read_only, error),
        })
}

fn opening(path: &Path, read_only: bool, source: io::Error) -> DiskError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => DiskError::Missing { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let access = if read_only { "reading" } else { "writing" };
            DiskError::Permission { path, access }
        }
        _ => DiskError::Io {
            operation: "open",
            path,
            source,
        },
    }
}

/// Zeroed host memory that starts at a multiple of 4096, as direct I/O wants it.
pub(super) struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    const ALIGNMENT: usize = 4096;

    /// `len` bytes, all zero.
    pub(super) fn new(len: usize) -> Self {
        let storage = vec![0; len + Self::ALIGNMENT];
        let start = storage.as_ptr().align_offset(Self::ALIGNMENT);
        Self {
            storage,
            start,
            len,
        }
    }

    /// What is in it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// What is in it, to change.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config(path: &Path) -> BlockConfig {
        BlockConfig {
            id: "disk0".into(),
            path: path.into(),
            read_only: false,
            discard: true,
            cache: CacheMode::Host,
        }
    }

    fn image(dir: &tempfile::TempDir, bytes: u64) -> PathBuf {
        let path = dir.path().join("image.raw");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    #[test]
    fn a_disk_that_one_guest_writes_is_refused_to_every_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir, 4096);
        let writer = config(&path);
        let reader = BlockConfig {
            read_only: true,
            ..config(&path)
        };
        let open = Disk::open(&writer).unwrap();
        for other in [&writer, &reader] {
            let error = Disk::open(other).unwrap_err();
            assert!(matches!(error, DiskError::Locked { .. }), "{error}");
        }
        drop(open);
        let first = Disk::open(&reader).unwrap();
        let second = Disk::open(&reader).unwrap();
        assert!(matches!(Disk::open(&writer), Err(DiskError::Locked { .. })));
        drop((first, second));
        Disk::open(&writer).unwrap();
    }

    #[test]
    fn every_unusable_path_is_refused_by_its_own_error_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Disk::open(&config(&dir.path().join("absent"))).unwrap_err();
        assert!(matches!(missing, DiskError::Missing { .. }));
        assert!(!dir.path().join("absent").exists());
        let error = Disk::open(&config(dir.path())).unwrap_err();
        assert!(error.to_string().contains("is a directory"), "{error}");
        let error = Disk::open(&config(Path::new("/dev/null"))).unwrap_err();
        assert!(matches!(error, DiskError::Kind { .. }));
        let empty = Disk::open(&config(&image(&dir, 0))).unwrap_err();
        assert!(matches!(empty, DiskError::Empty { .. }));
        let odd = Disk::open(&config(&image(&dir, 1000))).unwrap_err();
        assert!(matches!(odd, DiskError::Size { bytes: 1000, .. }));
    }

    #[test]
    fn an_unreadable_disk_is_a_matter_of_permission_unless_root_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir, 512);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
        match Disk::open(&config(&path)) {
            Err(DiskError::Permission { access, .. }) => assert_eq!(access, "writing"),
            Ok(_) => crate::skip::skipped!("this user may open what nobody may"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_id_must_fit_the_serial_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir, 512);
        for id in ["", "123456789012345678901"] {
            let config = BlockConfig {
                id: id.into(),
                ..config(&path)
            };
            assert!(matches!(Disk::open(&config), Err(DiskError::Id { .. })));
        }
    }

    #[test]
    fn zeroes_are_written_out_where_nothing_better_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir, 4 << 20);
        std::fs::write(&path, vec![1; 4 << 20]).unwrap();
        let disk = Disk::open(&config(&path)).unwrap();
        disk.write_out_zeroes(512, (2 << 20) + 512).unwrap();
        let seen = std::fs::read(&path).unwrap();
        assert_eq!(seen.iter().position(|b| *b == 0), Some(512));
        assert_eq!(seen.iter().rposition(|b| *b == 0), Some((2 << 20) + 1023));
        assert_eq!(seen.iter().filter(|b| **b == 0).count(), (2 << 20) + 512);
    }
}
