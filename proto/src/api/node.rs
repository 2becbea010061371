//! Members.

use serde::{Deserialize, Serialize};

use super::{LabelMap, Named, Time};
use crate::cluster;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: LabelMap,
    /// The state's revision when anything of it last changed.
    pub revision: u64,
    /// How often what is wanted of it changed.
    pub generation: u64,
    /// When it joined.
    pub created: Time,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub certificate: String,
    /// Whether it holds a lease.
    pub state: NodeState,
    /// Its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseState>,
    /// Whether guests may be placed on it.
    pub scheduling: Scheduling,
    /// What fails together with it; empty when nothing does.
    pub failure_domain: String,
    /// Its logical processors.
    pub cpus: u32,
    /// vCPUs of the guests that are there or coming.
    pub used_vcpus: u64,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Bytes of memory of the guests that are there or coming.
    pub used_memory_bytes: u64,
    /// Guests that are there or coming.
    pub guests: u64,
    /// The vendor of its processors.
    pub cpu_vendor: String,
    /// The highest level of the x86-64 psABI that a guest can be shown there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_level: Option<String>,
    /// Pools that it reaches.
    pub pools: Vec<Named>,
    /// Networks that it has.
    pub networks: Vec<Named>,
}

/// Whether a node holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It does.
    Ready,
    /// It was admitted and holds none yet.
    Joining,
    /// Its lease has lapsed.
    Lost,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Joining, Self::Lost];

    /// Its name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Joining => "joining",
            Self::Lost => "lost",
        }
    }
}

impl From<cluster::NodeState> for NodeState {
    fn from(state: cluster::NodeState) -> Self {
        match state {
            cluster::NodeState::Ready => Self::Ready,
            cluster::NodeState::Joining => Self::Joining,
            cluster::NodeState::Lost => Self::Lost,
        }
    }
}

/// The lease of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// Whether it is held.
    pub held: bool,
    /// Which time round.
    pub incarnation: u64,
    /// From a renewal to its end, in milliseconds.
    pub duration_ms: u32,
    /// Between renewals, in milliseconds.
    pub renew_ms: u32,
}

impl From<&cluster::Lease> for LeaseState {
    fn from(lease: &cluster::Lease) -> Self {
        Self {
            held: lease.state == cluster::LeaseState::Held,
            incarnation: lease.incarnation.get(),
            duration_ms: lease.profile.duration_ms,
            renew_ms: lease.profile.renew_ms,
        }
    }
}

/// Whether guests may be placed on a node: `"enabled"`, `{"cordoned": {"reason": "..."}}` or
/// `{"draining": {"operation": "..."}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduling {
    /// They may.
    Enabled,
    /// They may not; those that are there stay.
    Cordoned {
        /// Why, as was said.
        reason: String,
    },
    /// They may not; those that are there are moved away.
    Draining {
        /// The drain's id.
        operation: String,
    },
}

impl From<&cluster::Scheduling> for Scheduling {
    fn from(scheduling: &cluster::Scheduling) -> Self {
        match scheduling {
            cluster::Scheduling::Enabled => Self::Enabled,
            cluster::Scheduling::Cordoned { reason } => Self::Cordoned {
                reason: reason.clone(),
            },
            cluster::Scheduling::Draining { operation } => Self::Draining {
                operation: operation.to_string(),
            },
        }
    }
}

/// `POST /v1/nodes/{node}/cordon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cordon {
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
}

/// `PUT /v1/nodes/{node}/labels`: all its labels from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceLabels {
    /// The labels.
    pub labels: LabelMap,
    /// The node's revision that was read; refused when it has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}
