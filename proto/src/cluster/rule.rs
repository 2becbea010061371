//! Where guests may live.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Labels, Meta};
use crate::id::RuleId;
use crate::record;
use crate::record::Kind;

/// A rule about where the guests that a selector finds may live.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PlacementRule {
    /// Its id.
    pub id: RuleId,
    /// Name, labels, age.
    pub meta: Meta,
    /// The guests it is about; never empty.
    pub guests: Labels,
    /// What it says.
    pub kind: RuleKind,
    /// How much it counts.
    pub strength: Strength,
}
record!(PlacementRule, Kind::PlacementRule, version = 1);

/// What a rule says.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// They live on nodes with these labels.
    NodeAffinity {
        /// Labels of the nodes.
        nodes: Labels,
    },
    /// They live together.
    Affinity(Scope),
    /// No two of them live together.
    AntiAffinity(Scope),
}

/// What "together" means.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On one node.
    Node,
    /// In one failure domain. A node without one is a domain of its own.
    FailureDomain,
}

/// How much a rule counts.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// No guest is placed against it.
    Required,
    /// Nodes that follow it are preferred.
    Preferred {
        /// Against other rules, 1 to 100; it goes before the strategy.
        weight: u8,
    },
}
