//! `godwit vm migrate`, `godwit vm forecast`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use godwit_proto::api::{MigrateGuest, Migration, MigrationPhase};
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{read, segment};
use super::migrate::{number, text};
use super::receipt::{progress, receipt};
use super::session::{Session, print, print_json};
use super::table::{Facts, bytes};
use super::vm::{LOOK_EVERY, Name};

/// Move a running guest to another node, and show how far it is
///
/// Leaving this command does not end the migration: `godwit migration cancel` does. Exit code 0
/// means that the guest runs at the target.
#[derive(Args, Debug)]
pub(super) struct Migrate {
    #[command(flatten)]
    guest: Name,
    /// The node, by name or id; chosen by the scheduler unless it is given
    #[arg(long, visible_alias = "to", value_name = "NODE")]
    target: Option<String>,
    /// Return when it is begun, not when it is done
    #[arg(long)]
    no_wait: bool,
}

impl Migrate {
    pub(super) fn run(&self, session: &mut Session) -> Result<(), CodedError> {
        let request = MigrateGuest {
            target: self.target.clone(),
        };
        let path = self.guest.path("/migrate");
        let begun = session.client.write(&Method::POST, &path, Some(&request))?;
        if self.no_wait {
            let migration: Migration = match begun.object {
                Some(migration) => read(migration)?,
                None => session.fetch(&format!("/v1/migrations/{}", segment(&begun.id)))?,
            };
            let line = format!(
                "migration {}: guest {} moves from node {} to node {}",
                migration.name, migration.guest.name, migration.source.name, migration.target.name
            );
            return session.done(&migration, &line);
        }
        follow(session, &begun.id)
    }
}

/// A migration, and what its source says of it.
#[derive(Debug, Deserialize)]
struct Progress {
    migration: Migration,
    progress: Option<Value>,
}

/// Shows a migration until it ends, and then its receipt.
pub(super) fn follow(session: &mut Session, name: &str) -> Result<(), CodedError> {
    let mut stderr = std::io::stderr();
    let shows = stderr.is_terminal() && !session.output.json;
    let path = format!("/v1/migrations/{}/progress", segment(name));
    let migration = loop {
        let now: Result<Progress, CodedError> = session.fetch(&path);
        if now.is_err() && shows {
            let _ = writeln!(stderr);
        }
        let now = now?;
        if now.migration.phase.is_finished() {
            break now.migration;
        }
        if shows {
            let line = match &now.progress {
                Some(document) => progress(document),
                None => now.migration.phase.name().into(),
            };
            let _ = write!(stderr, "\r\x1b[K{}: {line}", now.migration.guest.name);
            let _ = stderr.flush();
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if shows {
        let _ = write!(stderr, "\r\x1b[K");
    }
    tell_ended(session, &migration)
}

/// How long a receipt is waited for: the source writes it when it has heard of the guest's first frame.
const RECEIPT_TIME: Duration = Duration::from_secs(3);

/// The receipt of a migration that has ended; none comes from a source that is lost, or that never
/// began.
fn receipt_of(session: &mut Session, id: &str) -> Result<Option<Value>, CodedError> {
    let path = format!("/v1/migrations/{}", segment(id));
    let deadline = Instant::now() + RECEIPT_TIME;
    while Instant::now() < deadline {
        let migration: Migration = session.fetch(&path)?;
        if migration.has_receipt {
            return session.fetch(&format!("{path}/receipt")).map(Some);
        }
        if migration.phase != MigrationPhase::Completed {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(None)
}

fn tell_ended(session: &mut Session, migration: &Migration) -> Result<(), CodedError> {
    let left = receipt_of(session, &migration.id)?;
    if session.output.json {
        print_json(&json!({"migration": migration, "receipt": left}))?;
    } else {
        if migration.phase == MigrationPhase::Completed {
            print(&format!(
                "guest {} runs on node {}",
                migration.guest.name, migration.target.name
            ))?;
        }
        if let Some(left) = &left {
            print(&receipt(left))?;
        }
    }
    match (migration.phase, &migration.failure) {
        (MigrationPhase::Completed, _) => Ok(()),
        (_, Some(failure)) => {
            let mut error = CodedError::from(failure.clone());
            error.message = format!(
                "guest {} was not moved: {}",
                migration.guest.name, error.message
            );
            Err(error)
        }
        (_, None) => {
            let message = format!("guest {} was not moved", migration.guest.name);
            Err(CodedError::new(ErrorCode::Other, message))
        }
    }
}

/// Say what a migration of a guest would be like, without moving it
///
/// What the guest writes and what the link carries is measured for a few seconds.
#[derive(Args, Debug)]
pub(super) struct Forecast {
    #[command(flatten)]
    guest: Name,
    /// The node, by name or id; chosen by the scheduler unless it is given
    #[arg(long, visible_alias = "to", value_name = "NODE")]
    target: Option<String>,
}

impl Forecast {
    pub(super) fn run(&self, session: &mut Session) -> Result<(), CodedError> {
        let path = match &self.target {
            Some(target) => self
                .guest
                .path(&format!("/forecast?target={}", segment(target))),
            None => self.guest.path("/forecast"),
        };
        let document = session.client.get(&path)?;
        session.write(document, forecast)
    }
}

fn forecast(forecast: &Value) -> String {
    let answer = |key: &str| match forecast.get(key).and_then(Value::as_bool) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let rate = |key: &str, unit: f64| match number(forecast, key) {
        0.0 => String::new(),
        rate => format!("{}/s", bytes((rate * unit) as u64)),
    };
    let facts = Facts::default()
        .add("mode", text(forecast, "mode"))
        .add("ends by", text(forecast, "ending"))
        .add("converges", answer("converges"))
        .add(
            "total",
            format!("{:.1} s", number(forecast, "total_ms") / 1e3),
        )
        .add(
            "blackout",
            format!("{:.1} ms", number(forecast, "blackout_ms")),
        )
        .add("rounds", format!("{}", number(forecast, "rounds")))
        .add("on the wire", bytes(number(forecast, "wire_bytes") as u64))
        .add("link", rate("link_rate", 1.0))
        .add("writes", rate("dirty_rate", 4096.0));
    facts.to_string()
}
