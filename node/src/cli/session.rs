//! How a command reaches the daemon, and how it writes what it is told.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use godwit_proto::api::Page;
use godwit_proto::codes::{CodedError, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::{Client, read};
use super::output::Output;
use super::table::Table;

/// How the daemon is reached, and how its answers are written
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Daemon")]
pub(super) struct Reach {
    /// Socket of the daemon [default: $GODWIT_SOCKET, else /run/godwit/godwit.sock; for users other
    /// than root $XDG_RUNTIME_DIR/godwit/godwit.sock]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// How answers are written
    #[arg(short, long, value_enum, value_name = "HOW", default_value_t = Format::Table, global = true)]
    output: Format,
    /// Read what the daemon's node has, even if it is old: for when the cluster has no majority
    #[arg(long, global = true)]
    stale: bool,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns and lines for people
    Table,
    /// The documents of the API
    Json,
}

/// A command's dealings with the daemon.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) output: Output,
    stale: bool,
}

impl Reach {
    /// Does what a command does, and tells when that fails.
    pub(super) fn run(&self, act: impl FnOnce(&mut Session) -> Result<(), CodedError>) -> ExitCode {
        let output = Output {
            json: self.output == Format::Json,
        };
        let session = Client::new(&self.path()).map(|client| Session {
            client,
            output,
            stale: self.stale,
        });
        match session.and_then(|mut session| act(&mut session)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&error),
        }
    }

    /// The socket: where the daemon listens.
    pub(super) fn path(&self) -> PathBuf {
        let named = self.socket.clone();
        let named = named.or_else(|| std::env::var_os("GODWIT_SOCKET").map(PathBuf::from));
        named.unwrap_or_else(|| {
            let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            let own = own.filter(|_| !rustix::process::geteuid().is_root());
            let base = own.unwrap_or_else(|| PathBuf::from("/run"));
            base.join("godwit/godwit.sock")
        })
    }
}

impl Session {
    /// A path to read, with what the user said about old news.
    pub(super) fn reading(&self, path: &str) -> String {
        let mark = if path.contains('?') { '&' } else { '?' };
        match self.stale {
            true => format!("{path}{mark}stale=true"),
            false => path.into(),
        }
    }

    /// Reads an object.
    pub(super) fn fetch<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CodedError> {
        let path = self.reading(path);
        read(self.client.get(&path)?)
    }

    /// Shows an object.
    pub(super) fn show<T: DeserializeOwned>(
        &mut self,
        path: &str,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CodedError> {
        let path = self.reading(path);
        let document = self.client.get(&path)?;
        self.write(document, text)
    }

    /// Shows a list.
    pub(super) fn list<T: DeserializeOwned>(
        &mut self,
        path: &str,
        columns: &[&'static str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), CodedError> {
        let path = self.reading(path);
        let page: Page<Value> = self.client.list(&path)?;
        if self.output.json {
            return print_json(&page);
        }
        let mut table = Table::new(columns);
        for item in page.items {
            table.row(row(&read(item)?));
        }
        if page.stale {
            self.output.say("what follows may be old");
        }
        print(&table.to_string())
    }

    /// Writes a document as it is, or as text.
    pub(super) fn write<T: DeserializeOwned>(
        &self,
        document: Value,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CodedError> {
        match self.output.json {
            true => print_json(&document),
            false => print(&text(&read(document)?)),
        }
    }

    /// Writes a document for programs, or a line for people.
    pub(super) fn done<T: Serialize>(&self, document: &T, line: &str) -> Result<(), CodedError> {
        match self.output.json {
            true => print_json(document),
            false => print(line),
        }
    }
}

/// Writes a document to stdout.
pub(super) fn print_json<T: Serialize>(document: &T) -> Result<(), CodedError> {
    let text = serde_json::to_string_pretty(document);
    print(&text.expect("keys of these documents are text"))
}

/// Writes lines to stdout.
pub(super) fn print(text: &str) -> Result<(), CodedError> {
    let written = writeln!(std::io::stdout(), "{}", text.trim_end());
    written.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))
}
