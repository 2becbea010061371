//! The cluster as a whole.

use serde::{Deserialize, Serialize};

use super::Named;
use crate::cluster;

/// `GET /v1/cluster`: the cluster as the node that answers sees it. Never waits for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub name: String,
    /// The node that answers.
    pub node: Named,
    /// Its version.
    pub version: String,
    /// The leader, as far as this node knows.
    pub leader: Option<Named>,
    /// The term of the election it knows of.
    pub term: u64,
    /// Nodes that vote.
    pub voters: Vec<Named>,
    /// Nodes that follow without a vote.
    pub learners: Vec<Named>,
    /// The revision of the state here.
    pub revision: u64,
    /// Whether a majority of the voters can be reached, as far as this node knows.
    pub quorum: bool,
    /// Nodes by state.
    pub nodes: Counts,
    /// Guests by state.
    pub guests: Counts,
    /// Migrations that are under way.
    pub migrations: u64,
}

/// How many there are, by the name of their state; states without any are left out.
pub type Counts = std::collections::BTreeMap<String, u64>;

/// `GET /v1/cluster/settings`: what holds for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The cluster's name.
    pub name: String,
    /// The state's revision when they last changed.
    pub revision: u64,
    /// How much more is promised to guests than there is.
    pub overcommit: Overcommit,
    /// Among nodes that can take a guest, which one is best.
    pub strategy: Strategy,
    /// Migrations that one node takes part in at once.
    pub migrations_per_node: u32,
    /// Migrations at once.
    pub migrations_per_cluster: u32,
    /// The lease of nodes that are granted one from now on.
    pub lease: Lease,
    /// The id of the CPU features that guests are promised which ask for the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<u64>,
}

/// `PATCH /v1/cluster/settings`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// The cluster's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How much more is promised to guests than there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overcommit: Option<Overcommit>,
    /// Among nodes that can take a guest, which one is best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Migrations that one node takes part in at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations_per_node: Option<u32>,
    /// Migrations at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations_per_cluster: Option<u32>,
    /// The lease of nodes that are granted one from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The revision of the settings that was read; refused when they have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// How much more is promised to guests than there is, in thousandths: 1000 is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overcommit {
    /// vCPUs for each logical processor.
    pub cpu_permille: u32,
    /// Memory.
    pub memory_permille: u32,
}

/// Among nodes that can take a guest, which one is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The fullest.
    Pack,
    /// The emptiest.
    Spread,
    /// Of the emptiest, the one that is then used most evenly.
    Balanced,
}

/// How long leases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// From a renewal to its end, in milliseconds.
    pub duration_ms: u32,
    /// Between renewals, in milliseconds.
    pub renew_ms: u32,
}

impl From<cluster::Strategy> for Strategy {
    fn from(strategy: cluster::Strategy) -> Self {
        match strategy {
            cluster::Strategy::Pack => Self::Pack,
            cluster::Strategy::Spread => Self::Spread,
            cluster::Strategy::Balanced => Self::Balanced,
        }
    }
}

impl From<Strategy> for cluster::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Pack => Self::Pack,
            Strategy::Spread => Self::Spread,
            Strategy::Balanced => Self::Balanced,
        }
    }
}

impl From<&cluster::Settings> for Settings {
    fn from(settings: &cluster::Settings) -> Self {
        Self {
            name: settings.meta.name.clone(),
            revision: settings.meta.revision.get(),
            overcommit: Overcommit {
                cpu_permille: settings.overcommit.cpu_permille,
                memory_permille: settings.overcommit.memory_permille,
            },
            strategy: settings.strategy.into(),
            migrations_per_node: settings.migrations_per_node,
            migrations_per_cluster: settings.migrations_per_cluster,
            lease: Lease {
                duration_ms: settings.lease.duration_ms,
                renew_ms: settings.lease.renew_ms,
            },
            baseline: settings.baseline.map(crate::id::BaselineId::get),
        }
    }
}

impl Configure {
    /// The settings with what is asked for.
    #[must_use]
    pub fn over(&self, settings: &cluster::Settings) -> cluster::Desired {
        cluster::Desired {
            name: self.name.as_ref().unwrap_or(&settings.meta.name).clone(),
            overcommit: self.overcommit.map_or(settings.overcommit, |overcommit| {
                cluster::Overcommit {
                    cpu_permille: overcommit.cpu_permille,
                    memory_permille: overcommit.memory_permille,
                }
            }),
            strategy: self.strategy.map_or(settings.strategy, Into::into),
            migrations_per_node: self
                .migrations_per_node
                .unwrap_or(settings.migrations_per_node),
            migrations_per_cluster: self
                .migrations_per_cluster
                .unwrap_or(settings.migrations_per_cluster),
            lease: self
                .lease
                .map_or(settings.lease, |lease| cluster::LeaseProfile {
                    duration_ms: lease.duration_ms,
                    renew_ms: lease.renew_ms,
                }),
        }
    }
}
