//! What this node has proposed of late, so that it does not say the same all the time.

use std::time::Duration;

use godwit_proto::cluster::{Command, GuestCommand, MigrationCommand, ObservedState};
use godwit_proto::id::{Epoch, Generation, GuestId, MigrationId};

/// How long a proposal is given before it is made again: it may have been lost.
const RETRY: Duration = Duration::from_secs(1);

/// What a proposal is about; what differs in nothing else is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Report(GuestId, Epoch, ObservedState, Generation),
    TargetReady(MigrationId),
    OpenWindow(MigrationId),
    Complete(MigrationId),
    Abort(MigrationId),
    Other,
}

/// Proposals under way. Bounded: each guest of the node has few.
#[derive(Clone, Debug, Default)]
pub(super) struct Proposals {
    made: Vec<(Subject, Duration)>,
}

impl Proposals {
    /// Whether `command` is to be proposed now.
    pub(super) fn begin(&mut self, command: &Command, now: Duration) -> bool {
        self.made.retain(|(_, at)| now < *at + RETRY);
        let subject = subject(command);
        let is_new = self.made.iter().all(|(made, _)| *made != subject);
        if is_new {
            self.made.push((subject, now));
        }
        is_new
    }

    /// When the first of them may be made again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.made.iter().map(|(_, at)| *at + RETRY).min()
    }
}

fn subject(command: &Command) -> Subject {
    match command {
        Command::Guest(GuestCommand::Report(report)) => Subject::Report(
            report.guest,
            report.epoch,
            report.state.clone(),
            report.generation,
        ),
        Command::Migration(command) => match command {
            MigrationCommand::TargetReady { migration, .. } => Subject::TargetReady(*migration),
            MigrationCommand::OpenWindow { migration } => Subject::OpenWindow(*migration),
            MigrationCommand::Complete { migration, .. } => Subject::Complete(*migration),
            MigrationCommand::Abort { migration, .. } => Subject::Abort(*migration),
            MigrationCommand::Prepare { .. } | MigrationCommand::NoteReceipt { .. } => {
                Subject::Other
            }
        },
        _ => Subject::Other,
    }
}
