//! What is proposed. Each family is one record.
//!
//! A command that changes what exists carries the revision it was decided on, where its author
//! means what was read: `expected: Some(r)` is refused with
//! [`ErrorCode::Conflict`](crate::codes::ErrorCode::Conflict) when the object has changed since.

use rkyv::{Archive, Deserialize, Serialize};

use super::{
    Blocker, Capacity, FailoverPolicy, GuestTemplate, Labels, LeaseProfile, MigrationReason,
    NodeCpu, ObservedState, Overcommit, PoolKind, RuleKind, Strategy, Strength,
};
use crate::codes::CodedError;
use crate::id::{
    Epoch, Generation, GuestId, Incarnation, MigrationId, NetworkId, NodeId, OperationId, PoolId,
    Revision, RuleId, VolumeId,
};
use crate::record;
use crate::record::{Kind, Record, RecordError};

/// Something to be done to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// About members.
    Node(NodeCommand),
    /// About guests.
    Guest(GuestCommand),
    /// About migrations.
    Migration(MigrationCommand),
    /// About pools, volumes, networks, placement rules.
    Resource(ResourceCommand),
    /// About the cluster as a whole.
    Cluster(ClusterCommand),
}

impl Command {
    /// The record of the command alone, the same for the same command.
    ///
    /// # Errors
    /// As [`Record::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        match self {
            Self::Node(command) => command.encode(),
            Self::Guest(command) => command.encode(),
            Self::Migration(command) => command.encode(),
            Self::Resource(command) => command.encode(),
            Self::Cluster(command) => command.encode(),
        }
    }
}

/// About members.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum NodeCommand {
    /// Admit a node, or let one that was admitted before say anew what it has.
    Join {
        /// What it says of itself.
        report: Box<NodeReport>,
        /// Take the node although the cluster's CPU baseline falls with it.
        lower_baseline: bool,
    },
    /// Give it a lease: it becomes ready.
    GrantLease {
        /// The node.
        node: NodeId,
    },
    /// Its lease has run out, by the leader's clock and with every allowance: it is lost.
    LapseLease {
        /// The node.
        node: NodeId,
        /// The lease that has run out; another one has not.
        incarnation: Incarnation,
        /// The reign of the leader that says so. Its successor may have renewed the lease.
        reign: Revision,
    },
    /// Change its labels.
    SetLabels {
        /// The node.
        node: NodeId,
        /// All its labels from now on.
        labels: Labels,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// Place no more guests on it.
    Cordon {
        /// The node.
        node: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// Place guests on it again; ends a drain.
    Uncordon {
        /// The node.
        node: NodeId,
    },
    /// Empty it.
    Drain {
        /// The node.
        node: NodeId,
        /// The operation that this begins.
        operation: OperationId,
    },
    /// Remove a node.
    Remove {
        /// The node.
        node: NodeId,
        /// Its guests go with it. Whoever says so knows that the node does not run, and will not:
        /// those of its guests that other nodes can start are free to be started there.
        force: bool,
    },
}
record!(NodeCommand, Kind::NodeCommand, version = 1);

/// What a node says of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Labels, taken when it joins; changed by [`NodeCommand::SetLabels`] later.
    pub labels: Labels,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// SHA-256 of its certificate.
    pub certificate: [u8; 32],
    /// What it has for guests.
    pub capacity: Capacity,
    /// What its processors can do.
    pub cpu: NodeCpu,
    /// What fails together with it.
    pub failure_domain: String,
    /// Pools that it reaches.
    pub pools: Vec<PoolId>,
    /// Networks that it has.
    pub networks: Vec<NetworkId>,
}

/// About guests.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum GuestCommand {
    /// Make one, stopped.
    Create(Box<NewGuest>),
    /// Change what it is made of; a guest that may run is not changed.
    Update {
        /// The guest.
        guest: GuestId,
        /// What it is made of from now on.
        template: GuestTemplate,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// Change labels and what happens when its node is lost.
    SetPolicy {
        /// The guest.
        guest: GuestId,
        /// All its labels from now on.
        labels: Labels,
        /// What happens when its node is lost.
        failover: FailoverPolicy,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// Give it to a node to be started. The node was chosen by the scheduler; it is checked again.
    Start {
        /// The guest.
        guest: GuestId,
        /// The node.
        node: NodeId,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// Stop it. Its owner keeps it until it reports that it has stopped.
    Stop {
        /// The guest.
        guest: GuestId,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// What its owner tells.
    Report(GuestReport),
    /// Take it from a lost node, to be started on another one under a fresh epoch.
    FailOver {
        /// The guest.
        guest: GuestId,
        /// The other node, chosen by the scheduler.
        node: NodeId,
    },
    /// Remove it; it must be stopped.
    Delete {
        /// The guest.
        guest: GuestId,
        /// The revision that was read.
        expected: Option<Revision>,
    },
}
record!(GuestCommand, Kind::GuestCommand, version = 1);

/// A guest to be made.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NewGuest {
    /// Its id.
    pub id: GuestId,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What it is made of.
    pub template: GuestTemplate,
    /// What happens when its node is lost.
    pub failover: FailoverPolicy,
}

/// What the owner of a guest tells.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GuestReport {
    /// The guest.
    pub guest: GuestId,
    /// The node that tells.
    pub node: NodeId,
    /// The epoch under which it has the guest.
    pub epoch: Epoch,
    /// What the guest does.
    pub state: ObservedState,
    /// The generation that is real.
    pub generation: Generation,
    /// Pages of 4 KiB that it writes in a second.
    pub dirty_pages_per_second: Option<u64>,
}

/// About migrations.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MigrationCommand {
    /// Begin one: the target's epoch is reserved.
    Prepare {
        /// The migration that this begins.
        migration: MigrationId,
        /// The guest.
        guest: GuestId,
        /// Where it goes; chosen by the scheduler, and checked again.
        target: NodeId,
        /// Why.
        reason: MigrationReason,
        /// The revision of the guest that was read.
        expected: Option<Revision>,
    },
    /// Let the source hand over at any moment from now on.
    OpenWindow {
        /// The migration.
        migration: MigrationId,
    },
    /// The target runs the guest.
    Complete {
        /// The migration.
        migration: MigrationId,
        /// The epoch under which it does.
        epoch: Epoch,
        /// The receipt as JSON, when there is one.
        receipt: Option<String>,
    },
    /// End it without a handover.
    Abort {
        /// The migration.
        migration: MigrationId,
        /// Who says that this is safe.
        cause: AbortCause,
        /// Why.
        error: CodedError,
    },
    /// The target waits for the guest.
    TargetReady {
        /// The migration.
        migration: MigrationId,
        /// What the source needs to reach it, see
        /// [`Migration::token`](super::Migration::token).
        token: String,
    },
    /// Keep the source's receipt of a migration that has ended and has none yet.
    NoteReceipt {
        /// The migration.
        migration: MigrationId,
        /// The receipt as JSON.
        receipt: String,
    },
}
record!(MigrationCommand, Kind::MigrationCommand, version = 1);

/// Who says that ending a migration without a handover is safe.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// Nobody needs to: the window was never opened.
    NotOpened,
    /// The source: it has not relinquished the guest and will not within this migration.
    SourceKept,
    /// The target: it has not run the guest and will not. The source, which relinquished it, may
    /// run it again under a fresh epoch.
    TargetNeverRan,
    /// The target: it has no copy of the guest any more and will not run it under its epoch, but it
    /// may have. The source runs on if it never gave the guest up; if it did, the guest has ended.
    TargetGone,
    /// The source: it gave the guest up, or lost it, and will not run it under its epoch. Only the
    /// target can have it.
    SourceGone,
}

/// About pools, volumes, networks, placement rules.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ResourceCommand {
    /// Make a pool known.
    CreatePool {
        /// Its id.
        id: PoolId,
        /// Its name.
        name: String,
        /// Whether nodes see the same files in it.
        kind: PoolKind,
        /// Its path on every node that reaches it.
        path: String,
    },
    /// Forget a pool; it must be empty.
    DeletePool {
        /// The pool.
        id: PoolId,
    },
    /// Make a volume known.
    CreateVolume {
        /// Its id.
        id: VolumeId,
        /// Its name.
        name: String,
        /// Its pool.
        pool: PoolId,
        /// The node that has it; for a local pool only, and always there.
        node: Option<NodeId>,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// Forget a volume; no guest may have it.
    DeleteVolume {
        /// The volume.
        id: VolumeId,
    },
    /// Make a network known.
    CreateNetwork {
        /// Its id.
        id: NetworkId,
        /// Its name.
        name: String,
        /// The bridge's name on every node that has it.
        bridge: String,
    },
    /// Forget a network; no guest may be attached to it.
    DeleteNetwork {
        /// The network.
        id: NetworkId,
    },
    /// Make a rule. Guests stay where they are; it holds for what is placed from now on.
    CreateRule {
        /// Its id.
        id: RuleId,
        /// Its name.
        name: String,
        /// The guests it is about.
        guests: Labels,
        /// What it says.
        kind: RuleKind,
        /// How much it counts.
        strength: Strength,
    },
    /// Remove a rule.
    DeleteRule {
        /// The rule.
        id: RuleId,
    },
}
record!(ResourceCommand, Kind::ResourceCommand, version = 1);

/// About the cluster as a whole.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Change settings.
    Configure {
        /// All that can be set, from now on.
        settings: Desired,
        /// The revision that was read.
        expected: Option<Revision>,
    },
    /// Promise new guests all that the members have in common, after a member with less has left.
    RaiseBaseline,
    /// Begin nothing new of an operation.
    PauseOperation {
        /// The operation.
        operation: OperationId,
    },
    /// Go on with an operation.
    ResumeOperation {
        /// The operation.
        operation: OperationId,
    },
    /// Give an operation up; what it has done stays.
    AbortOperation {
        /// The operation.
        operation: OperationId,
        /// Why, for people.
        reason: String,
    },
    /// Say what holds an operation up.
    ReportBlockers {
        /// The operation.
        operation: OperationId,
        /// The first few.
        blockers: Vec<Blocker>,
    },
    /// A leader was elected: its reign begins, at the revision that this makes, and every other one
    /// is over.
    Lead {
        /// The leader.
        node: NodeId,
    },
}
record!(ClusterCommand, Kind::ClusterCommand, version = 1);

/// All that can be set.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Name of the cluster.
    pub name: String,
    /// How much more is promised to guests than there is.
    pub overcommit: Overcommit,
    /// Among nodes that can take a guest, which one is best.
    pub strategy: Strategy,
    /// Migrations that one node takes part in at once.
    pub migrations_per_node: u32,
    /// Migrations at once.
    pub migrations_per_cluster: u32,
    /// The lease of nodes that are granted one from now on.
    pub lease: LeaseProfile,
}
