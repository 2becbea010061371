//! `godwit migration`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use godwit_proto::api::Migration;
use godwit_proto::codes::CodedError;
use hyper::Method;
use serde_json::Value;

use super::client::segment;
use super::receipt::receipt;
use super::session::{Reach, Session};
use super::text::age;
use super::vm_migrate::follow;

/// Look at migrations, follow and cancel them
#[derive(Args, Debug)]
pub(super) struct MigrationArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List migrations: those under way, and the last that ended
    #[command(visible_alias = "ls")]
    List,
    /// Show how far a migration is until it ends, then its receipt
    Watch(Name),
    /// Have a migration given up, if its guest was not handed over; the guest runs on where it is
    Cancel(Name),
    /// Show what a migration left: times, bytes, the blackout
    Receipt(Name),
}

#[derive(Args, Clone, Debug)]
struct Name {
    /// The migration, by name or id
    #[arg(value_name = "MIGRATION")]
    name: String,
}

impl Name {
    fn path(&self, rest: &str) -> String {
        format!("/v1/migrations/{}{rest}", segment(&self.name))
    }
}

impl MigrationArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            Command::List => list(session),
            Command::Watch(migration) => follow(session, &migration.name),
            Command::Cancel(migration) => {
                let path = migration.path("/cancel");
                let told: Value = session.client.change::<()>(&Method::POST, &path, None)?;
                let line = format!("the source is told to give up migration {}", migration.name);
                session.done(&told, &line)
            }
            Command::Receipt(migration) => session.show(&migration.path("/receipt"), receipt),
        })
    }
}

fn list(session: &mut Session) -> Result<(), CodedError> {
    let columns = ["NAME", "GUEST", "FROM", "TO", "PHASE", "AGE", "WHY NOT"];
    session.list("/v1/migrations", &columns, |migration: &Migration| {
        let failure = migration.failure.as_ref();
        vec![
            migration.name.clone(),
            migration.guest.name.clone(),
            migration.source.name.clone(),
            migration.target.name.clone(),
            migration.phase.name().into(),
            age(migration.created),
            failure.map_or_else(String::new, |failure| failure.message.clone()),
        ]
    })
}
