//! `godwit migrate`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Args;
use godwit_migration::fault::Side;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::MigrateRequest;
use serde_json::Value;

use super::chaos;
use super::output::Output;
use super::terms::Terms;
use crate::guest_process::client::{Client, ClientError};

/// How often progress is asked for.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  godwit run --socket guest.sock                                 (on one host)
  godwit receive --listen 192.0.2.7:7401                         (on another)
  godwit migrate --from guest.sock --to 192.0.2.7:7401 --token ...
  godwit migrate --from guest.sock --to 192.0.2.7:7401 --token ... --forecast
      tells what that would be like; may come before it, with the same token

The guest runs on while its memory is copied, and stays where it is when moving
fails. Exit code 0 means that it runs at the target. Others are listed by
`godwit --help`.";

/// Move a running guest to a `godwit receive` elsewhere
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Migrate {
    /// Control socket of the guest (see --socket of `godwit run`)
    #[arg(long, value_name = "SOCKET")]
    from: PathBuf,
    /// Where `godwit receive` listens
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The token that it printed
    #[arg(long, value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    terms: Terms,
    /// Keep the guest's memory here for so many seconds after it left, so that a way back is quick
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    retain: u64,
    /// Do not move the guest: watch it for so many seconds, send samples of its memory, and tell how long a
    /// move would take, how long the guest would stand still, and how it would end. The token stays good
    /// for this guest
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "3", value_parser = clap::value_parser!(u64).range(1..=3600))]
    #[arg(conflicts_with = "receipt")]
    forecast: Option<u64>,
    /// Why, for the receipt
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Write the whole receipt, as a table, in place of one line
    #[arg(long, conflicts_with = "json")]
    receipt: bool,
    /// Write the receipt to stdout as JSON
    #[arg(long)]
    json: bool,
    /// Have the migration fail at a step of the source, if the guest was started with --chaos; may be
    /// repeated
    #[arg(long, value_name = "STEP[@N]=FAULT")]
    #[arg(help_heading = chaos::HEADING, long_help = chaos::inject_help(Side::Source))]
    inject: Vec<String>,
}

impl Migrate {
    pub(super) fn execute(&self) -> ExitCode {
        let output = Output { json: self.json };
        match self.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&error),
        }
    }

    fn run(&self) -> Result<(), CodedError> {
        let connect = || Client::connect(&self.from).map_err(|error| error.coded());
        let (mut client, mut watcher) = (connect()?, connect()?);
        let request = MigrateRequest {
            to: self.to.clone(),
            token: self.token.clone(),
            local: self.local_socket()?,
            retain_ms: Some(self.retain.saturating_mul(1000)),
            asked_by: std::env::var("USER").unwrap_or_default(),
            why: self.why.clone(),
            ..self.terms.request()
        };
        if !self.inject.is_empty() {
            let injected = client.inject_faults(&self.inject);
            injected.map_err(|error| error.coded())?;
        }
        if let Some(seconds) = self.forecast {
            let watch = Duration::from_secs(seconds);
            let forecast = watching(&mut watcher, || client.forecast(request, watch));
            let forecast = forecast.map_err(|error| error.coded())?;
            return print(match self.json {
                true => &forecast.forecast,
                false => forecast.table.trim_end(),
            });
        }
        let migrated = watching(&mut watcher, || client.migrate(request));
        let ended = migrated.map_err(|error| lost(&error))?;
        let receipt: Value = serde_json::from_str(&ended.receipt)
            .map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error))?;
        if !self.json {
            warnings(&receipt).for_each(|text| Output::default().say(&format!("warning: {text}")));
        }
        if self.json {
            print(&receipt.to_string())?;
        } else if self.receipt {
            print(ended.table.trim_end())?;
        } else {
            print(&summary(&receipt))?;
        }
        if ended.moved {
            Ok(())
        } else {
            Err(stayed(&receipt))
        }
    }
}

impl Migrate {
    /// Where the target finds the guest's process when it is on this host.
    fn local_socket(&self) -> Result<Option<String>, CodedError> {
        if !self.terms.is_local() {
            return Ok(None);
        }
        let socket = std::path::absolute(&self.from)
            .map_err(|error| CodedError::from_error(ErrorCode::Usage, &error))?;
        let socket = socket.into_os_string().into_string();
        socket.map(Some).map_err(|_| {
            CodedError::new(
                ErrorCode::Usage,
                "the path of the control socket is no UTF-8",
            )
        })
    }
}

/// Why there is no receipt. A guest process that died may have given the guest up before.
fn lost(error: &ClientError) -> CodedError {
    match error {
        ClientError::Connection(error) => CodedError::new(
            ErrorCode::Unconfirmed,
            format!("the guest's process was lost while it was moved: {error}"),
        )
        .with_fix("see at the target whether the guest runs before starting it anywhere"),
        other => other.coded(),
    }
}

/// Does `work`, and shows how far it has come meanwhile.
fn watching<T>(watcher: &mut Client, work: impl FnOnce() -> T) -> T {
    let (over, under_way) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || show_progress(watcher, &under_way));
        let done = work();
        drop(over);
        done
    })
}

/// Shows how far it has come until the other end of `under_way` is gone.
fn show_progress(client: &mut Client, under_way: &Receiver<()>) {
    let mut stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    loop {
        if let Ok(Some(progress)) = client.migration_progress()
            && let Ok(progress) = serde_json::from_str::<Value>(&progress)
            && terminal
        {
            let _ = write!(stderr, "\r\x1b[K{}", line(&progress));
            let _ = stderr.flush();
        }
        if under_way.recv_timeout(PROGRESS_EVERY) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    if terminal {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

fn number(document: &Value, key: &str) -> f64 {
    document.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

fn text<'a>(document: &'a Value, key: &str) -> &'a str {
    document.get(key).and_then(Value::as_str).unwrap_or("-")
}

fn line(progress: &Value) -> String {
    const MIB: f64 = 1048576.0;
    format!(
        "{} round {}, {:.0} MiB left, {:.0} MiB/s, dirty {:.0} MiB/s, throttle {} %",
        text(progress, "phase"),
        number(progress, "round"),
        number(progress, "remaining_pages") * 4096.0 / MIB,
        number(progress, "link_rate") / MIB,
        number(progress, "dirty_rate") / MIB,
        number(progress, "throttle_percent"),
    )
}

fn summary(receipt: &Value) -> String {
    let outcome = receipt
        .get("outcome")
        .map_or("-", |outcome| text(outcome, "result"));
    let blackout = receipt
        .get("blackout")
        .map_or(0.0, |blackout| number(blackout, "total_ms"));
    let bytes = receipt
        .get("bytes")
        .and_then(Value::as_object)
        .map_or(0.0, |kinds| kinds.values().filter_map(Value::as_f64).sum());
    format!(
        "{outcome} in {:.1} ms, blackout {blackout:.2} ms, {} rounds, {:.1} MiB on the wire of {:.0} MiB of memory",
        number(receipt, "total_ms"),
        number(receipt, "rounds_total"),
        bytes / 1048576.0,
        number(receipt, "memory_bytes") / 1048576.0,
    )
}

/// What did not go as asked.
fn warnings(receipt: &Value) -> impl Iterator<Item = &str> {
    let warnings = receipt.get("warnings").and_then(Value::as_array);
    warnings.into_iter().flatten().filter_map(Value::as_str)
}

/// Why the guest was not moved, out of the receipt.
fn stayed(receipt: &Value) -> CodedError {
    let outcome = receipt.get("outcome");
    let errors: Vec<_> = outcome
        .and_then(|outcome| outcome.get("errors"))
        .and_then(Value::as_array)
        .map(|errors| errors.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let code = outcome
        .and_then(|outcome| outcome.get("codes"))
        .and_then(Value::as_array)
        .and_then(|codes| codes.first())
        .and_then(Value::as_u64)
        .and_then(|code| ErrorCode::from_number(u8::try_from(code).ok()?))
        .unwrap_or(ErrorCode::Other);
    CodedError::new(
        code,
        format!("the guest was not moved: {}", errors.join("; ")),
    )
}

pub(super) fn print(text: &str) -> Result<(), CodedError> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| CodedError::from_error(ErrorCode::Console, &error))
}
