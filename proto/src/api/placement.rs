//! Where a guest could go, and why.

use serde::{Deserialize, Serialize};

use super::{Named, Strategy};

/// Where a guest goes, and what was thought of every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The guest's name.
    pub guest: String,
    /// What decides among nodes that can take it.
    pub strategy: Strategy,
    /// Where it goes.
    pub chosen: Option<Named>,
    /// Every node, by id.
    pub nodes: Vec<Verdict>,
    /// When it goes nowhere: what would make it fit, the smallest change first.
    pub remedies: Vec<String>,
}

/// What was thought of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The node's id.
    pub id: String,
    /// The node's name.
    pub name: String,
    /// In a word.
    pub verdict: VerdictKind,
    /// How good it is, if it can take the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// What speaks against it, or what made the difference to the one that is chosen.
    pub reasons: Vec<String>,
}

/// What was thought of a node, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// It is the best one.
    Chosen,
    /// It could take the guest, and another one is better.
    Fits,
    /// It cannot take the guest.
    Rejected,
}

/// How good a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Total weight of the preferred rules that the guest follows there.
    pub preference: u32,
    /// The larger of the shares of memory and processors that it has promised, in thousandths.
    pub load_permille: u32,
    /// How far both shares would be apart with the guest, in thousandths.
    pub skew_permille: u32,
}
