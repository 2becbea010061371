//! The emulated host: one QEMU process, and commands run inside the machine.
//!
//! The machine's agent (see `nested/host-init.sh`) answers on a virtio port that
//! is QEMU's standard input and output here; the machine's serial console goes to
//! a log. Commands run one at a time, each with a limit on both sides. When the
//! agent misses its limit the machine counts as lost and every later call fails.
//!
//! Dropping the host ends QEMU and removes its files; after a failure the logs
//! stay, and where they are is printed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::assets::{Assets, AssetsError};
use super::files::Files;
use super::image::{self, GUEST_INITRD, HostContent, ImageError, LOADED_GUEST_INITRD};

/// Attempts at booting; an emulator under load sometimes needs a second one.
const BOOT_ATTEMPTS: u32 = 2;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A boot no slower than this means a machine on which limits hold as given.
const ORDINARY_BOOT: Duration = Duration::from_secs(8);
const MAX_SLOWNESS: f64 = 6.0;
/// Longer than the steps of the nested test take, by far.
const LIFETIME: Duration = Duration::from_secs(1800);
/// Added to a command's limit inside the machine before it counts as lost.
const GRACE: Duration = Duration::from_secs(20);
/// More output than this from one command is a mistake.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
const MAX_ANSWER_LINE_BYTES: usize = 256;
const READ_BYTES: usize = 64 << 10;
const QUEUED_READS: usize = 64;

/// Why the host did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is nothing to boot from.
    #[error("no assets for an emulated host")]
    Assets(#[from] AssetsError),
    /// Its initramfs could not be made.
    #[error("could not make an initramfs")]
    Image(#[from] ImageError),
    /// A file or process of this machine failed.
    #[error("could not {doing}")]
    System {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// QEMU ended, or its machine powered off.
    #[error("the emulated host ended while {0}")]
    Ended(String),
    /// It did not answer in time.
    #[error("the emulated host did not answer within {limit:?} while {doing}")]
    Silent {
        /// What it was doing.
        doing: String,
        /// How long it was given.
        limit: Duration,
    },
    /// Its answer is not the agent's protocol.
    #[error("the emulated host answered nonsense: {0:?}")]
    Protocol(String),
    /// An earlier failure made the machine unusable.
    #[error("the emulated host was lost earlier")]
    Lost,
    /// A command that had to succeed failed.
    #[error("`{command}` ended with {status} in the emulated host: {output}")]
    Command {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// Everything it wrote.
        output: String,
    },
    /// A program in the host did not show what was waited for.
    #[error("`{program}` showed no {expected:?} within {limit:?}; it ended with:\n{tail}")]
    NotSeen {
        /// The program's name.
        program: String,
        /// What was waited for.
        expected: String,
        /// How long.
        limit: Duration,
        /// The end of its output and errors.
        tail: String,
    },
}

impl HostError {
    /// Whether the machine itself is gone, so that whatever ran in it may be
    /// tried once more on another one. The emulator now and then loses a timer
    /// interrupt, and then the machine stands still.
    #[must_use]
    pub fn is_host_lost(&self) -> bool {
        matches!(
            self,
            Self::Ended(_) | Self::Silent { .. } | Self::Protocol(_) | Self::Lost
        )
    }
}

/// The machine to boot.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Names its logs.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB; it is used only as touched.
    pub memory_mib: u64,
    /// Size of the disk mounted at `/scratch` in MiB (a sparse file here).
    pub scratch_mib: u64,
    /// After so long the machine powers itself off, should nobody else end it.
    pub lifetime: Duration,
    /// What is carried in.
    pub content: HostContent,
}

impl HostSpec {
    /// Two processors, 3 GiB of memory, 1 GiB of scratch disk, half an hour, nothing carried.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cpus: 2,
            memory_mib: 3072,
            scratch_mib: 1024,
            lifetime: LIFETIME,
            content: HostContent::default(),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 137 when it was ended at its limit.
    pub status: i32,
    /// Standard output and standard error.
    pub bytes: Vec<u8>,
}

impl Output {
    /// What it wrote, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A running emulated host.
#[derive(Debug)]
pub struct Host {
    agent: Mutex<Agent>,
    slowness: f64,
    boot_time: Duration,
    // Dropped after `agent`, which ends the QEMU that uses the files.
    files: Files,
}

impl Host {
    /// Boots `spec`, trying twice.
    ///
    /// # Errors
    /// When it does not come up; the logs' place is printed.
    pub fn boot(assets: &Assets, spec: &HostSpec) -> Result<Self, HostError> {
        let mut attempt = 1;
        loop {
            match Self::boot_once(assets, spec) {
                Err(error) if error.is_host_lost() && attempt < BOOT_ATTEMPTS => {
                    eprintln!("nested: boot attempt {attempt} failed: {error}; trying again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn boot_once(assets: &Assets, spec: &HostSpec) -> Result<Self, HostError> {
        let files = Files::create(&spec.name)?;
        let mut initrds = vec![(files.path("guest-initrd"), GUEST_INITRD)];
        image::write_guest(assets, None, &initrds[0].0)?;
        if let Some(load) = &spec.content.load {
            let path = files.path("guest-initrd-load");
            image::write_guest(assets, Some(load), &path)?;
            initrds.push((path, LOADED_GUEST_INITRD));
        }
        let host_initrd = files.path("host-initrd");
        image::write_host(assets, &spec.content, &initrds, &host_initrd)?;
        files.create_scratch(spec.scratch_mib)?;
        let started = Instant::now();
        let mut agent = Agent::start(assets, spec, &files)?;
        agent.await_ready().inspect_err(|_| files.fail())?;
        let boot_time = started.elapsed();
        let slowness = boot_time.as_secs_f64() / ORDINARY_BOOT.as_secs_f64();
        Ok(Self {
            agent: Mutex::new(agent),
            slowness: slowness.clamp(1.0, MAX_SLOWNESS),
            boot_time,
            files,
        })
    }

    /// How long it took from starting QEMU to the agent's first word.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// `limit`, made longer where booting showed that this machine is slow.
    #[must_use]
    pub fn scaled(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.slowness)
    }

    /// Runs one shell command line and waits for its end.
    ///
    /// # Errors
    /// When the machine is gone or does not answer; not when the command fails.
    ///
    /// # Panics
    /// When `command` holds a line break: the protocol has one line per command.
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, HostError> {
        let output = self.ask(command, limit)?;
        let title = format!("$ {command} [{}]", output.status);
        self.files.note(&title, &output.bytes);
        Ok(output)
    }

    /// As [`Host::run`], leaving nothing in the transcript.
    pub(super) fn ask(&self, command: &str, limit: Duration) -> Result<Output, HostError> {
        assert!(!command.contains('\n'), "commands are single lines");
        let mut agent = self.agent.lock().map_err(|_| HostError::Lost)?;
        let result = agent.run(command, self.scaled(limit));
        if agent.lost {
            self.files.fail();
        }
        result
    }

    /// Runs one shell command line that has to succeed, and returns its output.
    ///
    /// # Errors
    /// As [`Host::run`], and when the command fails.
    pub fn check(&self, command: &str, limit: Duration) -> Result<String, HostError> {
        let output = self.run(command, limit)?;
        if output.status != 0 {
            self.files.fail();
            return Err(HostError::Command {
                command: command.to_owned(),
                status: output.status,
                output: output.text(),
            });
        }
        Ok(output.text())
    }

    /// Keeps the logs when the host is dropped.
    pub(super) fn fail(&self) {
        self.files.fail();
    }

    /// Adds `bytes` under `title` to the transcript.
    pub(super) fn note(&self, title: &str, bytes: &[u8]) {
        self.files.note(title, bytes);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.files.fail();
        }
    }
}

/// The QEMU process and the conversation with the agent in its machine.
#[derive(Debug)]
struct Agent {
    qemu: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Received and not yet understood.
    pending: Vec<u8>,
    commands: u64,
    lost: bool,
}

impl Agent {
    fn start(assets: &Assets, spec: &HostSpec, files: &Files) -> Result<Self, HostError> {
        let system = |doing: &str| {
            let doing = doing.to_owned();
            move |source| HostError::System { doing, source }
        };
        let errors = File::create(files.path("qemu.log")).map_err(system("create a log"))?;
        let mut qemu = assets
            .qemu()
            .args(arguments(spec, assets.kernel(), files))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(system("start QEMU"))?;
        let (Some(input), Some(output)) = (qemu.stdin.take(), qemu.stdout.take()) else {
            unreachable!("both were asked for as pipes");
        };
        Ok(Self {
            qemu,
            input,
            output: read_in_background(output),
            pending: Vec::new(),
            commands: 0,
            lost: false,
        })
    }

    fn await_ready(&mut self) -> Result<(), HostError> {
        let deadline = Deadline::new("booting", BOOT_LIMIT);
        let line = self.line(&deadline)?;
        if line.starts_with("READY ") {
            return Ok(());
        }
        Err(HostError::Protocol(line))
    }

    fn run(&mut self, command: &str, limit: Duration) -> Result<Output, HostError> {
        if self.lost {
            return Err(HostError::Lost);
        }
        // Every early return leaves the conversation in an unknown state.
        self.lost = true;
        self.commands += 1;
        let doing = format!("running `{command}`");
        let request = format!("{} {} {command}\n", self.commands, limit.as_secs().max(1));
        self.input
            .write_all(request.as_bytes())
            .and_then(|()| self.input.flush())
            .map_err(|_| HostError::Ended(doing.clone()))?;
        let deadline = Deadline::new(&doing, limit + GRACE);
        let line = self.line(&deadline)?;
        let (status, size) = parse_answer(&line, self.commands).ok_or(HostError::Protocol(line))?;
        while self.pending.len() < size {
            self.receive(&deadline)?;
        }
        let bytes = self.pending.drain(..size).collect();
        self.lost = false;
        Ok(Output { status, bytes })
    }

    fn line(&mut self, deadline: &Deadline) -> Result<String, HostError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.pending.len() > MAX_ANSWER_LINE_BYTES {
                let text = String::from_utf8_lossy(&self.pending).into_owned();
                return Err(HostError::Protocol(text));
            }
            self.receive(deadline)?;
        }
    }

    fn receive(&mut self, deadline: &Deadline) -> Result<(), HostError> {
        match self.output.recv_timeout(deadline.left()) {
            Ok(bytes) => {
                self.pending.extend(bytes);
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(HostError::Ended(deadline.doing.clone())),
            Err(RecvTimeoutError::Timeout) => Err(HostError::Silent {
                doing: deadline.doing.clone(),
                limit: deadline.limit,
            }),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing left to do in any case.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

struct Deadline {
    doing: String,
    limit: Duration,
    at: Instant,
}

impl Deadline {
    fn new(doing: &str, limit: Duration) -> Self {
        Self {
            doing: doing.to_owned(),
            limit,
            at: Instant::now() + limit,
        }
    }

    fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// `DONE NUMBER STATUS BYTES`, as (status, bytes).
fn parse_answer(line: &str, number: u64) -> Option<(i32, usize)> {
    let mut words = line.strip_prefix("DONE ")?.split(' ');
    let answered: u64 = words.next()?.parse().ok()?;
    let status = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let fits = words.next().is_none() && answered == number && size <= MAX_OUTPUT_BYTES;
    fits.then_some((status, size))
}

/// The thread ends with QEMU's output or with the receiver.
fn read_in_background(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(QUEUED_READS);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Two processors need `thread=multi`, and an SMP machine `tsc=reliable`, which it
/// would otherwise give up for a slower clock; `EPYC` emulates faster than `max`.
fn arguments(spec: &HostSpec, kernel: &Path, files: &Files) -> Vec<String> {
    let show = |path: &Path| path.display().to_string();
    let append = format!(
        "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable host.lifetime={}",
        spec.lifetime.as_secs()
    );
    let scratch = format!(
        "if=none,id=scratch,format=raw,cache=unsafe,file={}",
        show(&files.path("scratch"))
    );
    let console = format!("file:{}", show(&files.path("console.log")));
    let mut arguments: Vec<String> = [
        "-nodefaults -no-user-config -display none -no-reboot",
        "-accel tcg,thread=multi,tb-size=512 -M q35 -cpu EPYC",
        "-device virtio-blk-pci,drive=scratch",
        "-device virtio-rng-pci",
        "-device virtio-serial-pci",
        "-chardev stdio,id=agent,signal=off",
        "-device virtserialport,chardev=agent,name=agent",
    ]
    .iter()
    .flat_map(|words| words.split(' ').map(str::to_owned))
    .collect();
    for (option, value) in [
        ("-smp", spec.cpus.to_string()),
        ("-m", spec.memory_mib.to_string()),
        ("-kernel", show(kernel)),
        ("-initrd", show(&files.path("host-initrd"))),
        ("-append", append),
        ("-drive", scratch),
        ("-serial", console),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_status_and_size_of_its_own_command_only() {
        assert_eq!(parse_answer("DONE 7 0 12", 7), Some((0, 12)));
        assert_eq!(parse_answer("DONE 7 137 0", 7), Some((137, 0)));
        assert_eq!(parse_answer("DONE 6 0 12", 7), None);
        assert_eq!(parse_answer("DONE 7 0", 7), None);
        assert_eq!(parse_answer("DONE 7 0 12 13", 7), None);
        assert_eq!(parse_answer("DONE 7 0 99999999999", 7), None);
        assert_eq!(parse_answer("READY 3.2", 7), None);
    }
}
