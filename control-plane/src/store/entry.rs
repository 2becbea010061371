//! An entry of the log in memory.

use std::fmt;
use std::sync::Arc;

use godwit_proto::cluster::{Entry, EntryError};
use godwit_proto::raft::{LogEntry, LogId, LogPayload, Membership};

/// An entry of the log in memory: cheap to clone, its command decoded once.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// Its place.
    pub id: LogId,
    /// What it says.
    pub payload: Payload,
}

/// What an entry of the log says.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Nothing: a leader's first entry.
    Blank,
    /// Something for the cluster's state.
    Command(Command),
    /// From here on these are the members.
    Membership(Arc<Membership>),
}

/// A command, as it is applied and as it is written.
#[derive(Clone)]
pub struct Command {
    entry: Arc<Entry>,
    bytes: Arc<[u8]>,
}

impl Command {
    /// The command that `entry` proposes.
    ///
    /// # Errors
    /// The entry is too long.
    pub fn new(entry: Entry) -> Result<Self, EntryError> {
        let bytes = entry.encode()?.into();
        let entry = Arc::new(entry);
        Ok(Self { entry, bytes })
    }

    /// The command in `bytes`.
    ///
    /// # Errors
    /// They are no entry, or one of a newer build.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, EntryError> {
        let entry = Arc::new(Entry::decode(&bytes)?);
        let bytes = bytes.into();
        Ok(Self { entry, bytes })
    }

    /// What is to be applied.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What is written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl Logged {
    /// What it takes in memory, in a log file or in a message, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// Headers, pointers, the decoded form's fixed part.
        const FIXED: usize = 256;
        FIXED
            + match &self.payload {
                Payload::Blank => 0,
                Payload::Command(command) => 2 * command.bytes.len(),
                Payload::Membership(membership) => 128 * membership.members.len(),
            }
    }

    /// The entry as it is written.
    #[must_use]
    pub fn to_record(&self) -> LogEntry {
        LogEntry {
            id: self.id,
            payload: match &self.payload {
                Payload::Blank => LogPayload::Blank,
                Payload::Command(command) => LogPayload::Command(command.bytes.to_vec()),
                Payload::Membership(membership) => {
                    LogPayload::Membership(Membership::clone(membership))
                }
            },
        }
    }

    /// The entry that was written.
    ///
    /// # Errors
    /// Its command cannot be read.
    pub fn from_record(record: LogEntry) -> Result<Self, EntryError> {
        Ok(Self {
            id: record.id,
            payload: match record.payload {
                LogPayload::Blank => Payload::Blank,
                LogPayload::Command(bytes) => Payload::Command(Command::decode(bytes)?),
                LogPayload::Membership(membership) => Payload::Membership(membership.into()),
            },
        })
    }
}
