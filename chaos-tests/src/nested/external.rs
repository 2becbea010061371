//! Programs of the machine (apt, dpkg, ldd, cargo), each run with a time limit.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How much of a failed program's last words an error carries.
const TAIL_BYTES: usize = 2000;

/// Why a program of the machine gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// It is not installed, or may not be run.
    #[error("could not start `{program}`")]
    Start {
        /// What was to be run.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("`{program}` ended with {status}: {stderr}")]
    Failed {
        /// What was run.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It was still running at its limit, and was ended.
    #[error("`{program}` did not finish within {limit:?}")]
    TimedOut {
        /// What was run.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// Its output could not be kept or read.
    #[error("could not handle the output of `{program}`")]
    Output {
        /// What was run.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Runs `command` without input and returns its standard output.
///
/// # Errors
/// When it cannot be started, fails, or outlives `limit` (it is then killed).
pub fn run(command: &mut Command, limit: Duration) -> Result<String, ExternalError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = |source| ExternalError::Output {
        program: program.clone(),
        source,
    };
    // Files and not pipes: nobody has to read while the program runs.
    let mut stdout = tempfile::tempfile().map_err(output)?;
    let mut stderr = tempfile::tempfile().map_err(output)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(output)?)
        .stderr(stderr.try_clone().map_err(output)?)
        .spawn()
        .map_err(|source| ExternalError::Start {
            program: program.clone(),
            source,
        })?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(output)? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).map_err(output)?;
            return Err(ExternalError::TimedOut { program, limit });
        }
        std::thread::sleep(POLL);
    };
    if !status.success() {
        let text = read_back(&mut stderr).map_err(output)?;
        return Err(ExternalError::Failed {
            program,
            status,
            stderr: tail(text.trim()).to_owned(),
        });
    }
    read_back(&mut stdout).map_err(output)
}

fn read_back(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn the_standard_output_of_a_program_comes_back() {
        let text = run(Command::new("printf").arg("one\ntwo\n"), LIMIT).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_failing_program_reports_its_status_and_last_words() {
        let error = run(
            Command::new("sh").args(["-c", "echo because >&2; exit 3"]),
            LIMIT,
        )
        .unwrap_err();
        let ExternalError::Failed { status, stderr, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((status.code(), stderr.as_str()), (Some(3), "because"));
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_limit() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ExternalError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here"), LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "could not start `no-such-program-here`");
    }
}
