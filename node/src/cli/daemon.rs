//! `godwit node`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use godwit_proto::codes::{CodedError, ErrorCode};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::output::{Output, log_to};
use crate::daemon::config::DataDir;
use crate::daemon::{self, Options};

/// Where a node's files are unless it is said otherwise.
pub(super) const DATA_DIR: &str = "/var/lib/godwit";

/// What a daemon is told.
#[derive(Args, Debug)]
#[command(next_help_heading = "Running this machine's node")]
pub(super) struct Daemon {
    /// Directory of the node, as `godwit cluster init` or `godwit cluster join` made it
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
}

impl Daemon {
    /// Runs until it is told to end; the API is at `socket`.
    pub(super) fn execute(&self, socket: PathBuf) -> ExitCode {
        match self.run(socket) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Output::default().fail(&error),
        }
    }

    fn run(&self, socket: PathBuf) -> Result<(), CodedError> {
        let failed = |error: std::io::Error| CodedError::from_error(ErrorCode::Other, &error);
        log_to(self.log, None);
        let options = Options {
            data: DataDir::open(&self.data_dir)?,
            socket,
            program: std::env::current_exe().map_err(failed)?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let stop = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            daemon::run(options, stop).await
        })?;
        // Threads may wait for guest processes, which go on.
        runtime.shutdown_background();
        Ok(())
    }
}
