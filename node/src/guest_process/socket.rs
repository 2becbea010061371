//! The Unix socket of a guest process: made for its owner alone, taken over when nobody listens any
//! more, removed at the end.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long another process may take to bind a socket in the same directory.
const BIND_TURN: Duration = Duration::from_secs(5);
/// Connections that wait for being accepted.
const BACKLOG: i32 = 16;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit the kernel's address.
    #[error("socket path {path:?} has {length} bytes, Unix sockets take at most 107")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// Somebody listens there.
    #[error("another process listens on socket {path:?}")]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{path:?} exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot listen on socket {path:?}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        CodedError::from_error(ErrorCode::Other, self).with_fix(match self {
            Self::TooLong { .. } => "use a shorter path",
            Self::Taken { .. } => "use another path, or stop that process",
            Self::NotASocket { .. } => "use another path, or remove the file",
            Self::Listen { .. } => "check the directory and its permissions",
        })
    }
}

/// A listening socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to leave alone what another process put in our place.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, for this user only. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was created then.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Listen {
            path: path.into(),
            source,
        };
        let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong {
            path: path.into(),
            length: path.as_os_str().len(),
        })?;
        // Two processes that find the same stale socket must not remove each other's.
        let _turn = take_turn(path).map_err(failed)?;
        remove_stale(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| failed(error.into()))?;
        // The kernel gives the file the mode of the unbound socket, so it is never open to others.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .and_then(|()| rustix::net::bind(&socket, &address))
            .map_err(|error| failed(error.into()))?;
        let identity = fs::symlink_metadata(path).map_err(failed)?;
        let socket = Self {
            listener: socket.into(),
            path: path.into(),
            identity: (identity.dev(), identity.ino()),
        };
        rustix::net::listen(&socket.listener, BACKLOG).map_err(|error| failed(error.into()))?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// The socket itself; it does not block.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

/// Locks the directory of `path` until the result is dropped.
fn take_turn(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    let deadline = Instant::now() + BIND_TURN;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.into(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(failed(error)),
        // Connected, or its backlog is full.
        _ => Err(SocketError::Taken { path: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_and_goes_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_somebody_listens_on_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.sock");
        let _first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Taken { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_its_successor_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let long = dir.path().join("x".repeat(200));
        let error = Socket::bind(&long).unwrap_err();
        assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
        let nowhere = dir.path().join("no/such/dir");
        let error = Socket::bind(&nowhere).unwrap_err();
        assert!(matches!(error, SocketError::Listen { .. }), "{error}");
    }
}
