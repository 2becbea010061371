//! Watches all guest processes of all nodes, without asking the cluster: does any guest run twice, and does
//! any find a page that is not as it left it?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::GuestState;

use crate::guest_process::client::{Client, ClientError};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// How often all processes were looked at.
    pub(super) looks: u64,
    /// How often one guest ran in two processes at one moment.
    pub(super) dual_run: u64,
    /// Times that guests compared all their memory with what they had written.
    pub(super) checks: u64,
    /// Pages that were not as a guest had left them.
    pub(super) wrong_pages: u64,
}

/// A thread that watches.
pub(super) struct Witness {
    thread: JoinHandle<Seen>,
    stop: Arc<AtomicBool>,
}

impl Witness {
    /// Watches the guest processes in `directories`.
    pub(super) fn start(directories: Vec<PathBuf>) -> Result<Self, CodedError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("witness".into())
            .spawn(move || watch(&directories, &stopped))
            .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
        Ok(Self { thread, stop })
    }

    /// What it has seen.
    pub(super) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

fn watch(directories: &[PathBuf], stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut clients: BTreeMap<PathBuf, Client> = BTreeMap::new();
    let mut logs: BTreeMap<PathBuf, (u64, u64)> = BTreeMap::new();
    while !stop.load(Ordering::Acquire) {
        let processes = processes(directories);
        clients.retain(|dir, _| processes.contains(dir));
        let mut running: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for dir in &processes {
            if runs(&mut clients, dir) {
                running.entry(guest_of(dir)).or_default().push(dir.clone());
            }
            read_checks(dir, &mut logs);
        }
        // Two that are seen running one after the other may have handed the guest over in between. When
        // the first still runs after the second was seen to, both did at once.
        for dirs in running.values().filter(|dirs| dirs.len() > 1) {
            if dirs.iter().rev().all(|dir| runs(&mut clients, dir)) {
                seen.dual_run += 1;
            }
        }
        seen.looks += 1;
        thread::sleep(LOOK);
    }
    for (checks, wrong) in logs.values() {
        seen.checks += checks;
        seen.wrong_pages += wrong;
    }
    seen
}

fn processes(directories: &[PathBuf]) -> Vec<PathBuf> {
    let entries = directories.iter().filter_map(|dir| fs::read_dir(dir).ok());
    entries
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// The guest that a directory is of.
fn guest_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn runs(clients: &mut BTreeMap<PathBuf, Client>, dir: &Path) -> bool {
    if !clients.contains_key(dir) {
        match Client::connect(&dir.join("guest.sock")) {
            Ok(client) => clients.insert(dir.to_path_buf(), client),
            // It is only starting, or gone.
            Err(_) => return false,
        };
    }
    let Some(client) = clients.get_mut(dir) else {
        return false;
    };
    match client.stats() {
        Ok(stats) => stats.state == GuestState::Running,
        // There is no guest in it yet.
        Err(ClientError::Refused(_)) => false,
        Err(_) => {
            clients.remove(dir);
            false
        }
    }
}

/// What a guest has said so far of its memory: how often it looked, and what was wrong. The file goes with
/// its process, so what was read last is kept.
fn read_checks(dir: &Path, logs: &mut BTreeMap<PathBuf, (u64, u64)>) {
    let Ok(text) = fs::read(dir.join("serial.log")) else {
        return;
    };
    let text = String::from_utf8_lossy(&text);
    let (mut checks, mut wrong) = (0, 0);
    for line in text.lines().filter(|line| line.starts_with("check ")) {
        let number = |key: &str| {
            let mut words = line.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(key))?;
            value.parse::<u64>().ok()
        };
        if let Some(found) = number("wrong=") {
            checks += 1;
            wrong = wrong.max(found);
        }
    }
    logs.insert(dir.to_path_buf(), (checks, wrong));
}
