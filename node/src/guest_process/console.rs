//! Where a guest's serial port and console lead: this process's own input and output, a file, a
//! socket, and clients that attach.
//!
//! Output to stdout waits until stdout takes it, or until the guest is to end: a reader that stalls may
//! hold up the guest, as a user who pipes it into a pager wants, but not the end of the process. Files
//! are written at their own pace. No client of a socket holds up anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, PipeWriter};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{GuestSpec, SerialSpec};
use godwit_proto::process::ConsoleKind;
use godwit_vmm::devices::terminal::{
    Hub, HubSink, InputPort, InputPump, NullSink, Sink, WriteSink,
};
use godwit_vmm::devices::virtio::console::{Console, ConsoleHandle};
use godwit_vmm::guest::{Attachments, Guest};

use super::socket::{Socket, SocketError};
use crate::wait::{self, Flag, Watched};

/// Why a serial port or console cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Only one of them can have the terminal.
    #[error("the serial port and the console cannot both be on stdio")]
    TwoOnStdio,
    /// The file does not open.
    #[error("cannot append to {path:?} for the {which}")]
    File {
        /// `serial port` or `console`.
        which: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The socket does not open.
    #[error("the {which} has no socket")]
    Socket {
        /// `serial port` or `console`.
        which: &'static str,
        /// What is wrong.
        #[source]
        source: SocketError,
    },
    /// A helper cannot be had.
    #[error("cannot connect the {which}")]
    Connect {
        /// `serial port` or `console`.
        which: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ConsoleError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        let code = match self {
            Self::TwoOnStdio => ErrorCode::ConfigInvalid,
            _ => ErrorCode::Console,
        };
        CodedError::from_error(code, self).with_fix(match self {
            Self::TwoOnStdio => "give one of them null, file:PATH or socket:PATH",
            Self::File { .. } => "check the path and its permissions",
            Self::Socket { .. } => "use a path of its own, in a directory that exists",
            Self::Connect { .. } => "look at the limits on files and threads of this process",
        })
    }
}

const SERIAL: &str = "serial port";
const CONSOLE: &str = "console";

/// The outer ends of a guest's consoles, before there is a guest. Dropping it removes what it made.
pub(super) struct Ends {
    serial: End,
    console: Option<(End, ConsoleHandle)>,
    leaving: Arc<Flag>,
}

/// The outer end of one console.
struct End {
    name: &'static str,
    /// Where attached clients get their output from.
    clients: Option<HubSink>,
    socket: Option<Socket>,
    file: Option<NewFile>,
    stdio: bool,
}

impl Ends {
    /// Opens what `spec` asks for. Clients may attach later if `attachable`.
    pub(super) fn open(
        spec: &GuestSpec,
        attachable: bool,
    ) -> Result<(Self, Attachments), ConsoleError> {
        if spec.serial == SerialSpec::Stdio && spec.console == Some(SerialSpec::Stdio) {
            return Err(ConsoleError::TwoOnStdio);
        }
        let connect = |which| move |source| ConsoleError::Connect { which, source };
        let leaving = Arc::new(Flag::new().map_err(connect(SERIAL))?);
        let (serial, sink) = End::open(SERIAL, &spec.serial, attachable, &leaving)?;
        let mut attachments = Attachments {
            serial: sink,
            ..Attachments::default()
        };
        let mut console = None;
        if let Some(spec) = &spec.console {
            let (end, sink) = End::open(CONSOLE, spec, attachable, &leaving)?;
            let (device, handle) = Console::new(sink, None).map_err(connect(CONSOLE))?;
            attachments.console = Some(device);
            console = Some((end, handle));
        }
        let ends = Self {
            serial,
            console,
            leaving,
        };
        Ok((ends, attachments))
    }

    /// Connects them with the guest that was built with their attachments.
    pub(super) fn connect(self, guest: &Guest) -> Result<Consoles, ConsoleError> {
        let console = self
            .console
            .map(|(end, handle)| end.connect(Arc::new(handle)));
        Ok(Consoles {
            serial: self.serial.connect(guest.serial().clone())?,
            console: console.transpose()?,
            leaving: self.leaving,
        })
    }
}

impl End {
    fn open(
        name: &'static str,
        spec: &SerialSpec,
        attachable: bool,
        leaving: &Arc<Flag>,
    ) -> Result<(Self, Box<dyn Sink>), ConsoleError> {
        let connect = |source| ConsoleError::Connect {
            which: name,
            source,
        };
        let mut end = Self {
            name,
            clients: None,
            socket: None,
            file: None,
            stdio: *spec == SerialSpec::Stdio,
        };
        let own: Option<Box<dyn Sink>> = match spec {
            SerialSpec::Null => None,
            SerialSpec::Stdio => Some(Box::new(StdoutSink::new(leaving.clone()).map_err(connect)?)),
            SerialSpec::File(path) => {
                let path = Path::new(path);
                let (file, new) = append_to(path).map_err(|source| ConsoleError::File {
                    which: name,
                    path: path.into(),
                    source,
                })?;
                end.file = new;
                Some(Box::new(WriteSink::new(file)))
            }
            SerialSpec::Socket(path) => {
                let socket = Socket::bind(Path::new(path));
                end.socket = Some(socket.map_err(|source| ConsoleError::Socket {
                    which: name,
                    source,
                })?);
                None
            }
        };
        if attachable || end.socket.is_some() {
            end.clients = Some(HubSink::new().map_err(connect)?);
        }
        let sink: Box<dyn Sink> = match (own, &end.clients) {
            (None, None) => Box::new(NullSink),
            (None, Some(clients)) => Box::new(clients.clone()),
            (Some(own), None) => own,
            (Some(own), Some(clients)) => Box::new(Both(own, clients.clone())),
        };
        Ok((end, sink))
    }

    fn connect(self, port: Arc<dyn InputPort>) -> Result<Connected, ConsoleError> {
        let connect = |source| ConsoleError::Connect {
            which: self.name,
            source,
        };
        let listener = self
            .socket
            .as_ref()
            .map(|socket| socket.listener().try_clone());
        let listener = listener.transpose().map_err(connect)?;
        let hub = match &self.clients {
            Some(clients) => {
                Some(Hub::spawn(clients, listener, Some(port.clone())).map_err(connect)?)
            }
            None => None,
        };
        if let Some(file) = self.file {
            file.keep();
        }
        Ok(Connected {
            hub,
            port,
            stdio: self.stdio,
            _socket: self.socket,
        })
    }
}

/// The consoles of a guest.
pub(super) struct Consoles {
    serial: Connected,
    console: Option<Connected>,
    leaving: Arc<Flag>,
}

struct Connected {
    hub: Option<Hub>,
    port: Arc<dyn InputPort>,
    stdio: bool,
    _socket: Option<Socket>,
}

impl Consoles {
    /// Whether a client could attach to this one.
    pub(super) fn can_attach(&self, which: ConsoleKind) -> Result<(), CodedError> {
        self.hub(which).map(|_| ())
    }

    /// Connects a client.
    pub(super) fn attach(&self, which: ConsoleKind, stream: UnixStream) -> Result<(), CodedError> {
        self.hub(which).map(|hub| hub.attach(stream))
    }

    /// A pipe to the console that is on stdio, and what carries its bytes to the guest; `None` when
    /// none is. The pipe is full when the guest does not read.
    pub(super) fn stdin(&self) -> io::Result<Option<(PipeWriter, InputPump)>> {
        let mut all = [Some(&self.serial), self.console.as_ref()]
            .into_iter()
            .flatten();
        let Some(connected) = all.find(|connected| connected.stdio) else {
            return Ok(None);
        };
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let pump = InputPump::spawn(reader, connected.port.clone())?;
        Ok(Some((writer, pump)))
    }

    /// From now on nobody waits for a reader of stdout.
    pub(super) fn leave(&self) {
        self.leaving.raise();
    }

    fn hub(&self, which: ConsoleKind) -> Result<&Hub, CodedError> {
        let connected = match which {
            ConsoleKind::Serial => Some(&self.serial),
            ConsoleKind::Virtio => self.console.as_ref(),
        };
        let connected = connected.ok_or_else(|| {
            CodedError::new(ErrorCode::Console, "the guest has no virtio console")
                .with_fix("create it with one, or attach to the serial port")
        })?;
        connected.hub.as_ref().ok_or_else(|| {
            CodedError::new(ErrorCode::Console, "this guest's consoles take no clients")
        })
    }
}

/// Output for two.
struct Both(Box<dyn Sink>, HubSink);

impl Sink for Both {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
}

/// Output to stdout, without a buffer of its own.
struct StdoutSink {
    out: WriteSink<File>,
    fd: File,
    leaving: Arc<Flag>,
}

impl StdoutSink {
    /// Most bytes that a pipe or terminal that reports room takes without blocking (`PIPE_BUF`).
    const PIECE: usize = 4096;

    fn new(leaving: Arc<Flag>) -> io::Result<Self> {
        let fd = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self {
            out: WriteSink::new(fd.try_clone()?),
            fd,
            leaving,
        })
    }
}

impl Sink for StdoutSink {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(Self::PIECE) {
            let watched = [
                Watched::writable(&self.fd),
                Watched::readable(&*self.leaving),
            ];
            match wait::ready(watched, None) {
                Ok([false, _]) => return,
                // An error shows itself again in the write, which counts it.
                _ => self.out.write(piece),
            }
        }
    }
}

/// A file that is removed again when nothing comes of the guest.
struct NewFile(Option<PathBuf>);

impl NewFile {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "an empty file is left behind");
        }
    }
}

/// Opens a file at its end; says when it was made for that.
fn append_to(path: &Path) -> io::Result<(File, Option<NewFile>)> {
    let mut options = OpenOptions::new();
    options.append(true);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, Some(NewFile(Some(path.into()))))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.open(path).map(|file| (file, None))
        }
        Err(error) => Err(error),
    }
}
