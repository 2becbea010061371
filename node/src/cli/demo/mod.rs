//! `godwit demo`: the main job, on one machine: a cluster of three nodes forms, guests are placed, one is
//! moved under load, a node is emptied, nodes die; and what must hold is watched all the while.
//!
//! Everything is real: three daemons with their own directories, certificates and ports on loopback, and
//! guests on KVM, asked for over the API like anybody's. It is an example for reading, too.

mod lab;
mod report;
mod steps;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use godwit_proto::codes::CodedError;

use super::output::Output;
use lab::Lab;
use report::Report;
use witness::Witness;

/// Show a cluster at work on this machine: form it, move guests, kill nodes, and check
///
/// Starts three nodes on loopback in a directory of its own, and cleans up after itself. Takes less than a
/// minute and needs /dev/kvm and about 1 GiB of free memory.
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Leave the cluster running, and say how to go on with it
    #[arg(long)]
    keep: bool,
    /// Print one JSON document instead of the story
    #[arg(long)]
    json: bool,
    /// Directory to work in [default: a new one in the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Demo {
    pub(super) fn execute(&self) -> ExitCode {
        let output = Output { json: self.json };
        match self.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => output.fail(&error),
        }
    }

    fn run(&self) -> Result<bool, CodedError> {
        let mut lab = Lab::new(self.dir.as_deref())?;
        let mut report = Report::new(self.json);
        let witness = Witness::start(lab.guest_directories())?;
        let told = steps::all(&mut lab, &mut report);
        let seen = witness.end();
        report.invariants(&seen, &lab.missing());
        if let Err(error) = &told {
            report.failed(error);
        }
        if self.keep && told.is_ok() {
            lab.keep();
        } else {
            lab.clean_up(told.is_err());
        }
        let ok = report.end();
        if self.keep && told.is_ok() {
            lab.say_how_to_go_on();
        }
        Ok(ok)
    }
}
