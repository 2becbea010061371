//! A command as it stands in the log: a [sequence of records](crate::record), the header first.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Command, limits};
use crate::id::{RequestId, Timestamp};
use crate::record;
use crate::record::{Kind, RawRecord, RecordError, RecordReader, RecordWriter};

/// The longest entry, in bytes: one with a receipt of full length is below 100 KiB.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;

/// A command, with all that applying it needs to know of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When and by whom it was proposed.
    pub header: EntryHeader,
    /// What is to be done.
    pub command: Command,
}

/// When and by whom a command was proposed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// The proposer's time of day. The state's own time never goes back.
    pub now: Timestamp,
    /// Who asked: a user, or a part of the control plane.
    pub actor: String,
    /// Sent with each repetition of a request, so that it is done once.
    pub request: Option<RequestId>,
}
record!(EntryHeader, Kind::ClusterEntry, version = 1);

/// Why an entry cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Its records are not right.
    #[error("malformed log entry")]
    Record(#[from] RecordError),
    /// It has no command, or several.
    #[error("a log entry holds one command, this one {count}")]
    Commands {
        /// How many.
        count: usize,
    },
    /// It is too long.
    #[error("log entry of {length} bytes is longer than {MAX_ENTRY_BYTES}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl Entry {
    /// The entry as bytes.
    ///
    /// # Errors
    /// [`EntryError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut writer = RecordWriter::new();
        writer.push(&self.header)?;
        match &self.command {
            Command::Node(command) => writer.push(command)?,
            Command::Guest(command) => writer.push(command)?,
            Command::Migration(command) => writer.push(command)?,
            Command::Resource(command) => writer.push(command)?,
            Command::Cluster(command) => writer.push(command)?,
        }
        let bytes = writer.finish()?;
        check_length(&bytes)?;
        Ok(bytes)
    }

    /// The entry in `bytes`. Unknown optional records are skipped.
    ///
    /// # Errors
    /// Anything wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        check_length(bytes)?;
        let mut reader = RecordReader::new(bytes)?;
        let header = reader.one()?;
        let mut commands = Vec::new();
        for record in reader.remaining() {
            commands.extend(command(record)?);
        }
        let count = commands.len();
        match commands.pop() {
            Some(command) if count == 1 => Ok(Self { header, command }),
            _ => Err(EntryError::Commands { count }),
        }
    }
}

/// The command in `record`; `None` when it is an optional record of another kind.
fn command(record: &RawRecord<'_>) -> Result<Option<Command>, RecordError> {
    Ok(Some(match record.kind {
        Kind::NodeCommand => Command::Node(record.decode()?),
        Kind::GuestCommand => Command::Guest(record.decode()?),
        Kind::MigrationCommand => Command::Migration(record.decode()?),
        Kind::ResourceCommand => Command::Resource(record.decode()?),
        Kind::ClusterCommand => Command::Cluster(record.decode()?),
        kind if record.mandatory => return Err(RecordError::Unused { kind }),
        _ => return Ok(None),
    }))
}

fn check_length(bytes: &[u8]) -> Result<(), EntryError> {
    const { assert!(limits::MAX_RECEIPT_BYTES * 2 < MAX_ENTRY_BYTES) };
    match bytes.len() {
        length if length > MAX_ENTRY_BYTES => Err(EntryError::TooLong { length }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterCommand, NodeCommand};
    use crate::id::NodeId;
    use crate::state::power::GedState;

    fn header() -> EntryHeader {
        EntryHeader {
            now: Timestamp::from_millis(7),
            actor: "ann".into(),
            request: None,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let entry = Entry {
            header: header(),
            command: Command::Node(NodeCommand::Uncordon {
                node: NodeId::from_bytes([1; 16]),
            }),
        };
        let bytes = entry.encode().unwrap();
        assert_eq!(Entry::decode(&bytes).unwrap(), entry);
    }

    #[test]
    fn an_entry_has_exactly_one_command_and_nothing_mandatory_beside() {
        let command = ClusterCommand::RaiseBaseline;
        let entry = |commands: usize, mandatory: bool| {
            let mut writer = RecordWriter::new();
            writer.push(&header()).unwrap();
            for _ in 0..commands {
                writer.push(&command).unwrap();
            }
            let other = GedState { pending: 0 };
            match mandatory {
                true => writer.push(&other).unwrap(),
                false => writer.push_optional(&other).unwrap(),
            }
            Entry::decode(&writer.finish().unwrap())
        };
        assert!(entry(1, false).is_ok());
        assert!(matches!(
            entry(0, false),
            Err(EntryError::Commands { count: 0 })
        ));
        assert!(matches!(
            entry(2, false),
            Err(EntryError::Commands { count: 2 })
        ));
        assert!(matches!(entry(1, true), Err(EntryError::Record(_))));
    }

    #[test]
    fn an_entry_that_is_too_long_is_neither_written_nor_read() {
        let entry = Entry {
            header: EntryHeader {
                actor: "x".repeat(MAX_ENTRY_BYTES),
                ..header()
            },
            command: Command::Cluster(ClusterCommand::RaiseBaseline),
        };
        assert!(matches!(entry.encode(), Err(EntryError::TooLong { .. })));
        let bytes = vec![0; MAX_ENTRY_BYTES + 1];
        assert!(matches!(
            Entry::decode(&bytes),
            Err(EntryError::TooLong { .. })
        ));
    }
}
