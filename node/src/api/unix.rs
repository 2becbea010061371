//! The API on a Unix socket.

use std::fs::{self, Permissions};
use std::future::{Ready, ready};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::connection::Caller;
use super::serve::Accept;
use crate::guest_process::socket::{Socket, SocketError};

/// A socket in the file system, for its owner only unless its mode is changed. Its file goes when
/// this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    _file: Socket,
}

impl UnixSocket {
    /// Listens at `path`. A socket that nobody listens on is replaced. To be called within a runtime.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was created then.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let file = Socket::bind(path)?;
        let failed = |source| SocketError::Listen {
            path: path.into(),
            source,
        };
        let listener = file.listener().try_clone().map_err(failed)?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(failed)?,
            path: path.into(),
            _file: file,
        })
    }

    /// Opens the socket to the members of a group, who may then do everything.
    ///
    /// # Errors
    /// The kernel's answer; the socket is for its owner only then, as before.
    pub fn open_to_group(&self, group: u32) -> io::Result<()> {
        chown(&self.path, None, Some(group))?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o660))
    }
}

impl Accept for UnixSocket {
    type Stream = UnixStream;
    type Handshake = Ready<io::Result<(UnixStream, Caller)>>;

    async fn accept(&mut self) -> io::Result<Self::Handshake> {
        let (stream, _) = self.listener.accept().await?;
        let named = stream.peer_cred().map(|peer| Caller {
            name: match peer.uid() {
                0 => "root".into(),
                uid => format!("uid {uid}"),
            },
        });
        Ok(ready(named.map(|caller| (stream, caller))))
    }
}
