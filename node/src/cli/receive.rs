//! `godwit receive`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use godwit_migration::fault::Side;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::SerialSpec;
use godwit_proto::process::{DiskOverride, NetOverride};

use super::chaos;
use super::guest_args::{Assignment, SerialArg};
use super::run::{ForegroundArgs, KEYS};
use crate::foreground::signals::Signals;
use crate::migrate::{self, Door, Here};

const EXAMPLES: &str = "\
Examples:
  godwit receive --listen 192.0.2.7:7401
      prints the command that moves a guest here, with a token that is good for
      one migration, and then runs that guest in the foreground
  godwit receive --listen 127.0.0.1:0 --serial null --token-file token

Exit codes are listed by `godwit --help`.";

/// Take a guest over that is moved here, and run it in the foreground
#[derive(Args, Debug)]
#[command(after_help = format!("{KEYS}\n\n{EXAMPLES}"))]
pub(super) struct Receive {
    /// Address to listen on (UDP); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Also write the address and the token to this file, each on a line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long to wait for the guest, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    patience: u64,
    /// How long a source that lost its link after the handover may take to come again, in seconds.
    /// Whatever memory is missing then is lost, and the guest ends with exit code 50 [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    recovery_window: Option<u64>,
    /// Another path for a disk of the guest; may be repeated
    #[arg(long = "disk", value_name = "ID=PATH")]
    disks: Vec<Assignment>,
    /// Another tap for a network card of the guest; may be repeated
    #[arg(long = "net", value_name = "ID=TAP")]
    nets: Vec<Assignment>,
    /// Another end for the serial port: stdio, null, file:PATH or socket:PATH
    #[arg(long, value_name = "END")]
    serial: Option<SerialArg>,
    /// Take the guest also when less memory is free here than it may come to use
    #[arg(long)]
    overcommit: bool,
    /// Have the migration fail at a step of the target; may be repeated
    #[arg(long, value_name = "STEP[@N]=FAULT", requires = "chaos")]
    #[arg(help_heading = chaos::HEADING, long_help = chaos::inject_help(Side::Target))]
    inject: Vec<String>,
    /// Take guests of `godwit bench migrate` over, one after the other by one token, and end each when it is
    /// here; ends by itself when nobody has come for as long as --patience
    #[arg(long, conflicts_with_all = ["inject", "serial"])]
    bench: bool,
    #[command(flatten)]
    foreground: ForegroundArgs,
}

impl Receive {
    pub(super) fn execute(&self) -> ExitCode {
        let here = Here {
            disks: self
                .disks
                .iter()
                .map(|disk| DiskOverride {
                    id: disk.id.clone(),
                    path: disk.value.clone(),
                })
                .collect(),
            nets: self
                .nets
                .iter()
                .map(|net| NetOverride {
                    id: net.id.clone(),
                    tap: net.value.clone(),
                })
                .collect(),
            serial: match self.bench {
                true => Some(SerialSpec::Null),
                false => self.serial.as_ref().map(|end| end.0.clone()),
            },
            overcommit: self.overcommit,
        };
        let door = Door {
            listen: self.listen,
            patience: Duration::from_secs(self.patience),
            recovery_window: self.recovery_window.map(Duration::from_secs),
            guest: None,
        };
        if self.bench {
            return self.bench(door, &here);
        }
        let mut rest = None;
        let code = self.foreground.execute(|machine, signals| {
            let faults = migrate::fault::plan(&self.inject, Side::Target)?;
            let invite = |address, token: &str| self.invite(address, token);
            rest = Some(migrate::receive_guest(
                machine, door, here, faults, signals, invite,
            )?);
            Ok(())
        });
        if let Some(rest) = rest {
            rest.settle();
        }
        code
    }

    fn bench(&self, door: Door, here: &Here) -> ExitCode {
        let output = self.foreground.begin();
        let invite = |address, token: &str| {
            self.write_token(address, token);
            eprintln!(
                "godwit: waiting for test guests; measure with\n  \
                 godwit bench migrate --to {address} --token {token}"
            );
        };
        let taken = Signals::install()
            .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))
            .and_then(|signals| migrate::receive_for_bench(door, here, signals, invite));
        match taken {
            Ok(taken) => {
                output.say(&format!("{taken} guests came"));
                ExitCode::SUCCESS
            }
            Err(error) => output.fail(&error),
        }
    }

    /// Tells how a guest is moved here: on stderr, for stdout is the guest's.
    fn invite(&self, address: SocketAddr, token: &str) {
        self.write_token(address, token);
        eprintln!(
            "godwit: waiting for a guest; move one here with\n  \
             godwit migrate --from SOCKET --to {address} --token {token}"
        );
    }

    fn write_token(&self, address: SocketAddr, token: &str) {
        if let Some(path) = &self.token_file
            && let Err(error) = write_whole(path, &format!("{address}\n{token}\n"))
        {
            tracing::error!(%error, path = %path.display(), "the token file cannot be written");
        }
    }
}

/// Writes a file that nobody sees half-written.
fn write_whole(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let partial = path.with_extension("partial");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    std::io::Write::write_all(&mut options.open(&partial)?, text.as_bytes())?;
    std::fs::rename(&partial, path)
}
