//! A program under measurement: when it said what, since its start.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::BenchError;

const QUEUED_READS: usize = 4096;
const READ_BYTES: usize = 64 << 10;
/// A program that writes a longer line has run wild.
const MAX_LINE_BYTES: usize = 64 << 10;
const ERROR_BYTES: u64 = 1000;

/// A running program whose standard output is read. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    errors: File,
    started: Instant,
    reads: Receiver<(Instant, Vec<u8>)>,
    pending: Vec<u8>,
    first_byte: Option<Instant>,
    last_read: Instant,
}

impl Program {
    /// Starts `command` with nothing on its input. `name` is for errors.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, BenchError> {
        let failed = |source| BenchError::System {
            doing: format!("start {name}"),
            source,
        };
        let errors = tempfile::tempfile().map_err(failed)?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("asked for as a pipe");
        Ok(Self {
            name: name.to_owned(),
            child,
            errors,
            started,
            reads: read_in_background(stdout),
            pending: Vec::new(),
            first_byte: None,
            last_read: started,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From before its start to its first byte of output.
    ///
    /// # Errors
    /// When none comes within `limit`.
    pub fn first_byte(&mut self, limit: Duration) -> Result<Duration, BenchError> {
        let deadline = Instant::now() + limit;
        while self.first_byte.is_none() {
            self.receive("any output", deadline)?;
        }
        let at = self.first_byte.expect("waited for");
        Ok(at.saturating_duration_since(self.started))
    }

    /// The next line that begins with `begin`, and when its last byte came, since before the start.
    ///
    /// # Errors
    /// When none comes within `limit`, or the program ends.
    pub fn line(&mut self, begin: &str, limit: Duration) -> Result<(Duration, String), BenchError> {
        let (at, line) = self.heard(begin, limit)?;
        Ok((at.saturating_duration_since(self.started), line))
    }

    /// The next line that begins with `begin`, and when its last byte came.
    ///
    /// # Errors
    /// When none comes within `limit`, or the program ends.
    pub fn heard(&mut self, begin: &str, limit: Duration) -> Result<(Instant, String), BenchError> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(line) = self.take_line() {
                if line.starts_with(begin) {
                    return Ok((self.last_read, line));
                }
            }
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(self.not_seen(begin));
            }
            self.receive(begin, deadline)?;
        }
    }

    /// The lines that were not asked for yet, and when they came, until it says nothing for `quiet`
    /// or has ended.
    pub fn lines_until_quiet(&mut self, quiet: Duration) -> Vec<(Instant, String)> {
        let mut lines = Vec::new();
        for _ in 0..QUEUED_READS {
            while let Some(line) = self.take_line() {
                lines.push((self.last_read, line));
            }
            match self.reads.recv_timeout(quiet) {
                Ok((at, bytes)) => {
                    self.last_read = at;
                    self.pending.extend(bytes);
                }
                Err(_) => break,
            }
        }
        lines
    }

    /// The begin of a line whose end has not come.
    #[must_use]
    pub fn unfinished(&self) -> &[u8] {
        &self.pending
    }

    /// Puts `bytes` before what comes next: a guest that moved may have begun a line elsewhere.
    pub fn precede(&mut self, bytes: &[u8]) {
        self.pending.splice(0..0, bytes.iter().copied());
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.pending.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`, or fails.
    pub fn finish(&mut self, limit: Duration) -> Result<(), BenchError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reads.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(self.not_seen("its end")),
            }
        }
        // Its output is closed: it is about to be gone.
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.not_seen("a good end")),
        }
    }

    fn receive(&mut self, expected: &str, deadline: Instant) -> Result<(), BenchError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.reads.recv_timeout(left) {
            Ok((at, bytes)) => {
                self.first_byte.get_or_insert(at);
                self.last_read = at;
                self.pending.extend(bytes);
                Ok(())
            }
            Err(_) => Err(self.not_seen(expected)),
        }
    }

    fn not_seen(&mut self, expected: &str) -> BenchError {
        let errors = tail(&mut self.errors).unwrap_or_default();
        BenchError::NotSeen {
            program: self.name.clone(),
            expected: expected.to_owned(),
            said: errors,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; it is ours until waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(ERROR_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(ERROR_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The thread ends with the program's output.
fn read_in_background(mut from: impl Read + Send + 'static) -> Receiver<(Instant, Vec<u8>)> {
    let (sender, receiver) = sync_channel(QUEUED_READS);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender
                .send((Instant::now(), buffer[..count].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    receiver
}

/// The number that follows `key=` in a report line of the built-in guest.
///
/// # Errors
/// When there is none.
pub fn number(line: &str, key: &str) -> Result<f64, BenchError> {
    line.split(' ')
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| BenchError::Report {
            line: line.to_owned(),
            key: key.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn lines_come_with_the_time_since_the_start() {
        let mut program = Program::start(
            "sh",
            Command::new("sh").args(["-c", "echo one; sleep 0.05; echo two"]),
        )
        .unwrap();
        let first = program.first_byte(LIMIT).unwrap();
        let (at, line) = program.line("two", LIMIT).unwrap();
        assert_eq!(line, "two");
        assert!(at >= first + Duration::from_millis(40), "{first:?} {at:?}");
        program.finish(LIMIT).unwrap();
    }

    #[test]
    fn a_line_may_begin_in_one_program_and_end_in_another() {
        let start = |script| Program::start("sh", Command::new("sh").args(["-c", script]));
        let mut one = start("printf 'first\\nbeg'").unwrap();
        let lines = one.lines_until_quiet(LIMIT);
        let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, ["first"]);
        let mut two = start("echo un").unwrap();
        two.precede(one.unfinished());
        assert_eq!(two.heard("begun", LIMIT).unwrap().1, "begun");
    }

    #[test]
    fn a_program_that_ends_early_says_why() {
        let mut program = Program::start(
            "sh",
            Command::new("sh").args(["-c", "echo because >&2; exit 3"]),
        )
        .unwrap();
        let error = program.line("never", LIMIT).unwrap_err().to_string();
        assert!(error.contains("because"), "{error}");
    }

    #[test]
    fn numbers_are_found_by_their_key() {
        let line = "blk-bench op=read iops=19851 mb_s=2601";
        assert_eq!(number(line, "mb_s").unwrap(), 2601.0);
        assert!(number(line, "op").is_err());
        assert!(number(line, "s").is_err());
    }
}
