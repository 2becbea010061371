//! Placement rules.

use serde::{Deserialize, Serialize};

use super::{LabelMap, Time, label_map, labels};
use crate::cluster;

/// `POST /v1/rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRule {
    /// Its name.
    pub name: String,
    /// Labels of the guests it is about.
    pub guests: LabelMap,
    /// What it says.
    pub rule: RuleKind,
    /// How much it counts.
    #[serde(default)]
    pub strength: Strength,
}

/// A placement rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// Labels of the guests it is about.
    pub guests: LabelMap,
    /// What it says.
    pub rule: RuleKind,
    /// How much it counts.
    pub strength: Strength,
}

/// What a rule says, as in `{"anti-affinity": {"scope": "node"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RuleKind {
    /// Guests live on nodes with these labels.
    NodeAffinity {
        /// Labels of the nodes.
        nodes: LabelMap,
    },
    /// They live together.
    Affinity {
        /// What "together" means.
        scope: Scope,
    },
    /// No two of them live together.
    AntiAffinity {
        /// What "together" means.
        scope: Scope,
    },
}

/// What "together" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// On one node.
    Node,
    /// In one failure domain.
    FailureDomain,
}

/// How much a rule counts: `"required"`, or `{"preferred": {"weight": 10}}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strength {
    /// No guest is placed against it.
    #[default]
    Required,
    /// Nodes that follow it are preferred.
    Preferred {
        /// Against other rules, 1 to 100.
        weight: u8,
    },
}

impl From<cluster::Scope> for Scope {
    fn from(scope: cluster::Scope) -> Self {
        match scope {
            cluster::Scope::Node => Self::Node,
            cluster::Scope::FailureDomain => Self::FailureDomain,
        }
    }
}

impl From<Scope> for cluster::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Node => Self::Node,
            Scope::FailureDomain => Self::FailureDomain,
        }
    }
}

impl From<&cluster::RuleKind> for RuleKind {
    fn from(kind: &cluster::RuleKind) -> Self {
        match kind {
            cluster::RuleKind::NodeAffinity { nodes } => Self::NodeAffinity {
                nodes: label_map(nodes),
            },
            cluster::RuleKind::Affinity(scope) => Self::Affinity {
                scope: (*scope).into(),
            },
            cluster::RuleKind::AntiAffinity(scope) => Self::AntiAffinity {
                scope: (*scope).into(),
            },
        }
    }
}

impl From<&RuleKind> for cluster::RuleKind {
    fn from(kind: &RuleKind) -> Self {
        match kind {
            RuleKind::NodeAffinity { nodes } => Self::NodeAffinity {
                nodes: labels(nodes),
            },
            RuleKind::Affinity { scope } => Self::Affinity((*scope).into()),
            RuleKind::AntiAffinity { scope } => Self::AntiAffinity((*scope).into()),
        }
    }
}

impl From<cluster::Strength> for Strength {
    fn from(strength: cluster::Strength) -> Self {
        match strength {
            cluster::Strength::Required => Self::Required,
            cluster::Strength::Preferred { weight } => Self::Preferred { weight },
        }
    }
}

impl From<Strength> for cluster::Strength {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::Required => Self::Required,
            Strength::Preferred { weight } => Self::Preferred { weight },
        }
    }
}

impl From<&cluster::PlacementRule> for Rule {
    fn from(rule: &cluster::PlacementRule) -> Self {
        Self {
            id: rule.id.to_string(),
            name: rule.meta.name.clone(),
            revision: rule.meta.revision.get(),
            created: rule.meta.created.into(),
            guests: label_map(&rule.guests),
            rule: (&rule.kind).into(),
            strength: rule.strength.into(),
        }
    }
}
