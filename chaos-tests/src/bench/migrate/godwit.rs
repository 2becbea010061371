//! A guest of Godwit that moves.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::guests::BenchGuest;
use super::super::{Bench, BenchError, Program};
use super::link::{End, Link};
use super::trip::Asked;

const START: Duration = Duration::from_secs(20);
/// Longer than a guest stays away here; what is kept goes then, also when the benchmark failed.
const RETAIN_SECONDS: &str = "60";
const POLL: Duration = Duration::from_millis(2);

/// A process with a guest, or one that waits for it.
#[derive(Debug)]
pub(super) struct GodwitProcess {
    pub(super) program: Program,
    socket: PathBuf,
    /// Where it waits and with which token.
    invitation: Option<(String, String)>,
}

impl GodwitProcess {
    /// Starts `guest` at `end`.
    pub(super) fn run(
        bench: &Bench,
        link: &Link,
        end: End,
        guest: &BenchGuest,
    ) -> Result<Self, BenchError> {
        let socket = fresh(bench, &format!("{end:?}.sock"));
        let mut command = guest.godwit(bench);
        command.arg("--socket").arg(&socket);
        let program = Program::start("godwit run", &mut link.at(end, &command))?;
        Ok(Self {
            program,
            socket,
            invitation: None,
        })
    }

    /// Waits for a guest at `end`.
    pub(super) fn receive(bench: &Bench, link: &Link, end: End) -> Result<Self, BenchError> {
        let socket = fresh(bench, &format!("{end:?}.sock"));
        let token = fresh(bench, "token");
        let mut command = Command::new(&bench.godwit);
        command
            .args(["receive", "--listen", &format!("{}:0", end.address())])
            .arg("--socket")
            .arg(&socket)
            .arg("--token-file")
            .arg(&token);
        let program = Program::start("godwit receive", &mut link.at(end, &command))?;
        let deadline = Instant::now() + START;
        let text = loop {
            match fs::read_to_string(&token) {
                Ok(text) => break text,
                Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(source) => {
                    let doing = "read the token of godwit receive".to_owned();
                    return Err(BenchError::System { doing, source });
                }
            }
        };
        let mut words = text.lines().map(str::to_owned);
        Ok(Self {
            program,
            socket,
            invitation: words.next().zip(words.next()),
        })
    }

    /// Moves the guest to `target`; returns how long that took, seen from outside, and the receipt.
    pub(super) fn migrate(
        &self,
        bench: &Bench,
        target: &Self,
        asked: &Asked,
    ) -> Result<(Duration, Value), BenchError> {
        let (address, token) = target.invitation.as_ref().ok_or(BenchError::Report {
            line: "godwit receive".to_owned(),
            key: "a token".to_owned(),
        })?;
        let mut command = Command::new(&bench.godwit);
        command
            .args(["migrate", "--json", "--to", address, "--token", token])
            .args(["--mode", asked.mode.name()])
            .arg("--from")
            .arg(&self.socket);
        if let Some(limit) = asked.downtime_limit_ms {
            command.args(["--downtime-limit", &limit.to_string()]);
        }
        if asked.retain {
            command.args(["--retain", RETAIN_SECONDS]);
        }
        let mut program = Program::start("godwit migrate", &mut command)?;
        let (took, line) = program.line("{", asked.patience)?;
        let receipt: Value = serde_json::from_str(&line).unwrap_or_default();
        if receipt["outcome"]["result"] != "completed" {
            let key = "a completed migration".to_owned();
            return Err(BenchError::Report { line, key });
        }
        Ok((took, receipt))
    }
}

/// A path of this run where nothing is.
fn fresh(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.file(name);
    // Left from the trip before.
    let _ = fs::remove_file(&path);
    path
}
