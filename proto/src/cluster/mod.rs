//! What the control plane agrees on: the cluster's objects, the commands that change them, the
//! entries of its log, and its snapshots.
//!
//! Every object has an id, a name, a [`Revision`](crate::id::Revision) (the state's number when the
//! object last changed, whatever changed) and a [`Generation`](crate::id::Generation) (how often
//! what is *wanted* of it changed). Ownership of a guest has an [`Epoch`](crate::id::Epoch). All
//! three only grow.
//!
//! | module | holds |
//! |---|---|
//! | `meta` | name, labels, revision and generation of an object |
//! | `node`, `cpu` | a member: what it has, what it can reach, what its processors can do |
//! | `guest`, `ownership` | what a guest is to be, who may run it, what was last seen of it |
//! | `migration`, `operation`, `event` | what is under way, and what happened |
//! | `resource` | pools, volumes, networks |
//! | `rule` | where guests may live, relative to nodes and to one another |
//! | `lease` | a node's right to run guests; the record of a lease on a disk |
//! | `settings` | what holds for the whole cluster |
//! | `agent` | what a node and the leader tell each other; what a node pledges |
//! | `command`, `entry` | what is proposed, and how it stands in the log |
//! | `response` | what became of it |
//! | `snapshot` | the records that a whole state is written as, beside its objects |
//!
//! Nothing here is checked for meaning: the state machine of the control plane does that, and
//! refuses with a code and a fix. Sizes are bounded there too, by [`limits`].
//!
//! # Versions
//! An object or a family of commands is one record and so has one version. To change one, see
//! [`mod@crate::record`]: every build reads version V and V-1, so members are upgraded one by one.

mod agent;
mod command;
mod cpu;
mod entry;
mod event;
mod guest;
mod lease;
pub mod limits;
mod meta;
mod migration;
mod node;
mod object;
mod operation;
mod ownership;
mod resource;
mod response;
mod rule;
mod settings;
mod snapshot;

pub use agent::{
    DesiredGuest, DesiredState, GuestMachine, Heartbeat, HeartbeatAnswer, LeaseAnswer, Ledger,
    MachineCpu, MachineDisk, MachineNet, Move, Pledge, Role,
};
pub use command::{
    AbortCause, ClusterCommand, Command, Desired, GuestCommand, GuestReport, MigrationCommand,
    NewGuest, NodeCommand, NodeReport, ResourceCommand,
};
pub use cpu::{CpuBaseline, CpuFeatures, CpuLevel, NodeCpu, XsaveComponent};
pub use entry::{Entry, EntryError, EntryHeader, MAX_ENTRY_BYTES};
pub use event::{Event, EventKind};
pub use guest::{
    CpuChoice, FailoverPolicy, Guest, GuestTemplate, NetworkAttachment, Observed, ObservedState,
    RunIntent, VolumeAttachment,
};
pub use lease::{DiskLease, DiskOwner, DiskRequest, Lease, LeaseProfile, LeaseState};
pub use meta::{Labels, Meta};
pub use migration::{Migration, MigrationPhase, MigrationReason};
pub use node::{Capacity, Node, NodeState, Scheduling};
pub use object::{Object, ObjectRef};
pub use operation::{Blocker, Operation, OperationKind, OperationState};
pub use ownership::{Handoff, Owner, Ownership, Window};
pub use resource::{Network, Pool, PoolKind, Volume};
pub use response::{Applied, Response};
pub use rule::{PlacementRule, RuleKind, Scope, Strength};
pub use settings::{Overcommit, Settings, Strategy};
pub use snapshot::{Change, DoneRequest, Reign, StateHeader};
