//! `godwit run`, and what it shares with `godwit restore`: a guest in the foreground, in this process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::ExitReason;
use godwit_vmm::guest::DirtyTracking;
use tracing::level_filters::LevelFilter;

use super::chaos;
use super::guest_args::GuestArgs;
use super::output::{Output, log_to};
use crate::foreground::Foreground;
use crate::foreground::signals::Signals;
use crate::guest_process::machine::{Machine, MachineOptions};
use crate::guest_process::server::Server;
use crate::guest_process::socket::Socket;

/// Keys, for the help.
pub(super) const KEYS: &str = "\
Keys (also when stdin is not a terminal):
  Ctrl-A x       stop the guest and leave
  Ctrl-A s       write a snapshot into --snapshot-dir, as DIR/0001 and so on
  Ctrl-A p       press the power button
  Ctrl-A r       reset the guest
  Ctrl-A h       show these keys
  Ctrl-A Ctrl-A  send Ctrl-A to the guest
The end of stdin does not end the guest; the loss of stdout's reader does.";

const EXAMPLES: &str = "\
Examples:
  godwit run
      the built-in test guest, with a heartbeat every 100 ms
  godwit run --cmdline 'heartbeat=1000 dirty=64M,rate:1000'
      the same with work to do
  godwit run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2 \\
      --disk root.img --net tap=tap0 --cmdline 'console=ttyS0 root=/dev/vda1'
      Linux
  godwit run --snapshot-dir snaps     (Ctrl-A s, Ctrl-A x, and then)
  godwit restore snaps/0001

Exit codes are listed by `godwit --help`.";

/// Run a guest in the foreground, with its console on this terminal
#[derive(Args, Debug)]
#[command(after_help = format!("{KEYS}\n\n{EXAMPLES}"))]
pub(super) struct Run {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    foreground: ForegroundArgs,
}

impl Run {
    pub(super) fn execute(&self) -> ExitCode {
        let spec = self.guest.spec();
        self.foreground
            .execute(|machine, _signals| machine.create(&spec))
    }
}

/// How written pages are found.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum DirtyLogArg {
    /// As it suits the host's kernel best
    Auto,
    /// A bit for each page
    Bitmap,
    /// A ring for each vCPU
    Ring,
}

impl From<DirtyLogArg> for DirtyTracking {
    fn from(arg: DirtyLogArg) -> Self {
        match arg {
            DirtyLogArg::Auto => Self::Auto,
            DirtyLogArg::Bitmap => Self::Bitmap,
            DirtyLogArg::Ring => Self::Ring,
        }
    }
}

/// How a guest runs in the foreground.
#[derive(Args, Clone, Debug)]
pub(super) struct ForegroundArgs {
    /// Where Ctrl-A s writes snapshots; created when missing
    #[arg(long, value_name = "DIR")]
    snapshot_dir: Option<PathBuf>,
    /// Serve the control protocol on this Unix socket (see `godwit vmm-ctl --help`)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How pages that the guest writes are found while it is moved from here
    #[arg(long, value_enum, default_value_t = DirtyLogArg::Auto, value_name = "KIND")]
    dirty_log: DirtyLogArg,
    /// Exit when the guest resets itself
    #[arg(long)]
    no_reboot: bool,
    /// What is logged to stderr: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: LevelFilter,
    /// Write messages to stderr as JSON, one document per line
    #[arg(long)]
    json: bool,
    /// Let migrations of the guest fail on purpose, and this process be killed for that (see --inject of
    /// `godwit migrate`)
    #[arg(long, help_heading = chaos::HEADING)]
    chaos: bool,
}

impl ForegroundArgs {
    /// Logs as asked from here on; how to talk to the user.
    pub(super) fn begin(&self) -> Output {
        log_to(self.log, None);
        Output { json: self.json }
    }

    /// Has `build` make a guest, and runs it to its end.
    pub(super) fn execute(
        &self,
        build: impl FnOnce(&Arc<Machine>, Signals) -> Result<(), CodedError>,
    ) -> ExitCode {
        let output = self.begin();
        match self.run(output, build) {
            Ok(reason) => output.exit(&reason),
            Err(error) => output.fail(&error),
        }
    }

    fn run(
        &self,
        output: Output,
        build: impl FnOnce(&Arc<Machine>, Signals) -> Result<(), CodedError>,
    ) -> Result<ExitReason, CodedError> {
        let failed = |error: std::io::Error| CodedError::from_error(ErrorCode::Other, &error);
        let signals = Signals::install().map_err(failed)?;
        let machine = Machine::new(MachineOptions {
            end_on_reset: self.no_reboot,
            attachable: self.socket.is_some(),
            dirty_tracking: self.dirty_log.into(),
            chaos: self.chaos,
        })
        .map_err(failed)?;
        let socket = self.socket.as_deref().map(Socket::bind).transpose();
        let socket = socket.map_err(|error| error.coded())?;
        build(&machine, signals)?;
        let server = socket.map(|socket| Server::start(socket, machine.clone()));
        let server = server.transpose().map_err(failed)?;
        let foreground = Foreground::new(machine, output, self.snapshot_dir.clone());
        let ended = foreground.run(signals);
        drop(server);
        ended
    }
}
