//! A program that keeps running in the emulated host, its console at hand.

use std::time::{Duration, Instant};

use super::host::{Host, HostError};

const POLL: Duration = Duration::from_millis(100);
/// A single question to the host; the host itself makes it longer when slow.
const QUESTION: Duration = Duration::from_secs(20);
/// A program that writes more than this has run wild.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
const TAIL_LINES: usize = 40;

/// A program started by [`Process::start`]. Dropping it kills it.
#[derive(Debug)]
pub struct Process<'host> {
    host: &'host Host,
    name: String,
    output: Vec<u8>,
    /// Everything before this was already waited for.
    cursor: usize,
    status: Option<i32>,
}

impl<'host> Process<'host> {
    /// Starts the simple command line `command` under `name`. Its standard input
    /// stays open and takes what [`Process::type_text`] is given.
    ///
    /// # Errors
    /// When the host does not do it.
    pub fn start(host: &'host Host, name: &str, command: &str) -> Result<Self, HostError> {
        host.check(&format!("background {name} {}", quoted(command)), QUESTION)?;
        Ok(Self {
            host,
            name: name.to_owned(),
            output: Vec::new(),
            cursor: 0,
            status: None,
        })
    }

    /// Where the host keeps the program's files (`output`, `errors`, `pid`).
    #[must_use]
    pub fn folder(&self) -> String {
        format!("/run/programs/{}", self.name)
    }

    /// Everything it has written to standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Types `text` (control characters included) on its standard input.
    ///
    /// # Errors
    /// When the host does not do it.
    pub fn type_text(&mut self, text: &str) -> Result<(), HostError> {
        let escaped: String = text.bytes().map(|byte| format!("\\0{byte:03o}")).collect();
        let command = format!("printf '%b' '{escaped}' >{}/input", self.folder());
        self.host.check(&command, QUESTION).map(|_| ())
    }

    /// Waits for a whole line that contains `text`, after the last line waited
    /// for, and returns it.
    ///
    /// # Errors
    /// [`HostError::NotSeen`] when it does not come within `limit`, or can no
    /// longer come: the program ended, or its guest's kernel panicked.
    pub fn await_line(&mut self, text: &str, limit: Duration) -> Result<String, HostError> {
        let limit = self.host.scaled(limit);
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.status.is_some();
            if let Some(line) = self.next_line(text) {
                return Ok(line);
            }
            let hopeless = ended || self.unseen().contains("Kernel panic");
            if hopeless || Instant::now() >= deadline {
                return Err(self.not_seen(text, limit));
            }
            self.poll()?;
            if self.status.is_none() {
                std::thread::sleep(POLL);
            }
        }
    }

    /// Waits for a whole line that contains `text`, and returns the newest that there is by then; those
    /// before it count as waited for.
    ///
    /// # Errors
    /// As [`Process::await_line`].
    pub fn await_newest_line(&mut self, text: &str, limit: Duration) -> Result<String, HostError> {
        self.poll()?;
        let mut newest = self.await_line(text, limit)?;
        while let Some(line) = self.next_line(text) {
            newest = line;
        }
        Ok(newest)
    }

    /// Waits for its end and returns its exit status (128 and the signal's number
    /// when a signal ended it).
    ///
    /// # Errors
    /// [`HostError::NotSeen`] when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<i32, HostError> {
        let limit = self.host.scaled(limit);
        let deadline = Instant::now() + limit;
        loop {
            self.poll()?;
            if let Some(status) = self.status {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.not_seen("end", limit));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What it has written to standard error.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn errors(&self) -> Result<String, HostError> {
        self.host
            .check(&format!("cat {}/errors", self.folder()), QUESTION)
    }

    /// Its process id in the host.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn pid(&self) -> Result<String, HostError> {
        let pid = self
            .host
            .check(&format!("cat {}/pid", self.folder()), QUESTION)?;
        Ok(pid.trim().to_owned())
    }

    /// The status is asked for first: once it is there, so is all the output.
    fn poll(&mut self) -> Result<(), HostError> {
        let command = format!(
            "cat {folder}/status 2>/dev/null || echo; tail -c +{next} {folder}/output",
            folder = self.folder(),
            next = self.output.len() + 1,
        );
        let answer = self.host.ask(&command, QUESTION)?.bytes;
        let end = answer.iter().position(|&byte| byte == b'\n');
        let (status, output) = answer.split_at(end.map_or(answer.len(), |end| end + 1));
        self.output.extend_from_slice(output);
        self.status = String::from_utf8_lossy(status).trim().parse().ok();
        if self.output.len() > MAX_OUTPUT_BYTES {
            return Err(self.not_seen("end to its output", QUESTION));
        }
        Ok(())
    }

    fn next_line(&mut self, text: &str) -> Option<String> {
        let unseen = &self.output[self.cursor..];
        let mut start = 0;
        while let Some(length) = unseen[start..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&unseen[start..start + length]).into_owned();
            start += length + 1;
            if line.contains(text) {
                self.cursor += start;
                return Some(line.trim_end_matches('\r').to_owned());
            }
        }
        None
    }

    fn unseen(&self) -> String {
        String::from_utf8_lossy(&self.output[self.cursor..]).into_owned()
    }

    fn not_seen(&self, expected: &str, limit: Duration) -> HostError {
        self.host.fail();
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        let errors = self.errors().unwrap_or_else(|error| error.to_string());
        HostError::NotSeen {
            program: self.name.clone(),
            expected: expected.to_owned(),
            limit,
            tail: format!(
                "{}\n--- exit status: {:?}, standard error: {errors}",
                shown.join("\n"),
                self.status
            ),
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        let title = format!("--- output of {}", self.name);
        self.host.note(&title, &self.output);
        if self.status.is_none() {
            // A host that no longer answers is ended as a whole.
            let command = format!("kill -KILL $(cat {}/pid)", self.folder());
            let _ = self.host.run(&command, QUESTION);
        }
    }
}

/// `text` as one word of the shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_word_of_the_shell() {
        for text in ["plain", "two words", "it's $HOME `x` \"y\" \\", ""] {
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), text);
        }
    }
}
