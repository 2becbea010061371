//! The steering end of the socket of a guest process.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::GuestSpec;
use godwit_proto::id::{Epoch, MigrationId};
use godwit_proto::process::{
    AwaitRequest, ConsoleKind, ExitReason, GuestStats, Mandate, MigrateRequest, Overrides, Proof,
    RESPONSE_LIMITS, Request, Response, SnapshotReport, Standing, VERSIONS,
};
use godwit_vmm::guest::Heirloom;

use super::connection::{Connection, ConnectionError, Received};
use super::handover;

/// How long an answer may take: a snapshot of a large guest to a slow disk is the longest.
const ANSWER_TIME: Duration = Duration::from_secs(3600);

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach a guest process at {socket:?}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The guest process refused.
    #[error(transparent)]
    Refused(CodedError),
    /// The guest has ended.
    #[error("the guest has ended: {}", super::exit::describe(.0))]
    Exited(ExitReason),
    /// The answer does not fit the question.
    #[error("the guest process gave a wrong kind of answer to {request}")]
    WrongAnswer {
        /// What was asked.
        request: &'static str,
    },
}

impl ClientError {
    /// The failure as told to a user.
    #[must_use]
    pub fn coded(&self) -> CodedError {
        match self {
            Self::Connect { .. } => CodedError::from_error(ErrorCode::Other, self)
                .with_fix("start one with `godwit vmm`, or `godwit run --socket`"),
            Self::Connection(error) => error.coded(),
            Self::Refused(error) => error.clone(),
            Self::Exited(_) => CodedError::from_error(ErrorCode::WrongState, self),
            Self::WrongAnswer { .. } => CodedError::from_error(ErrorCode::PeerProtocol, self),
        }
    }
}

/// How a migration ended.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Whether the guest runs at the target.
    pub moved: bool,
    /// The receipt as JSON.
    pub receipt: String,
    /// The receipt for people.
    pub table: String,
}

/// What a migration would be like.
#[derive(Clone, Debug)]
pub struct Forecasted {
    /// As JSON.
    pub forecast: String,
    /// For people.
    pub table: String,
}

/// A client of a guest process.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    version: u16,
}

impl Client {
    /// Connects and settles on a version.
    ///
    /// # Errors
    /// Nobody listens, or no godwit does.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| ClientError::Connect {
            socket: socket.into(),
            source,
        })?;
        Ok(Self::over(stream)?)
    }

    pub(super) fn over(stream: UnixStream) -> Result<Self, ConnectionError> {
        let mut connection = Connection::new(stream, RESPONSE_LIMITS)?;
        match connection.send_hello(VERSIONS) {
            // Who turns us away hangs up after saying why: that is still to be read.
            Ok(()) | Err(ConnectionError::Closed) => {}
            Err(error) => return Err(error),
        }
        let version = connection.receive_hello(VERSIONS)?;
        Ok(Self {
            connection,
            version,
        })
    }

    /// The version of the protocol that is spoken.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] and [`ClientError::Exited`] for those answers.
    pub fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        let frame = request
            .to_frame(self.version)
            .map_err(ConnectionError::from)?;
        match self.connection.send(&frame) {
            // Who ends hangs up after saying why: that is still to be read.
            Ok(()) | Err(ConnectionError::Closed) => self.response(),
            Err(error) => Err(error.into()),
        }
    }

    /// Builds a guest.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn create(&mut self, spec: &GuestSpec) -> Result<(), ClientError> {
        self.done("create", &Request::Create(spec.clone()))
    }

    /// Builds a guest from a snapshot.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn restore(
        &mut self,
        dir: &str,
        lazy: bool,
        overrides: Overrides,
    ) -> Result<(), ClientError> {
        let dir = dir.into();
        self.done(
            "restore",
            &Request::Restore {
                dir,
                lazy,
                overrides,
            },
        )
    }

    /// Lets a new guest run.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn start(&mut self) -> Result<(), ClientError> {
        self.done("start", &Request::Start)
    }

    /// Pauses a running guest.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn pause(&mut self) -> Result<(), ClientError> {
        self.done("pause", &Request::Pause)
    }

    /// Lets a paused guest run.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn resume(&mut self) -> Result<(), ClientError> {
        self.done("resume", &Request::Resume)
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn press_power_button(&mut self) -> Result<(), ClientError> {
        self.done("power-button", &Request::PowerButton)
    }

    /// Resets the guest.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn reset(&mut self) -> Result<(), ClientError> {
        self.done("reset", &Request::Reset)
    }

    /// The state of a paused guest, as records.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn save(&mut self) -> Result<Vec<u8>, ClientError> {
        match self.request(&Request::Save)? {
            Response::Saved(state) => Ok(state),
            _ => Err(ClientError::WrongAnswer { request: "save" }),
        }
    }

    /// Writes a snapshot to a new directory, by an absolute path.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn snapshot(&mut self, dir: &str) -> Result<SnapshotReport, ClientError> {
        match self.request(&Request::Snapshot { dir: dir.into() })? {
            Response::Snapshot(report) => Ok(report),
            _ => Err(ClientError::WrongAnswer {
                request: "snapshot",
            }),
        }
    }

    /// Moves the guest; waits until that is over, however long it takes.
    ///
    /// # Errors
    /// As [`Client::request`]; the guest runs on then.
    pub fn migrate(&mut self, request: MigrateRequest) -> Result<Moved, ClientError> {
        match self.request(&Request::Migrate(request))? {
            Response::Migrated {
                moved,
                receipt,
                table,
            } => Ok(Moved {
                moved,
                receipt,
                table,
            }),
            _ => Err(ClientError::WrongAnswer { request: "migrate" }),
        }
    }

    /// Forecasts what [`Client::migrate`] would do, watching the guest for about `watch`.
    ///
    /// # Errors
    /// As [`Client::request`]; every reason for which the target does not take the guest.
    pub fn forecast(
        &mut self,
        migrate: MigrateRequest,
        watch: Duration,
    ) -> Result<Forecasted, ClientError> {
        let watch_ms = u64::try_from(watch.as_millis()).unwrap_or(u64::MAX);
        let migrate = Box::new(migrate);
        match self.request(&Request::Forecast { migrate, watch_ms })? {
            Response::Forecast { forecast, table } => Ok(Forecasted { forecast, table }),
            _ => Err(ClientError::WrongAnswer {
                request: "forecast",
            }),
        }
    }

    /// The progress of a migration under way as JSON; `None` when there is none.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn migration_progress(&mut self) -> Result<Option<String>, ClientError> {
        match self.request(&Request::MigrationProgress)? {
            Response::Migrating(progress) => Ok(progress),
            _ => Err(ClientError::WrongAnswer {
                request: "migration-progress",
            }),
        }
    }

    /// Asks to leave the guest where it is.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn cancel_migration(&mut self) -> Result<(), ClientError> {
        self.done("cancel-migration", &Request::CancelMigration)
    }

    /// Has the next migration meet `faults`, each of the form `source:STEP[@N]=FAULT`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn inject_faults(&mut self, faults: &[String]) -> Result<(), ClientError> {
        let faults = faults.to_vec();
        self.done("inject-faults", &Request::InjectFaults { faults })
    }

    /// Gives the guest's process a right to run its guest.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn mandate(&mut self, mandate: Mandate) -> Result<(), ClientError> {
        self.done("mandate", &Request::Mandate(mandate))
    }

    /// Proves that the right holds for longer.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn prove(&mut self, proof: Proof) -> Result<(), ClientError> {
        self.done("prove", &Request::Prove(proof))
    }

    /// Says whether the guest could be started elsewhere.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn set_leased(&mut self, leased: bool) -> Result<(), ClientError> {
        self.done("set-leased", &Request::SetLeased(leased))
    }

    /// Says that the guest belongs to somebody else, under this epoch.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn revoke(&mut self, epoch: Epoch) -> Result<(), ClientError> {
        self.done("revoke", &Request::Revoke(epoch))
    }

    /// What became of the right, and how a move is.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn standing(&mut self) -> Result<Standing, ClientError> {
        match self.request(&Request::Standing)? {
            Response::Standing(standing) => Ok(standing),
            _ => Err(ClientError::WrongAnswer {
                request: "standing",
            }),
        }
    }

    /// Has the process wait for a guest; where, and the permission to come.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn await_guest(&mut self, request: AwaitRequest) -> Result<(String, String), ClientError> {
        match self.request(&Request::Await(request))? {
            Response::Awaiting { address, token } => Ok((address, token)),
            _ => Err(ClientError::WrongAnswer { request: "await" }),
        }
    }

    /// Begins to move the guest.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn leave(
        &mut self,
        migration: MigrationId,
        request: MigrateRequest,
    ) -> Result<(), ClientError> {
        self.done("leave", &Request::Leave { migration, request })
    }

    /// Lets the migration under way hand the guest over.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn open_window(&mut self) -> Result<(), ClientError> {
        self.done("open-window", &Request::OpenWindow)
    }

    /// The memory and the taps of the guest, which is under way to this process of the same host; or the
    /// memory of one that left by the migration that is returned.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn take_over(mut self) -> Result<(Heirloom, Option<MigrationId>), ClientError> {
        let Response::HandedOver { taps, left_by } = self.request(&Request::HandOver)? else {
            return Err(ClientError::WrongAnswer {
                request: "hand-over",
            });
        };
        let queues: usize = taps.iter().map(|tap| usize::from(tap.queues)).sum();
        let (stream, _) = self.connection.into_stream();
        let mut files = handover::receive(&stream, 1 + queues)
            .map_err(ConnectionError::from)?
            .into_iter();
        let memory = files.next().expect("one more than the queues was received");
        let taps = taps.into_iter().map(|tap| {
            let queues = files.by_ref().take(tap.queues.into()).collect();
            (tap.id, queues)
        });
        let taps = left_by.is_none().then(|| taps.collect());
        Ok((Heirloom { memory, taps }, left_by))
    }

    /// Counters.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn stats(&mut self) -> Result<GuestStats, ClientError> {
        match self.request(&Request::Stats)? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(ClientError::WrongAnswer { request: "stats" }),
        }
    }

    /// Stops the guest and its process.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn stop(mut self) -> Result<ExitReason, ClientError> {
        match self.request(&Request::Stop) {
            Err(ClientError::Exited(reason)) => Ok(reason),
            Err(error) => Err(error),
            Ok(_) => Err(ClientError::WrongAnswer { request: "stop" }),
        }
    }

    /// Waits for the guest's end.
    ///
    /// # Errors
    /// The end does not come within `patience`, or the connection breaks.
    pub fn wait_exit(mut self, patience: Duration) -> Result<ExitReason, ClientError> {
        match self.receive(patience) {
            Err(ClientError::Exited(reason)) => Ok(reason),
            Err(error) => Err(error),
            Ok(_) => Err(ClientError::WrongAnswer { request: "nothing" }),
        }
    }

    /// Turns the stream into a console's: raw bytes both ways.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn attach_console(mut self, which: ConsoleKind) -> Result<ConsoleStream, ClientError> {
        self.done("attach-console", &Request::AttachConsole { which })?;
        let (stream, received) = self.connection.into_stream();
        stream
            .set_nonblocking(false)
            .map_err(ConnectionError::from)?;
        Ok(ConsoleStream { stream, received })
    }

    fn done(&mut self, name: &'static str, request: &Request) -> Result<(), ClientError> {
        match self.request(request)? {
            Response::Ok => Ok(()),
            _ => Err(ClientError::WrongAnswer { request: name }),
        }
    }

    fn response(&mut self) -> Result<Response, ClientError> {
        self.receive(ANSWER_TIME)
    }

    fn receive(&mut self, patience: Duration) -> Result<Response, ClientError> {
        let Received::Frame(frame) = self.connection.receive(None, Some(patience))? else {
            return Err(ConnectionError::Closed.into());
        };
        match Response::from_frame(&frame).map_err(ConnectionError::from)? {
            Response::Error(error) => Err(ClientError::Refused(error)),
            Response::Exited(reason) => Err(ClientError::Exited(reason)),
            response => Ok(response),
        }
    }
}

/// A console as raw bytes.
#[derive(Debug)]
pub struct ConsoleStream {
    /// What the guest writes comes out of it, what is written to it goes to the guest.
    pub stream: UnixStream,
    /// The guest's first bytes, which came together with the answer.
    pub received: Vec<u8>,
}
