//! `godwit vmm`: a guest process.

use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::{ExitReason, Response, VERSIONS};
use tracing::level_filters::LevelFilter;

use super::chaos;
use super::output::{Output, log_to};
use crate::foreground::signals::Signals;
use crate::guest_process::machine::{Machine, MachineOptions};
use crate::guest_process::server::Server;
use crate::guest_process::socket::Socket;
use crate::wait::{self, Watched};

/// How often is looked whether anybody still wants this process.
const LOOK: Duration = Duration::from_secs(1);

/// Run one guest, steered through a Unix socket
///
/// The process ends with its guest, with the exit code of that end, and outlives whoever started it.
/// While it has no guest and no client it ends by itself after a while.
#[derive(Args, Debug)]
pub(super) struct Vmm {
    /// Unix socket to listen on, for this user only; removed at the end
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Append the log to this file in place of stderr
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// End when the guest resets itself
    #[arg(long)]
    no_reboot: bool,
    /// End after so long without a guest and without a client
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
    /// Write how the guest ended to this file, as the answer that clients get, for who was not there
    #[arg(long, value_name = "FILE")]
    end_file: Option<PathBuf>,
    /// Let clients have migrations of the guest fail on purpose
    #[arg(long, help_heading = chaos::HEADING)]
    chaos: bool,
}

impl Vmm {
    pub(super) fn execute(&self) -> ExitCode {
        let output = Output::default();
        match self.run() {
            Ok(reason) => output.exit(&reason),
            Err(error) => output.fail(&error),
        }
    }

    fn run(&self) -> Result<ExitReason, CodedError> {
        let failed = |error: std::io::Error| CodedError::from_error(ErrorCode::Other, &error);
        let log_file = self.log_file.as_ref().map(|path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| {
                let message = format!("cannot log to {}: {error}", path.display());
                CodedError::new(ErrorCode::Other, message).with_fix("check the path")
            })
        });
        log_to(self.log, log_file.transpose()?);
        let signals = Signals::install().map_err(failed)?;
        let machine = Machine::new(MachineOptions {
            end_on_reset: self.no_reboot,
            attachable: true,
            chaos: self.chaos,
            ..MachineOptions::default()
        })
        .map_err(failed)?;
        let socket = Socket::bind(&self.socket).map_err(|error| error.coded())?;
        let server = Server::start(socket, machine.clone()).map_err(failed)?;
        loop {
            let ended = machine.ended();
            let watched = [Watched::readable(&ended), Watched::readable(&signals)];
            // Only a process without a guest has to look at the clock.
            let look = machine.is_empty().then(|| Instant::now() + LOOK);
            let [ended, signalled] = wait::ready(watched, look).map_err(failed)?;
            if ended || signalled {
                break;
            }
            if machine.is_empty() && server.idle_for(Duration::from_secs(self.idle)) {
                let message = format!("nobody wanted a guest for {} s", self.idle);
                let error = CodedError::new(ErrorCode::Other, message);
                machine.end(ExitReason::Failed(error));
                break;
            }
        }
        let reason = machine.end(ExitReason::Stopped);
        if let Some(path) = &self.end_file
            && let Err(error) = write_end(path, &reason)
        {
            tracing::warn!(%error, path = %path.display(), "the end of the guest is not written down");
        }
        drop(server);
        Ok(reason)
    }
}

/// Writes a frame that a client would get, so that nobody sees half of it.
fn write_end(path: &Path, reason: &ExitReason) -> Result<(), Box<dyn Error>> {
    let frame = Response::Exited(reason.clone()).to_frame(VERSIONS.newest())?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, frame)?;
    Ok(std::fs::rename(&partial, path)?)
}
