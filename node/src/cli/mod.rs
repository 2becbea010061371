//! The command line. Data goes to stdout, everything else to stderr; an error is one line with cause
//! and fix.

mod bench;
mod chaos;
mod guest_args;
mod inspect;
mod keep_memory;
mod migrate;
pub mod output;
mod receive;
mod restore;
mod run;
mod terms;
mod vmm;
mod vmm_ctl;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The table of `godwit_proto::codes`, for people.
const EXIT_CODES: &str = "\
Exit codes:
   0  the guest powered off, was reset (with --no-reboot), or was stopped as
      asked (Ctrl-A x, SIGTERM, SIGINT, SIGHUP, SIGQUIT)
   1  anything without a code of its own
   2  the command line is wrong
  10  the guest's configuration is invalid
  11  the kernel image cannot be read or booted
  12  the initial RAM disk cannot be read or does not fit
  13  a disk is missing, unreadable, or locked by another guest
  14  a tap interface is missing, taken, or not permitted
  15  /dev/kvm is missing or not permitted
  16  KVM lacks a capability that the guest needs
  17  a snapshot is incomplete, damaged, or does not fit the machine
  18  a snapshot is from a newer build
  19  guest memory cannot be had or mapped
  20  the guest crashed (triple fault)
  21  KVM reported an internal error or an unknown exit
  22  a disk failed while the guest ran
  23  the peer broke the protocol or speaks no common version
  24  the guest is not in a state in which this can be done
  25  a snapshot cannot be written
  26  a serial port or console cannot be connected
  40  the target cannot take the guest; every reason is listed
  41  the target lacks CPU features that the guest sees
  42  the target cannot offer a device that the guest has
  43  the migration was cancelled; the guest runs on at the source
  44  the migration did not get done in its time; the guest runs on at the source
  45  the link to the peer was lost; the guest runs on at the source
  46  memory at the target is not that of the source
  47  the guest is being migrated already, or to itself
  48  the target may run the guest, but cannot be asked
  49  the target took the guest over and never ran it
  50  the source was lost with pages that the running guest still needs
  51  the guest at the source is paused and cannot be resumed
  52  it was a forecast; the guest was not to move";

/// Runs virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(name = "godwit", version, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Restore(restore::Restore),
    Migrate(migrate::Migrate),
    Receive(receive::Receive),
    #[command(subcommand)]
    Snapshot(Snapshot),
    #[command(subcommand)]
    Bench(bench::Bench),
    #[command(hide = true)]
    KeepMemory(keep_memory::KeepMemory),
    #[command(hide = true)]
    Vmm(vmm::Vmm),
    #[command(hide = true)]
    VmmCtl(vmm_ctl::VmmCtl),
}

/// Look at snapshots
#[derive(Debug, Subcommand)]
enum Snapshot {
    Inspect(inspect::Inspect),
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(command) => command.execute(),
        Command::Restore(command) => command.execute(),
        Command::Migrate(command) => command.execute(),
        Command::Receive(command) => command.execute(),
        Command::Snapshot(Snapshot::Inspect(command)) => command.execute(),
        Command::Bench(command) => command.execute(),
        Command::KeepMemory(command) => command.execute(),
        Command::Vmm(command) => command.execute(),
        Command::VmmCtl(command) => command.execute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use godwit_proto::codes::ErrorCode;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code_of_a_command() {
        for code in ErrorCode::ALL {
            let line = format!("\n  {:>2}  ", code.exit_code());
            // From 60 on they are a cluster's, which no command speaks with yet.
            let is_of_a_command = code.exit_code() < 60;
            assert_eq!(EXIT_CODES.contains(&line), is_of_a_command, "{code:?}");
        }
    }
}
