//! `godwit event`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use godwit_proto::api::{Event, WatchLine};
use godwit_proto::codes::{CodedError, ErrorCode};

use super::session::{Reach, Session, print};

/// See what happens in the cluster
#[derive(Args, Debug)]
pub(super) struct EventArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what happens from now on, line by line
    Watch {
        /// Tell first what happened after this revision
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// Tell which objects changed, too
        #[arg(long)]
        changes: bool,
    },
}

impl EventArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            Command::Watch { from, changes } => watch(session, *from, *changes),
        })
    }
}

fn watch(session: &mut Session, from: Option<u64>, changes: bool) -> Result<(), CodedError> {
    let mut path = session.reading("/v1/events?watch=true");
    if let Some(from) = from {
        path.push_str(&format!("&from={from}"));
    }
    if changes {
        path.push_str("&changes=true");
    }
    let output = session.output;
    session.client.watch(&path, |line| {
        if output.json {
            return print(&String::from_utf8_lossy(line));
        }
        let line: WatchLine = serde_json::from_slice(line)
            .map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error))?;
        match line {
            WatchLine::Event(event) => print(&told(&event)),
            WatchLine::Change {
                revision,
                object,
                deleted,
            } => {
                let id = object.id.unwrap_or_default();
                let what = if deleted { "is gone" } else { "changed" };
                print(&format!("{revision}  {} {id} {what}", object.kind))
            }
            WatchLine::Heartbeat { .. } => Ok(()),
            WatchLine::Resync { revision } => {
                output.say(&format!(
                    "some of what happened before revision {revision} is forgotten"
                ));
                Ok(())
            }
        }
    })
}

fn told(event: &Event) -> String {
    let message = event.message.replace(char::is_control, " ");
    format!(
        "{}  {}  {}  ({})",
        event.at, event.revision, message, event.actor
    )
}
