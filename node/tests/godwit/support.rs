//! Starting the program and reading what it says. Nothing outlives its test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The program under test.
pub const GODWIT: &str = env!("CARGO_BIN_EXE_godwit");

/// Says that a test is skipped, past the test runner's capture of output.
pub fn say_skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether guests can run here. Says so loudly when not.
pub fn has_kvm() -> bool {
    let mut options = std::fs::OpenOptions::new();
    let usable = options.read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        say_skipped("/dev/kvm is missing or not permitted");
    }
    usable
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<String>,
    pub stderr: String,
}

/// A running program, killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        Self::spawn(dir, Command::new(GODWIT).args(args))
    }

    /// Starts it by way of another program that becomes it.
    pub fn spawn(dir: &Path, command: &mut Command) -> Self {
        let mut child = command
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let stderr_reader = {
            let said = said.clone();
            thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.push_str(&line);
                    said.push('\n');
                }
            })
        };
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
            stderr: said,
            stderr_reader: Some(stderr_reader),
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Types at it.
    pub fn type_keys(&mut self, keys: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Ends its input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line of output that begins with `start`.
    pub fn line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no line {start:?} after {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// The lines of output that have come since the last were taken.
    pub fn lines_so_far(&mut self) -> Vec<String> {
        let lines: Vec<String> = self.lines.try_iter().collect();
        self.seen.extend(lines.iter().cloned());
        lines
    }

    /// What it has written to stderr.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {:#?}",
                self.seen
            );
            thread::sleep(Duration::from_millis(5));
        };
        self.stderr_reader.take().unwrap().join().unwrap();
        let stderr = self.said();
        self.seen.extend(self.lines.iter());
        Ended {
            code,
            stdout: std::mem::take(&mut self.seen),
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end, without input.
pub fn godwit(dir: &Path, args: &[&str]) -> Ended {
    let mut running = Running::start(dir, args);
    running.close_stdin();
    running.end()
}

/// The number after `name=` in a line of the test guest.
pub fn field(line: &str, name: &str) -> u64 {
    let mut words = line.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// The names in a directory, in order.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
