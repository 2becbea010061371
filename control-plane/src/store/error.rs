//! Why a store cannot be used.

use std::io;
use std::path::PathBuf;

use godwit_proto::cluster::EntryError;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::raft::StoreIdentity;
use godwit_proto::record::RecordError;

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its directory or a file in it.
    #[error("cannot use the store's {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the store {path} is in use")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database refused an operation: the disk is full, or fails.
    #[error("cannot {operation} the store")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
    /// What is in it is not what was written.
    #[error("the store {path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A record in it cannot be read.
    #[error("the store's {what} cannot be read")]
    Record {
        /// What the record is.
        what: String,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// A command in its log cannot be read.
    #[error("the store's log entry {index} cannot be read")]
    Command {
        /// The entry.
        index: u64,
        /// Why not.
        #[source]
        source: EntryError,
    },
    /// It belongs to another node or cluster.
    #[error(
        "the store belongs to node {} of cluster {}, not to {} of {}",
        found.node, found.cluster, wanted.node, wanted.cluster
    )]
    OtherOwner {
        /// Whose it is.
        found: StoreIdentity,
        /// Who opens it.
        wanted: StoreIdentity,
    },
    /// Entries would leave a gap in the log.
    #[error("log entry {found} does not follow {last}")]
    Gap {
        /// The last entry.
        last: u64,
        /// The one to append.
        found: u64,
    },
    /// It was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn database(operation: &'static str, source: impl Into<redb::Error>) -> Self {
        Self::Database {
            operation,
            source: Box::new(source.into()),
        }
    }

    /// The failure as users are told, with what they can do.
    #[must_use]
    pub fn to_coded_error(&self) -> CodedError {
        let error = CodedError::from_error(ErrorCode::Store, self);
        match self.fix() {
            Some(fix) => error.with_fix(fix),
            None => error,
        }
    }

    fn fix(&self) -> Option<&'static str> {
        const REJOIN: &str = "remove this node from the cluster, move the directory away and join \
                              again under a new id; the other nodes have everything";
        match self {
            Self::Io { .. } | Self::Database { .. } => Some(
                "free space on the device, or mend or replace it, then start the node again: \
                 nothing that was acknowledged is lost",
            ),
            Self::InUse { .. } => Some("stop the other process that uses this directory"),
            Self::Record { source, .. } if source.is_from_newer_build() => Some(UPGRADE),
            Self::Command {
                source: EntryError::Record(source),
                ..
            } if source.is_from_newer_build() => Some(UPGRADE),
            Self::Damaged { .. } | Self::Record { .. } | Self::Command { .. } => Some(REJOIN),
            Self::OtherOwner { .. } => Some("start the node with the directory that is its own"),
            Self::Gap { .. } | Self::Closed => None,
        }
    }
}

const UPGRADE: &str = "a newer build has written here: start that one";
