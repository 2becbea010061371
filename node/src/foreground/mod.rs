//! A guest in the foreground: its console on this terminal, until it ends or the user leaves.
//!
//! One loop waits for keys, signals and the guest's end, and never blocks on anything else: a
//! snapshot is written by a thread of its own. When the guest does not read, keys typed at a terminal
//! are lost after 64 KiB, so that Ctrl-A x always works; other input waits.

pub mod keys;
pub mod signals;
pub mod terminal;

use std::fs;
use std::io::{self, ErrorKind, PipeWriter, Stdin, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::ExitReason;
use godwit_vmm::devices::terminal::InputPump;

use crate::cli::output::Output;
use crate::guest_process::machine::Machine;
use crate::wait::{self, Watched};
use keys::{Action, Input, Keys};
use signals::Signals;
use terminal::RawTerminal;

/// Bytes read from stdin at once.
const CHUNK: usize = 1024;
/// Snapshots in one directory.
const MAX_SNAPSHOTS: u32 = 9999;

const HELP: &str = "Ctrl-A x  stop the guest and leave\n\
                    Ctrl-A s  write a snapshot into --snapshot-dir\n\
                    Ctrl-A p  press the power button\n\
                    Ctrl-A r  reset the guest\n\
                    Ctrl-A h  this help\n\
                    Ctrl-A Ctrl-A  send Ctrl-A to the guest";

/// A guest that runs in the foreground.
pub struct Foreground {
    machine: Arc<Machine>,
    output: Output,
    snapshot_dir: Option<PathBuf>,
    keys: Keys,
    input: Source,
    snapshot: Option<JoinHandle<()>>,
}

/// Where keys come from and where the guest's go.
struct Source {
    stdin: Stdin,
    /// False after its end.
    open: bool,
    is_terminal: bool,
    guest: Option<(PipeWriter, InputPump)>,
    /// Keys for the guest that it has not taken.
    held: Vec<u8>,
}

impl Foreground {
    /// Puts the guest of `machine` in the foreground.
    #[must_use]
    pub fn new(machine: Arc<Machine>, output: Output, snapshot_dir: Option<PathBuf>) -> Self {
        Self {
            machine,
            output,
            snapshot_dir,
            keys: Keys::default(),
            input: Source {
                stdin: io::stdin(),
                open: false,
                is_terminal: false,
                guest: None,
                held: Vec::new(),
            },
            snapshot: None,
        }
    }

    /// Starts the guest and stays until it has ended.
    ///
    /// # Errors
    /// It cannot be started, or its console not be connected; the guest has ended then.
    pub fn run(mut self, signals: Signals) -> Result<ExitReason, CodedError> {
        let ran = self.attach().and_then(|terminal| {
            // A guest that was moved here runs already.
            if !self.machine.is_running()? {
                self.machine.start()?;
            }
            self.serve(&signals)?;
            Ok(terminal)
        });
        // The end of the guest includes that of a snapshot that is being written.
        let reason = self.machine.end(ExitReason::Stopped);
        if let Some(snapshot) = self.snapshot.take()
            && snapshot.join().is_err()
        {
            tracing::error!("the thread that writes snapshots panicked");
        }
        ran.map(|terminal| {
            drop(terminal);
            reason
        })
    }

    fn attach(&mut self) -> Result<Option<RawTerminal>, CodedError> {
        let failed = |error: io::Error| {
            CodedError::from_error(ErrorCode::Console, &error).with_fix("try --serial null")
        };
        self.input.guest = self.machine.stdin()?;
        self.input.open = terminal::is_ours(&self.input.stdin);
        if !self.input.open || self.input.guest.is_none() {
            // A terminal that is not the guest's keeps its own ways, Ctrl-C among them.
            return Ok(None);
        }
        let terminal = RawTerminal::enter(&self.input.stdin).map_err(failed)?;
        self.input.is_terminal = terminal.is_some();
        if self.input.is_terminal {
            self.output.say("Ctrl-A x to leave, Ctrl-A h for help");
        }
        Ok(terminal)
    }

    /// Returns when the guest has ended, or is to.
    fn serve(&mut self, signals: &Signals) -> Result<(), CodedError> {
        let failed = |error: io::Error| CodedError::from_error(ErrorCode::Console, &error);
        let stdout = io::stdout();
        loop {
            let ended = self.machine.ended();
            let idle = ended;
            let blocked = !self.input.held.is_empty();
            let reads = self.input.open && (!blocked || self.input.is_terminal);
            let room = self.input.guest.as_ref().filter(|_| blocked);
            let watched = [
                Watched::readable(&ended),
                Watched::readable(signals),
                match reads {
                    true => Watched::readable(&self.input.stdin),
                    false => Watched::broken(&idle),
                },
                match &room {
                    Some((pipe, _)) => Watched::writable(pipe),
                    None => Watched::broken(&idle),
                },
                // Whoever read the guest's output has gone: this is its end, as of any filter.
                match self.input.guest.is_some() {
                    true => Watched::broken(&stdout),
                    false => Watched::broken(&idle),
                },
            ];
            let [ended, signalled, keys, room, unheard] =
                wait::ready(watched, None).map_err(failed)?;
            if ended || signalled {
                return Ok(());
            }
            if unheard {
                let error = CodedError::new(ErrorCode::Console, "stdout is closed");
                return Err(error.with_fix("keep its reader, or use --serial file:PATH or null"));
            }
            if room {
                self.input.deliver(&[]).map_err(failed)?;
            }
            if keys && self.read_keys().map_err(failed)? {
                return Ok(());
            }
        }
    }

    /// Reads and obeys; true when the user leaves.
    fn read_keys(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let length = self.input.read(&mut chunk)?;
        for input in self.keys.read(&chunk[..length]) {
            match input {
                Input::Guest(bytes) => self.input.deliver(&bytes)?,
                Input::Do(Action::Leave) => return Ok(true),
                Input::Do(Action::Help) => self.output.say(HELP),
                Input::Do(Action::Snapshot) => self.start_snapshot(),
                Input::Do(Action::PowerButton) => {
                    self.report(self.machine.press_power_button(), "power button pressed");
                }
                Input::Do(Action::Reset) => self.report(self.machine.reset(), "guest reset"),
            }
        }
        Ok(false)
    }

    fn report(&self, result: Result<(), CodedError>, done: &str) {
        match result {
            Ok(()) => self.output.say(done),
            Err(error) => self.output.error(&error),
        }
    }

    fn start_snapshot(&mut self) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return self.output.say("a snapshot is being written already");
        }
        let Some(parent) = self.snapshot_dir.clone() else {
            let error =
                CodedError::new(ErrorCode::SnapshotWrite, "there is no place for a snapshot");
            return self
                .output
                .error(&error.with_fix("start with --snapshot-dir DIR"));
        };
        let (machine, output) = (self.machine.clone(), self.output);
        let writer = move || match snapshot_into(&machine, &parent) {
            Ok((dir, report)) => output.snapshot(&dir, &report),
            Err(error) => output.error(&error),
        };
        match thread::Builder::new().name("snapshot".into()).spawn(writer) {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => {
                self.output
                    .error(&CodedError::from_error(ErrorCode::SnapshotWrite, &error));
            }
        }
    }
}

impl Source {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        // Past the buffer of `Stdin`: what it holds back, poll does not see.
        let length = match rustix::io::read(self.stdin.as_fd(), chunk) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(0),
            // A terminal whose other side is gone.
            Err(rustix::io::Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        self.open = length > 0;
        Ok(length)
    }

    /// Gives the guest what is held and `bytes`; holds what it does not take. What would be too much
    /// from a terminal is lost.
    fn deliver(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((pipe, _)) = &mut self.guest else {
            return Ok(());
        };
        if self.held.is_empty() || !self.is_terminal {
            self.held.extend_from_slice(bytes);
        }
        while !self.held.is_empty() {
            match pipe.write(&self.held) {
                Ok(taken) => drop(self.held.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes a snapshot into the first free `NNNN` of `parent`, which is created when missing.
fn snapshot_into(
    machine: &Machine,
    parent: &Path,
) -> Result<(PathBuf, godwit_proto::process::SnapshotReport), CodedError> {
    let failed = |error: io::Error| {
        let message = format!("cannot use snapshot directory {}", parent.display());
        CodedError::new(ErrorCode::SnapshotWrite, format!("{message}: {error}"))
            .with_fix("check the path and its permissions")
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let free = (1..=MAX_SNAPSHOTS)
        .map(|number| parent.join(format!("{number:04}")))
        .find(|dir| dir.symlink_metadata().is_err());
    let dir = free.ok_or_else(|| {
        let message = format!("{} holds {MAX_SNAPSHOTS} snapshots", parent.display());
        CodedError::new(ErrorCode::SnapshotWrite, message).with_fix("remove some")
    })?;
    machine.snapshot(&dir).map(|report| (dir, report))
}
