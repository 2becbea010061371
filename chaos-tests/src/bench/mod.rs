//! Benchmarks: Godwit beside its peer, run by run in turn, on this machine.
//!
//! A subject is a list of [`Row`]s. Where there is a peer both are measured in the
//! same minutes, alternating, because other load on the machine comes and goes;
//! numbers of different runs are never compared. A row that cannot be measured
//! says so and makes the whole run fail; a missed aim does not.
//!
//! See `docs/benchmarks.md` for what each row means.

pub mod control;
pub mod document;
pub mod godwit;
pub mod guests;
mod image;
mod migrate;
pub mod overhead;
pub mod peer;
pub mod program;
pub mod qmp;
pub mod row;
mod run;
pub mod samples;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::nested::HostError;
use crate::nested::external::ExternalError;

pub use document::Document;
pub use peer::Peer;
pub use program::Program;
pub use row::{Aim, Row};
pub use samples::Samples;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A call of the system failed.
    #[error("could not {doing}")]
    System {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program did not show what was waited for.
    #[error("{program} showed no {expected:?}; its errors end with {said:?}")]
    NotSeen {
        /// The program.
        program: String,
        /// What was waited for.
        expected: String,
        /// The end of its standard error.
        said: String,
    },
    /// A report line lacks a value.
    #[error("no {key} in {line:?}")]
    Report {
        /// The line.
        line: String,
        /// What was looked for.
        key: String,
    },
    /// A helper program failed.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// QEMU did not do what it was asked.
    #[error("QEMU: {0}")]
    Peer(String),
    /// The guest in this process did not do what it was asked.
    #[error("guest in this process")]
    Guest(#[from] godwit_vmm::guest::GuestError),
    /// The emulated host did not do what it was asked.
    #[error("nested host")]
    Nested(#[from] HostError),
    /// The program to measure could not be built.
    #[error("cargo built no godwit")]
    NoProgram,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One guest: start, memory, pause, snapshot, devices.
    Run,
    /// A guest that moves: blackout, bytes, time, what it costs.
    Migrate,
    /// Commits, a leader that is killed, placement.
    Control,
}

impl Subject {
    /// All, by name.
    pub const ALL: [(&'static str, Self); 3] = [
        ("run", Self::Run),
        ("migrate", Self::Migrate),
        ("control", Self::Control),
    ];

    /// The one called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, subject)| *subject)
    }

    /// What its parts are called, for `--only`.
    #[must_use]
    pub fn parts(self) -> Vec<&'static str> {
        match self {
            Self::Run => run::parts(),
            Self::Migrate => migrate::parts(),
            Self::Control => control::parts(),
        }
    }
}

/// What every measurement has at hand.
#[derive(Debug)]
pub struct Bench {
    /// Whether it shall end in minutes.
    pub quick: bool,
    /// Measure only the parts whose name contains this; all when empty.
    pub only: String,
    /// The program under measurement; this one where there are no guests.
    pub godwit: PathBuf,
    /// QEMU, if it can be had.
    pub peer: Option<Peer>,
    /// An empty folder on the disk that snapshots are written to.
    pub folder: tempfile::TempDir,
}

impl Bench {
    /// Builds Godwit and looks for the peer, where `subject` is about guests.
    ///
    /// # Errors
    /// When Godwit cannot be built.
    pub fn prepare(subject: Subject, quick: bool, only: &str) -> Result<Self, BenchError> {
        let has_guests = subject != Subject::Control;
        let this = std::env::current_exe().map_err(|source| BenchError::System {
            doing: "find this program".into(),
            source,
        })?;
        let godwit = if has_guests { godwit::program()? } else { this };
        let beside = godwit.parent().unwrap_or(&godwit);
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(beside)
            .map_err(|source| BenchError::System {
                doing: format!("make a folder in {}", beside.display()),
                source,
            })?;
        Ok(Self {
            quick,
            only: only.to_owned(),
            godwit,
            peer: if has_guests { Peer::find() } else { None },
            folder,
        })
    }

    /// Measures `subject`.
    #[must_use]
    pub fn measure(&self, subject: Subject) -> Document {
        let mut document = Document::new(self);
        match subject {
            Subject::Run => run::measure(self, &mut document),
            Subject::Migrate => migrate::measure(self, &mut document),
            Subject::Control => control::measure(self, &mut document),
        }
        document
    }

    /// `quick` repeats, or `full` ones.
    fn repeats(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Repeats `round` until it was done `repeats` times or `limit` is over, at least once.
fn rounds(
    repeats: usize,
    limit: Duration,
    mut round: impl FnMut() -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + limit;
    for done in 0..repeats {
        if done > 0 && Instant::now() >= deadline {
            eprintln!("bench: out of time after {done} of {repeats} rounds");
            break;
        }
        round()?;
    }
    Ok(())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_by_count_or_by_time_but_are_never_none() {
        let count = |repeats, limit| {
            let mut done = 0;
            rounds(repeats, limit, || {
                done += 1;
                Ok(())
            })
            .unwrap();
            done
        };
        assert_eq!(count(3, Duration::from_secs(60)), 3);
        assert_eq!(count(3, Duration::ZERO), 1);
    }

    #[test]
    fn subjects_are_known_by_name() {
        assert_eq!(Subject::named("run"), Some(Subject::Run));
        assert_eq!(Subject::named("walk"), None);
    }
}
