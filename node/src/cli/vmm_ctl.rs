//! `godwit vmm-ctl`: one request to a guest process.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::{Args, Subcommand, ValueEnum};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::{ConsoleKind, GuestState, GuestStats};
use serde_json::{Value, json};

use super::guest_args::GuestArgs;
use super::output::{Output, snapshot_json};
use super::restore::RestoreArgs;
use crate::guest_process::client::{Client, ClientError};
use crate::guest_process::exit;

const EXAMPLES: &str = "\
Examples:
  godwit vmm --socket g.sock &
  godwit vmm-ctl --socket g.sock create --serial null --memory 1G
  godwit vmm-ctl --socket g.sock start
  godwit vmm-ctl --socket g.sock console
  godwit vmm-ctl --socket g.sock snapshot snap
  godwit vmm-ctl --socket g.sock stop";

/// Steer a guest process through its socket
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct VmmCtl {
    /// The socket of the guest process
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    request: Request,
}

#[derive(Debug, Subcommand)]
enum Request {
    /// Say which version of the protocol the process speaks
    Hello,
    /// Build a guest, ready to start
    Create(Box<GuestArgs>),
    /// Build a guest from a snapshot, ready to start
    Restore {
        /// Directory of the snapshot
        dir: PathBuf,
        #[command(flatten)]
        options: RestoreArgs,
    },
    /// Let a new guest run
    Start,
    /// Pause a running guest
    Pause,
    /// Let a paused guest run
    Resume,
    /// Write the state of a paused guest, without its memory, to a file
    Save {
        /// The file, `-` for stdout
        file: PathBuf,
    },
    /// Write a snapshot to a new directory
    Snapshot {
        /// The directory
        dir: PathBuf,
    },
    /// Show counters
    Stats {
        /// How
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Connect stdin and stdout with a console, until one of them ends
    Console {
        /// The virtio console in place of the serial port
        #[arg(long)]
        r#virtio: bool,
    },
    /// Press the power button
    PowerButton,
    /// Reset the guest
    Reset,
    /// Stop the guest and its process
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A JSON document
    Json,
}

impl VmmCtl {
    pub(super) fn execute(&self) -> ExitCode {
        let output = Output::default();
        match self.run(output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output.fail(&error),
        }
    }

    fn run(&self, output: Output) -> Result<(), CodedError> {
        let mut client = Client::connect(&self.socket).map_err(|error| error.coded())?;
        let done = match &self.request {
            Request::Hello => {
                return print(&format!("protocol version {}", client.version()));
            }
            Request::Create(guest) => client.create(&guest.spec()),
            Request::Restore { dir, options } => {
                client.restore(&text(dir)?, options.lazy(), options.overrides())
            }
            Request::Start => client.start(),
            Request::Pause => client.pause(),
            Request::Resume => client.resume(),
            Request::PowerButton => client.press_power_button(),
            Request::Reset => client.reset(),
            Request::Save { file } => {
                let state = client.save().map_err(|error| error.coded())?;
                return write_file(file, &state);
            }
            Request::Snapshot { dir } => {
                let report = client
                    .snapshot(&text(dir)?)
                    .map_err(|error| error.coded())?;
                return print(&snapshot_json(dir, &report).to_string());
            }
            Request::Stats { output } => {
                let stats = client.stats().map_err(|error| error.coded())?;
                return print(&match output {
                    Format::Json => stats_json(&stats).to_string(),
                    Format::Text => stats_text(&stats),
                });
            }
            Request::Console { r#virtio } => {
                let which = match r#virtio {
                    true => ConsoleKind::Virtio,
                    false => ConsoleKind::Serial,
                };
                return console(client, which);
            }
            Request::Stop => client
                .stop()
                .map(|reason| output.say(&exit::describe(&reason))),
        };
        done.map_err(|error: ClientError| error.coded())
    }
}

/// A path as another process, with another working directory, can use it.
fn text(path: &Path) -> Result<String, CodedError> {
    let absolute = std::path::absolute(path)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok());
    absolute.ok_or_else(|| {
        let message = format!("path {path:?} is not valid UTF-8");
        CodedError::new(ErrorCode::Usage, message).with_fix("use another name")
    })
}

fn print(text: &str) -> Result<(), CodedError> {
    writeln!(io::stdout(), "{text}").map_err(|error| broken("stdout", &error))
}

fn broken(what: &str, error: &io::Error) -> CodedError {
    CodedError::new(ErrorCode::Other, format!("cannot write to {what}: {error}"))
        .with_fix("check what reads it, and its disk")
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CodedError> {
    let written = match path.as_os_str() == "-" {
        true => io::stdout().write_all(bytes),
        false => std::fs::write(path, bytes),
    };
    written.map_err(|error| broken(&path.display().to_string(), &error))
}

/// Carries bytes both ways until the guest's side closes. The end of stdin leaves the output running.
fn console(client: Client, which: ConsoleKind) -> Result<(), CodedError> {
    let failed = |error: io::Error| broken("the console", &error);
    let console = client
        .attach_console(which)
        .map_err(|error| error.coded())?;
    let mut input = console.stream.try_clone().map_err(failed)?;
    thread::spawn(move || {
        let copied = io::copy(&mut io::stdin(), &mut input);
        if copied.is_err() {
            // The other direction notices and says so.
            let _ = input.shutdown(Shutdown::Both);
        }
    });
    let mut stream = &console.stream;
    let mut stdout = io::stdout();
    stdout
        .write_all(&console.received)
        .and_then(|()| stdout.flush())
        .map_err(failed)?;
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let written = stdout.write_all(&chunk[..length]);
                written
                    .and_then(|()| stdout.flush())
                    .map_err(|error| broken("stdout", &error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
}

fn state_name(state: GuestState) -> &'static str {
    match state {
        GuestState::Created => "created",
        GuestState::Running => "running",
        GuestState::Paused => "paused",
        GuestState::Stopped => "stopped",
    }
}

fn stats_json(stats: &GuestStats) -> Value {
    let devices: serde_json::Map<String, Value> = stats
        .devices
        .iter()
        .map(|device| {
            let counters = device.counters.iter();
            let counters: serde_json::Map<String, Value> =
                counters.map(|c| (c.name.clone(), c.value.into())).collect();
            (device.id.clone(), counters.into())
        })
        .collect();
    json!({
        "state": state_name(stats.state),
        "memory_bytes": stats.memory_bytes,
        "resident_bytes": stats.resident_bytes,
        "dirty_pages": stats.dirty_pages,
        "uptime_ns": stats.uptime_ns,
        "vcpus": stats.vcpus.iter().map(|vcpu| json!({"exits": vcpu.exits})).collect::<Vec<_>>(),
        "devices": devices,
    })
}

fn stats_text(stats: &GuestStats) -> String {
    let mut lines = vec![
        format!("state     {}", state_name(stats.state)),
        format!("uptime    {:.1} s", stats.uptime_ns as f64 / 1e9),
        format!(
            "memory    {} MiB, {} MiB resident",
            stats.memory_bytes >> 20,
            stats.resident_bytes >> 20
        ),
    ];
    for (index, vcpu) in stats.vcpus.iter().enumerate() {
        lines.push(format!("vcpu {index:<4} {} exits", vcpu.exits));
    }
    for device in &stats.devices {
        let counters = device
            .counters
            .iter()
            .map(|c| format!("{} {}", c.name, c.value));
        lines.push(format!(
            "{:<9} {}",
            device.id,
            counters.collect::<Vec<_>>().join(", ")
        ));
    }
    lines.join("\n")
}
