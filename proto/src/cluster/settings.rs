//! What holds for the whole cluster.

use rkyv::{Archive, Deserialize, Serialize};

use super::{LeaseProfile, Meta};
use crate::id::BaselineId;
use crate::record;
use crate::record::Kind;

/// What holds for the whole cluster.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the cluster, age.
    pub meta: Meta,
    /// How much more is promised to guests than there is.
    pub overcommit: Overcommit,
    /// Among nodes that can take a guest, which one is best.
    pub strategy: Strategy,
    /// Migrations that one node takes part in at once, at either end.
    pub migrations_per_node: u32,
    /// Migrations at once.
    pub migrations_per_cluster: u32,
    /// The lease of nodes that are granted one from now on.
    pub lease: LeaseProfile,
    /// What guests are promised that ask for the cluster's CPU; none before the first member.
    pub baseline: Option<BaselineId>,
}
record!(Settings, Kind::Settings, version = 1);

/// How much more is promised to guests than there is, in thousandths: 1000 is no more.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overcommit {
    /// vCPUs for each logical processor.
    pub cpu_permille: u32,
    /// Memory.
    pub memory_permille: u32,
}

/// Among nodes that can take a guest, which one is best.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The fullest: whole nodes stay free.
    Pack,
    /// The emptiest: the loss of a node costs least.
    Spread,
    /// Of the emptiest 64th part of the scale, the one whose memory and processors are then used
    /// most evenly: neither is left over.
    Balanced,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            meta: Meta::default(),
            overcommit: Overcommit {
                cpu_permille: 4_000,
                memory_permille: 1_000,
            },
            strategy: Strategy::Spread,
            migrations_per_node: 2,
            migrations_per_cluster: 64,
            lease: LeaseProfile::DEFAULT,
            baseline: None,
        }
    }
}
