//! A tap on the host, one file per queue.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::config::{HEADER_BYTES, MAX_QUEUE_PAIRS, NetConfig};
use crate::kvm::tap_ioctl;

/// Why a network card cannot be made. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The name cannot be that of an interface.
    #[error("tap name {tap:?} must have 1 to 15 bytes without `/`, `%`, `:` or blanks")]
    Name {
        /// The name.
        tap: String,
    },
    /// Too few or too many queue pairs.
    #[error("a network card has 1 to {max} queue pairs, not {found}")]
    QueuePairs {
        /// What was asked for.
        found: u16,
        /// The most there can be.
        max: u16,
    },
    /// The address is not that of one card.
    #[error("{mac:02x?} is no unicast address; clear the lowest bit of its first byte")]
    Mac {
        /// The address.
        mac: [u8; 6],
    },
    /// The host has no taps.
    #[error("/dev/net/tun cannot be opened; load the tun module, or grant access to the device")]
    Unavailable {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another program has the tap.
    #[error("tap {tap} is in use by another guest or program; stop it or choose another tap")]
    Busy {
        /// The tap.
        tap: String,
    },
    /// This user may not use or make the tap.
    #[error(
        "tap {tap} does not exist or belongs to another user; make it with `ip tuntap add {tap} mode tap user $USER`"
    )]
    Permission {
        /// The tap.
        tap: String,
    },
    /// An interface of that name exists and is another kind of thing.
    #[error("{tap} is no tap with {queues}; make it with `ip tuntap add {tap} mode tap{flag}`")]
    Kind {
        /// The interface.
        tap: String,
        /// How many queues were asked for, in words.
        queues: &'static str,
        /// What to add to the command.
        flag: &'static str,
    },
    /// Another process did not hand over all of the tap's queues.
    #[error("{found} queues of tap {tap} were handed over and {wanted} are needed")]
    Handed {
        /// The tap.
        tap: String,
        /// How many the card has.
        wanted: u16,
        /// How many came.
        found: usize,
    },
    /// The kernel refused for another reason.
    #[error("cannot {operation} tap {tap}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The tap.
        tap: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// One queue of a tap: frames behind virtio headers, never blocking.
#[derive(Debug)]
pub(super) struct TapQueue {
    file: File,
}

impl TapQueue {
    /// Opens `config.queue_pairs` queues of the tap. All but the first take no part in traffic.
    pub(super) fn open_all(config: &NetConfig) -> Result<Vec<Self>, NetError> {
        let pairs = check_pairs(config.queue_pairs)?;
        check_name(&config.tap)?;
        let mut queues = Vec::new();
        for index in 0..pairs {
            let queue = Self::open(&config.tap, pairs > 1)?;
            if index > 0 {
                queue
                    .enable(false)
                    .map_err(failed(&config.tap, "detach a queue of"))?;
            }
            queues.push(queue);
        }
        Ok(queues)
    }

    /// The queues that `files` are, as another process set them up.
    pub(super) fn adopt_all(config: &NetConfig, files: Vec<File>) -> Result<Vec<Self>, NetError> {
        let wanted = check_pairs(config.queue_pairs)?;
        if files.len() != usize::from(wanted) {
            return Err(NetError::Handed {
                tap: config.tap.clone(),
                wanted,
                found: files.len(),
            });
        }
        Ok(files.into_iter().map(|file| Self { file }).collect())
    }

    /// A copy of the descriptor.
    pub(super) fn try_clone_file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn open(tap: &str, multi_queue: bool) -> Result<Self, NetError> {
        let file =
            tap_ioctl::open_clone_device().map_err(|source| NetError::Unavailable { source })?;
        let name = || tap.to_owned();
        tap_ioctl::attach(&file, tap, multi_queue).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EBUSY) => NetError::Busy { tap: name() },
                Some(libc::EPERM | libc::EACCES) => NetError::Permission { tap: name() },
                Some(libc::EINVAL) if multi_queue => NetError::Kind {
                    tap: name(),
                    queues: "several queues",
                    flag: " multi_queue",
                },
                Some(libc::EINVAL) => NetError::Kind {
                    tap: name(),
                    queues: "a single queue",
                    flag: "",
                },
                _ => failed(tap, "attach to")(source),
            }
        })?;
        let queue = Self { file };
        tap_ioctl::set_header_bytes(queue.as_fd(), HEADER_BYTES as u8)
            .map_err(failed(tap, "set the header length of"))?;
        queue
            .set_offload(0)
            .map_err(failed(tap, "turn off the offloads of"))?;
        Ok(queue)
    }

    /// For tests: a packet socket stands in for the tap.
    #[cfg(test)]
    pub(super) fn stand_in(file: File) -> Self {
        Self { file }
    }

    /// Says which packets the guest takes unfinished.
    pub(super) fn set_offload(&self, bits: u32) -> io::Result<()> {
        tap_ioctl::set_offload(self.as_fd(), bits)
    }

    /// Sends a frame that is not in guest memory, behind its header.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(|_| ())
    }

    /// Lets the queue take part in traffic, or not. It must not be so already.
    pub(super) fn enable(&self, enable: bool) -> io::Result<()> {
        tap_ioctl::enable_queue(self.as_fd(), enable)
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for TapQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn check_pairs(found: u16) -> Result<u16, NetError> {
    if (1..=MAX_QUEUE_PAIRS).contains(&found) {
        Ok(found)
    } else {
        let max = MAX_QUEUE_PAIRS;
        Err(NetError::QueuePairs { found, max })
    }
}

/// The kernel takes `%` as a pattern for a new name, which would never be the tap that was meant.
fn check_name(tap: &str) -> Result<(), NetError> {
    let fits = (1..=tap_ioctl::MAX_NAME_BYTES).contains(&tap.len());
    let plain = tap
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"/%:".contains(&b));
    if fits && plain && tap != "." && tap != ".." {
        Ok(())
    } else {
        Err(NetError::Name { tap: tap.into() })
    }
}

fn failed(tap: &str, operation: &'static str) -> impl Fn(io::Error) -> NetError {
    move |source| NetError::Io {
        operation,
        tap: tap.into(),
        source,
    }
}
