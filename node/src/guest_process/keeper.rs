//! The memory of a guest that was moved away, kept for a while for a quick way back.
//!
//! ```text
//!  source process                keeper                     godwit receive
//!  guest was moved
//!    |-- starts, memory file --> listens in a directory of
//!   ends                         its user's, under the name
//!                                of the migration
//!                                  <-- HandOver -----------  the guest comes back
//!                                  --- memory file ------->  takes only what differs
//!                                ends, or ends after its time
//! ```
//!
//! The memory is as it was when the guest left. It is given away once, because whoever takes it writes it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::MigrationId;
use godwit_proto::process::{REQUEST_LIMITS, Request, Response, VERSIONS};

use super::connection::{Connection, ConnectionError, Received};
use super::handover;
use super::socket::Socket;
use crate::wait::{self, Watched};

/// How long a client may take to say what it wants.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// Where the keeper of the memory that was left by `migration` listens.
///
/// # Errors
/// The directory is not this user's, or cannot be made.
pub fn socket_of(migration: MigrationId) -> io::Result<PathBuf> {
    Ok(directory()?.join(format!("left-by-{migration}.sock")))
}

/// A directory for this user's sockets: below `$XDG_RUNTIME_DIR`, else in `/tmp`.
fn directory() -> io::Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => Path::new(&runtime).join("godwit"),
        None => PathBuf::from(format!("/tmp/godwit-{user}")),
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // In /tmp anybody could have made it.
    let found = fs::symlink_metadata(&dir)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let text = format!("{} is not a directory of this user alone", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(dir)
}

/// Starts a process that keeps `memory` for `time`, and waits until it does.
///
/// # Errors
/// It cannot be started, or says why it does not.
pub fn start(memory: &File, migration: MigrationId, time: Duration) -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let arguments: [OsString; 5] = [
        "keep-memory".into(),
        "--left-by".into(),
        migration.to_string().into(),
        "--for-ms".into(),
        time.as_millis().to_string().into(),
    ];
    let mut keeper = Command::new(program);
    keeper
        .args(arguments)
        .stdin(Stdio::from(memory.try_clone()?))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // It outlives this process, which ends before it.
    let said = keeper.spawn()?.stdout.take();
    let said = said.ok_or_else(|| io::Error::other("the keeper has no output"))?;
    let deadline = Instant::now() + START_TIME;
    if let [false] = wait::ready([Watched::readable(&said)], Some(deadline))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // It writes one short line at once.
    let mut line = String::new();
    BufReader::new(said.take(MAX_LINE)).read_line(&mut line)?;
    match line.trim_end() {
        READY => Ok(()),
        "" => Err(io::Error::other("its keeper died at once")),
        why => Err(io::Error::other(why.to_owned())),
    }
}

/// What a keeper writes that keeps memory; else it writes why not.
const READY: &str = "ready";
/// How long a keeper may take to say so.
const START_TIME: Duration = Duration::from_secs(5);
/// No line of a keeper is longer.
const MAX_LINE: u64 = 4096;

/// Keeps the memory that is this process's standard input, until somebody takes it or `time` is over.
///
/// # Errors
/// It cannot be kept.
pub fn keep(migration: MigrationId, time: Duration) -> Result<(), CodedError> {
    let failed = |error: io::Error| CodedError::from_error(ErrorCode::Other, &error);
    let deadline = Instant::now() + time;
    let memory = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let socket = socket_of(migration).map_err(failed)?;
    let socket = Socket::bind(&socket).map_err(|error| error.coded())?;
    // Whoever started it may be gone.
    let _ = writeln!(io::stdout(), "{READY}");
    loop {
        let watched = [Watched::readable(socket.listener())];
        let [somebody] = wait::ready(watched, Some(deadline)).map_err(failed)?;
        if !somebody {
            return Ok(());
        }
        let Ok((stream, _)) = socket.listener().accept() else {
            continue;
        };
        match serve(stream, &memory, migration) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => tracing::info!(%error, "a client was let go"),
        }
    }
}

/// Serves one client; whether it took the memory.
fn serve(
    stream: UnixStream,
    memory: &File,
    migration: MigrationId,
) -> Result<bool, ConnectionError> {
    let mut connection = Connection::new(stream, REQUEST_LIMITS)?;
    let version = connection.receive_hello(VERSIONS)?;
    connection.send_hello(VERSIONS)?;
    let Received::Frame(frame) = connection.receive(None, Some(CLIENT_TIME))? else {
        return Ok(false);
    };
    if Request::from_frame(&frame)? != Request::HandOver {
        let text = "the guest was moved; only its memory is kept here, for its way back";
        let refusal = Response::Error(CodedError::new(ErrorCode::WrongState, text));
        connection.send(&refusal.to_frame(version)?)?;
        return Ok(false);
    }
    let answer = Response::HandedOver {
        taps: Vec::new(),
        left_by: Some(migration),
    };
    connection.send(&answer.to_frame(version)?)?;
    let (stream, _) = connection.into_stream();
    handover::send(&stream, [memory].into_iter())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::guest_process::client::Client;

    #[test]
    fn kept_memory_is_given_to_whoever_asks_for_it_and_to_nobody_else() {
        let left_by = MigrationId::from_bytes([9; 16]);
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(b"as it was").unwrap();
        let serve_one = |memory: &File| {
            let (client, keeper) = UnixStream::pair().unwrap();
            let memory = memory.try_clone().unwrap();
            let serving = thread::spawn(move || serve(keeper, &memory, left_by));
            (Client::over(client).unwrap(), serving)
        };
        let (mut client, serving) = serve_one(&memory);
        assert!(client.stats().is_err());
        assert!(!serving.join().unwrap().unwrap());

        let (client, serving) = serve_one(&memory);
        let (heirloom, found) = client.take_over().unwrap();
        assert!(serving.join().unwrap().unwrap());
        assert_eq!(found, Some(left_by));
        assert_eq!(heirloom.memory.metadata().unwrap().len(), 9);
        assert!(heirloom.taps.is_none());
    }
}
