//! What happened, and the lines of a watch.

use serde::{Deserialize, Serialize};

use super::Time;
use crate::cluster;
use crate::cluster::ObjectRef;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The revision that it made; several events can have the same.
    pub revision: u64,
    /// When, by the clock of whoever proposed it.
    pub at: Time,
    /// What it was.
    pub event: EventName,
    /// What it is about.
    pub object: ObjectName,
    /// Who caused it.
    pub actor: String,
    /// The whole of it, for people.
    pub message: String,
}

/// Which object: its kind, and its id where there are several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectName {
    /// `guest`, `node`, `migration`, `pool`, `volume`, `network`, `rule`, `operation`, `lease`,
    /// `baseline` or `settings`.
    pub kind: String,
    /// Its id; of a lease that of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What happened, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in `cluster::EventKind`")]
pub enum EventName {
    Created,
    Updated,
    Deleted,
    NodeReady,
    NodeLost,
    Started,
    Stopped,
    Failed,
    FailedOver,
    MigrationPrepared,
    MigrationWindowOpen,
    MigrationCompleted,
    MigrationAborted,
    Operation,
    Elected,
}

/// A line of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum WatchLine {
    /// Something happened.
    Event(Event),
    /// An object changed: what it is now can be read.
    Change {
        /// The revision that the change made.
        revision: u64,
        /// The object.
        object: ObjectName,
        /// Whether it is gone.
        deleted: bool,
    },
    /// All up to this revision was told; a watch that is broken off can be resumed from here.
    Heartbeat {
        /// The revision.
        revision: u64,
    },
    /// Too much has happened, or the revision is not of this cluster: everything has to be read
    /// anew. The watch goes on from here.
    Resync {
        /// The revision.
        revision: u64,
    },
}

impl From<ObjectRef> for ObjectName {
    fn from(object: ObjectRef) -> Self {
        let (kind, id) = match object {
            ObjectRef::Settings => ("settings", None),
            ObjectRef::Node(id) => ("node", Some(id.to_string())),
            ObjectRef::Guest(id) => ("guest", Some(id.to_string())),
            ObjectRef::Migration(id) => ("migration", Some(id.to_string())),
            ObjectRef::Pool(id) => ("pool", Some(id.to_string())),
            ObjectRef::Volume(id) => ("volume", Some(id.to_string())),
            ObjectRef::Network(id) => ("network", Some(id.to_string())),
            ObjectRef::Rule(id) => ("rule", Some(id.to_string())),
            ObjectRef::Lease(id) => ("lease", Some(id.to_string())),
            ObjectRef::Operation(id) => ("operation", Some(id.to_string())),
            ObjectRef::Baseline(id) => ("baseline", Some(id.to_string())),
        };
        Self {
            kind: kind.into(),
            id,
        }
    }
}

impl From<cluster::EventKind> for EventName {
    fn from(kind: cluster::EventKind) -> Self {
        use cluster::EventKind;
        match kind {
            EventKind::Created => Self::Created,
            EventKind::Updated => Self::Updated,
            EventKind::Deleted => Self::Deleted,
            EventKind::NodeReady => Self::NodeReady,
            EventKind::NodeLost => Self::NodeLost,
            EventKind::Started => Self::Started,
            EventKind::Stopped => Self::Stopped,
            EventKind::Failed => Self::Failed,
            EventKind::FailedOver => Self::FailedOver,
            EventKind::MigrationPrepared => Self::MigrationPrepared,
            EventKind::MigrationWindowOpen => Self::MigrationWindowOpen,
            EventKind::MigrationCompleted => Self::MigrationCompleted,
            EventKind::MigrationAborted => Self::MigrationAborted,
            EventKind::Operation => Self::Operation,
            EventKind::Elected => Self::Elected,
        }
    }
}

impl From<&cluster::Event> for Event {
    fn from(event: &cluster::Event) -> Self {
        Self {
            revision: event.revision.get(),
            at: event.at.into(),
            event: event.kind.into(),
            object: event.object.into(),
            actor: event.actor.clone(),
            message: event.message.clone(),
        }
    }
}
