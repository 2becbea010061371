//! Any object, and how one is referred to.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    CpuBaseline, Event, Guest, Lease, Migration, Network, Node, Operation, PlacementRule, Pool,
    Settings, Volume,
};
use crate::id::{
    BaselineId, GuestId, MigrationId, NetworkId, NodeId, OperationId, PoolId, RuleId, VolumeId,
};
use crate::record::{Kind, RawRecord, RecordError, RecordWriter};

/// Which object.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum ObjectRef {
    /// The settings of the cluster.
    Settings,
    /// A node.
    Node(NodeId),
    /// A guest.
    Guest(GuestId),
    /// A migration.
    Migration(MigrationId),
    /// A pool.
    Pool(PoolId),
    /// A volume.
    Volume(VolumeId),
    /// A network.
    Network(NetworkId),
    /// A placement rule.
    Rule(RuleId),
    /// The lease of a node.
    Lease(NodeId),
    /// An operation.
    Operation(OperationId),
    /// A promised set of CPU features.
    Baseline(BaselineId),
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => f.write_str("settings"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Guest(id) => write!(f, "guest {id}"),
            Self::Migration(id) => write!(f, "migration {id}"),
            Self::Pool(id) => write!(f, "pool {id}"),
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Rule(id) => write!(f, "placement rule {id}"),
            Self::Lease(id) => write!(f, "lease of node {id}"),
            Self::Operation(id) => write!(f, "operation {id}"),
            Self::Baseline(id) => write!(f, "CPU baseline {id}"),
        }
    }
}

/// Any object, as it stands in a snapshot or is told to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each holds what its name says")]
pub enum Object {
    Settings(Settings),
    Node(Node),
    Guest(Guest),
    Migration(Migration),
    Pool(Pool),
    Volume(Volume),
    Network(Network),
    Rule(PlacementRule),
    Lease(Lease),
    Operation(Operation),
    Baseline(CpuBaseline),
    Event(Event),
}

impl Object {
    /// Appends the object's record to a sequence.
    ///
    /// # Errors
    /// As [`RecordWriter::push`].
    pub fn push_to(&self, writer: &mut RecordWriter) -> Result<(), RecordError> {
        match self {
            Self::Settings(object) => writer.push(object),
            Self::Node(object) => writer.push(object),
            Self::Guest(object) => writer.push(object),
            Self::Migration(object) => writer.push(object),
            Self::Pool(object) => writer.push(object),
            Self::Volume(object) => writer.push(object),
            Self::Network(object) => writer.push(object),
            Self::Rule(object) => writer.push(object),
            Self::Lease(object) => writer.push(object),
            Self::Operation(object) => writer.push(object),
            Self::Baseline(object) => writer.push(object),
            Self::Event(object) => writer.push(object),
        }
    }

    /// The object in `record`; `None` when the record is of another kind.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn from_record(record: &RawRecord<'_>) -> Result<Option<Self>, RecordError> {
        Ok(Some(match record.kind {
            Kind::Settings => Self::Settings(record.decode()?),
            Kind::Node => Self::Node(record.decode()?),
            Kind::Guest => Self::Guest(record.decode()?),
            Kind::Migration => Self::Migration(record.decode()?),
            Kind::Pool => Self::Pool(record.decode()?),
            Kind::Volume => Self::Volume(record.decode()?),
            Kind::Network => Self::Network(record.decode()?),
            Kind::PlacementRule => Self::Rule(record.decode()?),
            Kind::Lease => Self::Lease(record.decode()?),
            Kind::Operation => Self::Operation(record.decode()?),
            Kind::CpuBaseline => Self::Baseline(record.decode()?),
            Kind::Event => Self::Event(record.decode()?),
            _ => return Ok(None),
        }))
    }
}
