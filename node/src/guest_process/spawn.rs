//! Starting a guest process, and finding one that runs.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::client::{Client, ClientError};

/// From the start of a process to its listening socket.
const START_TIME: Duration = Duration::from_secs(10);
/// How often is looked whether it listens.
const START_STEP: Duration = Duration::from_millis(1);
/// The socket and the log, in the directory of the process.
const SOCKET: &str = "guest.sock";
const LOG: &str = "guest.log";

/// Why there is no guest process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It could not be started.
    #[error("cannot start {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("the guest process ended at once ({status}); it said: {said}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last error in its log.
        said: String,
    },
    /// It does not listen.
    #[error("the guest process does not listen on {socket:?} after {} s", START_TIME.as_secs())]
    Silent {
        /// Its socket.
        socket: PathBuf,
    },
    /// It cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The process behind the socket cannot be told.
    #[error("cannot tell which process listens on {socket:?}")]
    Identify {
        /// Its socket.
        socket: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl SpawnError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        match self {
            Self::Client(error) => error.coded(),
            _ => CodedError::from_error(ErrorCode::Other, self)
                .with_fix("look at the log beside the socket"),
        }
    }
}

/// A guest process, started by us or found.
#[derive(Debug)]
pub struct GuestProcess {
    socket: PathBuf,
    pid: Pid,
    /// Set when it is our child, which must be waited for.
    child: Option<Child>,
    kill_on_drop: bool,
}

impl GuestProcess {
    /// Starts `program vmm` with its socket (`guest.sock`) and log (`guest.log`) in `dir`, which
    /// exists, and waits until it listens.
    ///
    /// The process is in a process group of its own: keys typed at our terminal do not reach it.
    ///
    /// # Errors
    /// [`SpawnError`]; no process is left then.
    pub fn spawn(program: &Path, dir: &Path) -> Result<Self, SpawnError> {
        Self::spawn_with(program, dir, &[])
    }

    /// As [`GuestProcess::spawn`], with more arguments.
    ///
    /// # Errors
    /// As [`GuestProcess::spawn`].
    pub fn spawn_with(
        program: &Path,
        dir: &Path,
        arguments: &[OsString],
    ) -> Result<Self, SpawnError> {
        let failed = |source| SpawnError::Start {
            program: program.into(),
            source,
        };
        let (socket, log) = (dir.join(SOCKET), dir.join(LOG));
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(failed)?;
        let child = Command::new(program)
            .arg("vmm")
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stderr.try_clone().map_err(failed)?)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = Pid::from_child(&child);
        let mut process = Self {
            socket,
            pid,
            child: Some(child),
            kill_on_drop: true,
        };
        process.await_socket(&log)?;
        process.kill_on_drop = false;
        Ok(process)
    }

    /// Finds the process that listens on `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or no godwit does.
    pub fn adopt(socket: &Path) -> Result<Self, SpawnError> {
        let identify = |source: io::Error| SpawnError::Identify {
            socket: socket.into(),
            source,
        };
        Client::connect(socket)?;
        let pid = peer(socket).map_err(identify)?;
        Ok(Self {
            socket: socket.into(),
            pid,
            child: None,
            kill_on_drop: false,
        })
    }

    /// Whether the process is killed when this is dropped. It is not unless said so here.
    #[must_use]
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket)
    }

    /// Waits for its end; `None` when it still runs after `patience`. The status is known of
    /// children only.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<Option<ExitStatus>>> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            return Ok(Some(Some(status)));
        }
        let process = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(Some(None)),
            Err(error) => return Err(error.into()),
        };
        let deadline = Instant::now() + patience;
        if !crate::wait::ready([crate::wait::Watched::readable(&process)], Some(deadline))?[0] {
            return Ok(None);
        }
        match &mut self.child {
            Some(child) => child.wait().map(|status| Some(Some(status))),
            None => Ok(Some(None)),
        }
    }

    /// Kills it, without a word to the guest.
    fn kill(&mut self) {
        match &mut self.child {
            Some(child) => {
                // The child is ours until it is waited for, so this is nobody else's pid.
                let killed = child.kill().and_then(|()| child.wait());
                if let Err(error) = killed {
                    tracing::warn!(%error, "cannot kill a guest process");
                }
            }
            None => {
                if let Ok(process) = pidfd_open(self.pid, PidfdFlags::empty()) {
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                }
            }
        }
    }

    fn await_socket(&mut self, log: &Path) -> Result<(), SpawnError> {
        let deadline = Instant::now() + START_TIME;
        while Instant::now() < deadline {
            // Another process may hold the socket; then ours will end and say so.
            if peer(&self.socket).is_ok_and(|pid| pid == self.pid) {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let mut lines = text.lines().rev();
                let said = lines.find(|line| line.starts_with("error: "));
                let said = said.unwrap_or("nothing").into();
                return Err(SpawnError::Ended { status, said });
            }
            thread::sleep(START_STEP);
        }
        Err(SpawnError::Silent {
            socket: self.socket.clone(),
        })
    }
}

/// The process that listens on `socket`.
fn peer(socket: &Path) -> io::Result<Pid> {
    let stream = UnixStream::connect(socket)?;
    Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid)
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        if self.kill_on_drop {
            self.kill();
        }
    }
}
