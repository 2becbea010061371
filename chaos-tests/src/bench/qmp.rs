//! A few words of QEMU's control protocol (QMP).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::BenchError;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// Events between a command and its answer.
const MAX_EVENTS: usize = 100;

/// A connection to the QMP socket of a QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to a QEMU that is starting.
    ///
    /// # Errors
    /// When nobody listens within some seconds.
    pub fn connect(path: &Path) -> Result<Self, BenchError> {
        let deadline = Instant::now() + CONNECT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(source) => return Err(system("connect to QEMU", source)),
            }
        };
        stream
            .set_read_timeout(Some(ANSWER))
            .map_err(|source| system("set up QMP", source))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.receive()?;
        qmp.run("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it answers.
    ///
    /// # Errors
    /// When it fails or QEMU is gone.
    pub fn run(&mut self, command: &str, arguments: &Value) -> Result<Value, BenchError> {
        let mut request = json!({ "execute": command, "arguments": arguments }).to_string();
        request.push('\n');
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(|source| system("talk to QEMU", source))?;
        for _ in 0..MAX_EVENTS {
            let mut answer = self.receive()?;
            if let Some(error) = answer.get("error") {
                return Err(BenchError::Peer(format!("{command}: {error}")));
            }
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
        }
        Err(BenchError::Peer(format!("{command}: no answer")))
    }

    /// Writes the guest to `path`. One that runs is stopped for it and will run when restored; it
    /// does not go on by itself.
    ///
    /// # Errors
    /// When it fails or does not end within `limit`.
    pub fn migrate_to_file(&mut self, path: &Path, limit: Duration) -> Result<(), BenchError> {
        let begin = Instant::now();
        let uri = format!("file:{}", path.display());
        self.run("migrate", &json!({ "uri": uri }))?;
        loop {
            let info = self.run("query-migrate", &json!({}))?;
            match info["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(BenchError::Peer(format!("migrate: {info}")));
                }
                _ if begin.elapsed() > limit => {
                    return Err(BenchError::Peer(format!("migrate takes too long: {info}")));
                }
                _ => std::thread::sleep(POLL),
            }
        }
    }

    fn receive(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        let count = self
            .stream
            .read_line(&mut line)
            .map_err(|source| system("hear from QEMU", source))?;
        if count == 0 {
            return Err(BenchError::Peer("it has gone".to_owned()));
        }
        serde_json::from_str(&line).map_err(|_| BenchError::Peer(line))
    }
}

fn system(doing: &str, source: std::io::Error) -> BenchError {
    BenchError::System {
        doing: doing.to_owned(),
        source,
    }
}
