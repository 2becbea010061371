//! `godwit keep-memory`, which a process starts whose guest was moved.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use godwit_proto::id::MigrationId;

use super::output::Output;
use crate::guest_process::keeper;

/// Keep the memory on standard input for a guest that may come back
#[derive(Args, Debug)]
pub(super) struct KeepMemory {
    /// The migration by which the guest left
    #[arg(long, value_name = "ID")]
    left_by: MigrationId,
    /// For how long, in milliseconds
    #[arg(long, value_name = "MS")]
    for_ms: u64,
}

impl KeepMemory {
    pub(super) fn execute(&self) -> ExitCode {
        match keeper::keep(self.left_by, Duration::from_millis(self.for_ms)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // For who started it, and waits for a line.
                println!("{error}");
                Output::default().fail(&error)
            }
        }
    }
}
