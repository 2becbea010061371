//! What is told to the user: on stderr, in lines for people or for programs.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use godwit_proto::codes::CodedError;
use godwit_proto::process::{ExitReason, SnapshotReport};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::guest_process::exit;

/// How messages are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// As JSON, one document per line.
    pub json: bool,
}

impl Output {
    /// Says something that needs no answer.
    pub fn say(self, text: &str) {
        match self.json {
            true => write_json(&json!({"event": "message", "text": text})),
            false => text
                .lines()
                .for_each(|line| write_line(&format!("godwit: {line}"))),
        }
    }

    /// Says what failed.
    pub fn error(self, error: &CodedError) {
        match self.json {
            true => write_json(&error_json(error)),
            false => write_line(&format!("error: {error}")),
        }
    }

    /// Says what failed, and gives the exit code for it.
    #[must_use]
    pub fn fail(self, error: &CodedError) -> ExitCode {
        self.error(error);
        ExitCode::from(error.exit_code())
    }

    /// Says where a snapshot is.
    pub fn snapshot(self, dir: &Path, report: &SnapshotReport) {
        if self.json {
            return write_json(&snapshot_json(dir, report));
        }
        self.say(&format!(
            "snapshot written to {} ({} MiB, guest paused for {} ms)",
            dir.display(),
            report.bytes_written >> 20,
            report.pause_ns / 1_000_000
        ));
    }

    /// Says how the guest ended, and gives the exit code for it.
    #[must_use]
    pub fn exit(self, reason: &ExitReason) -> ExitCode {
        let code = reason.exit_code();
        let registers = exit::registers(reason);
        if self.json {
            write_json(&json!({
                "event": "exit",
                "reason": exit::name(reason),
                "text": exit::describe(reason),
                "registers": registers,
                "exit_code": code,
            }));
            return ExitCode::from(code);
        }
        match code {
            0 => self.say(&exit::describe(reason)),
            _ => write_line(&format!("error: {}", exit::describe(reason))),
        }
        for line in registers.unwrap_or_default().lines() {
            write_line(&format!("  {line}"));
        }
        ExitCode::from(code)
    }
}

/// A snapshot as programs read it.
#[must_use]
pub fn snapshot_json(dir: &Path, report: &SnapshotReport) -> Value {
    json!({
        "event": "snapshot",
        "dir": dir.to_string_lossy(),
        "bytes_written": report.bytes_written,
        "pause_ns": report.pause_ns,
        "total_ns": report.total_ns,
    })
}

fn error_json(error: &CodedError) -> Value {
    json!({
        "event": "error",
        "code": error.exit_code(),
        "name": format!("{:?}", error.code()),
        "message": error.message,
        "causes": error.causes,
        "fix": error.fix,
    })
}

fn write_json(value: &Value) {
    write_line(&value.to_string());
}

/// One write per line, so that lines of several threads do not mix. When stderr is gone there is
/// nobody to tell.
fn write_line(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Starts logging: to `file`, or to stderr, in colour when that is a terminal that wants it.
pub fn log_to(level: LevelFilter, file: Option<File>) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_target(false);
    // It fails only when logging was started before, which then goes on.
    let _ = match file {
        Some(file) => builder.with_ansi(false).with_writer(file).try_init(),
        None => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colour = std::io::stderr().is_terminal() && !plain;
            builder
                .with_ansi(colour)
                .with_writer(std::io::stderr)
                .try_init()
        }
    };
}

/// Ours at `level`; the libraries' only when something is wrong there, unless all is asked for.
fn filter(level: LevelFilter) -> EnvFilter {
    let libraries = match level {
        LevelFilter::TRACE => LevelFilter::TRACE,
        level => level.min(LevelFilter::ERROR),
    };
    EnvFilter::new(format!(
        "{level},openraft={libraries},quinn={libraries},rustls={libraries},hyper={libraries}"
    ))
}
