//! `godwit restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use godwit_proto::process::{DiskOverride, NetOverride, Overrides};
use godwit_vmm::guest::RestoreOptions;

use super::guest_args::{Assignment, SerialArg};
use super::run::{ForegroundArgs, KEYS};

const EXAMPLES: &str = "\
Examples:
  godwit restore snaps/0001
  godwit restore snaps/0001 --eager --disk disk0=/srv/copy.img --serial file:guest.log

The content of disks is not part of a snapshot: give the guest disks that are as
they were. Exit codes are listed by `godwit --help`.";

/// Run a guest from a snapshot, where it was
#[derive(Args, Debug)]
#[command(after_help = format!("{KEYS}\n\n{EXAMPLES}"))]
pub(super) struct Restore {
    /// Directory of the snapshot
    dir: PathBuf,
    #[command(flatten)]
    options: RestoreArgs,
    #[command(flatten)]
    foreground: ForegroundArgs,
}

impl Restore {
    pub(super) fn execute(&self) -> ExitCode {
        let options = RestoreOptions {
            lazy: self.options.lazy(),
            overrides: self.options.overrides(),
        };
        self.foreground
            .execute(|machine, _signals| machine.restore(&self.dir, &options))
    }
}

/// How a snapshot is restored.
#[derive(Args, Clone, Debug)]
pub(super) struct RestoreArgs {
    /// Let the guest run at once and read memory as it is touched [default]
    #[arg(long, conflicts_with = "eager")]
    lazy: bool,
    /// Read and check all memory first
    #[arg(long)]
    eager: bool,
    /// Another path for a disk of the snapshot; may be repeated
    #[arg(long = "disk", value_name = "ID=PATH")]
    disks: Vec<Assignment>,
    /// Another tap for a network card of the snapshot; may be repeated
    #[arg(long = "net", value_name = "ID=TAP")]
    nets: Vec<Assignment>,
    /// Another end for the serial port: stdio, null, file:PATH or socket:PATH
    #[arg(long, value_name = "END")]
    serial: Option<SerialArg>,
    /// Another end for the virtio console: stdio, null, file:PATH or socket:PATH
    #[arg(long, value_name = "END")]
    console: Option<SerialArg>,
}

impl RestoreArgs {
    pub(super) fn lazy(&self) -> bool {
        !self.eager
    }

    pub(super) fn overrides(&self) -> Overrides {
        let disk = |disk: &Assignment| DiskOverride {
            id: disk.id.clone(),
            path: disk.value.clone(),
        };
        let net = |net: &Assignment| NetOverride {
            id: net.id.clone(),
            tap: net.value.clone(),
        };
        Overrides {
            disks: self.disks.iter().map(disk).collect(),
            nets: self.nets.iter().map(net).collect(),
            serial: self.serial.as_ref().map(|end| end.0.clone()),
            console: self.console.as_ref().map(|end| end.0.clone()),
        }
    }
}
