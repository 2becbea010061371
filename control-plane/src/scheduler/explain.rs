//! Why here, why not there, and what would make it fit.

use std::collections::BTreeMap;

use godwit_proto::cluster::{Guest, Strategy};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;

use super::choose::{Scheduler, follows, preferred};
use super::demand::{Demand, Purpose};
use super::filter::{Rejection, check};
use super::host::WHOLE;
use super::inventory::Inventory;
use super::set::Slot;
use crate::state::State;

/// The most remedies that an explanation tells.
const MAX_REMEDIES: usize = 5;

/// Where a guest goes, and what was thought of every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The guest's name.
    pub guest: String,
    /// What decides among nodes that can take it.
    pub strategy: Strategy,
    /// Where it goes.
    pub chosen: Option<NodeId>,
    /// Every node, by id.
    pub nodes: Vec<NodeVerdict>,
    /// When it goes nowhere: what would make it fit, the smallest change first.
    pub remedies: Vec<String>,
}

/// What was thought of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVerdict {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What was thought of it.
    pub verdict: Verdict,
}

/// What was thought of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the best one.
    Chosen(Score),
    /// It could take the guest, and another one is better.
    Fits {
        /// How good it is.
        score: Score,
        /// What made the difference.
        behind: Behind,
    },
    /// It cannot take the guest, for all these reasons.
    Rejected(Vec<Rejection>),
}

/// How good a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Total weight of the preferred rules that the guest follows there; the higher is better.
    pub preference: u32,
    /// The larger of the shares of memory and processors that it has promised, in thousandths.
    pub load_permille: u32,
    /// How far both shares would be apart with the guest, in thousandths.
    pub skew_permille: u32,
}

/// What made the difference between a node and the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Preferred rules.
    Preference,
    /// The strategy.
    Strategy,
    /// Nothing but the id.
    Id,
}

impl Explanation {
    /// Why no node can take the guest, for who asked; `None` when one can.
    #[must_use]
    pub fn to_error(&self) -> Option<CodedError> {
        if self.chosen.is_some() {
            return None;
        }
        let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
        for rejection in self.rejections() {
            *counts.entry(rejection.summary()).or_default() += 1;
        }
        let mut counts: Vec<(u32, &str)> = counts.iter().map(|(what, n)| (*n, *what)).collect();
        counts.sort_by_key(|(count, what)| (std::cmp::Reverse(*count), *what));
        let message = match self.nodes.len() {
            0 => format!(
                "guest {} fits nowhere: the cluster has no nodes",
                self.guest
            ),
            1 => format!("the only node cannot take guest {}", self.guest),
            nodes => format!("none of {nodes} nodes can take guest {}", self.guest),
        };
        let mut error = CodedError::new(ErrorCode::Unschedulable, message);
        error.causes = match self.nodes.as_slice() {
            // Few nodes are told one by one, in full.
            nodes if nodes.len() <= 8 => nodes.iter().filter_map(NodeVerdict::told).collect(),
            _ => counts
                .iter()
                .take(16)
                .map(|(count, what)| format!("{count} {what}"))
                .collect(),
        };
        match self.remedies.is_empty() {
            true => Some(error),
            false => Some(error.with_fix(self.remedies.join("; or "))),
        }
    }

    fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.nodes.iter().flat_map(|node| match &node.verdict {
            Verdict::Rejected(rejections) => rejections.as_slice(),
            _ => &[],
        })
    }
}

impl NodeVerdict {
    /// The node and all that speaks against it, in one line.
    fn told(&self) -> Option<String> {
        let Verdict::Rejected(rejections) = &self.verdict else {
            return None;
        };
        let reasons: Vec<String> = rejections.iter().map(ToString::to_string).collect();
        Some(format!("{}: {}", self.name, reasons.join(", ")))
    }
}

/// Explains where `guest` goes. Slow beside [`Scheduler::choose`], which it agrees with: it asks
/// every node everything.
#[must_use]
pub fn explain(
    state: &State,
    inventory: &Inventory,
    guest: &Guest,
    purpose: Purpose,
) -> Explanation {
    let demand = Demand::new(state, inventory, guest, purpose);
    let chosen = Scheduler::new().choose(inventory, &demand);
    let strategy = inventory.settings.strategy;
    let best = chosen.and_then(|node| inventory.slot(node));
    let best_order = best.map(|slot| order(inventory, &demand, slot));
    let verdict = |node| {
        let rejections = check(state, inventory, &demand, node);
        let slot = inventory.slot(node.id).filter(|_| rejections.is_empty());
        let Some((slot, best)) = slot.zip(best_order) else {
            return Verdict::Rejected(rejections);
        };
        let score = score(inventory, &demand, slot);
        if chosen == Some(node.id) {
            return Verdict::Chosen(score);
        }
        let own = order(inventory, &demand, slot);
        let behind = match () {
            () if own.0 != best.0 => Behind::Preference,
            () if own.1 != best.1 => Behind::Strategy,
            () => Behind::Id,
        };
        Verdict::Fits { score, behind }
    };
    let nodes: Vec<NodeVerdict> = state
        .nodes()
        .map(|node| NodeVerdict {
            node: node.id,
            name: node.meta.name.clone(),
            verdict: verdict(node),
        })
        .collect();
    let remedies = match chosen {
        Some(_) => Vec::new(),
        None => remedies(&nodes),
    };
    Explanation {
        guest: guest.meta.name.clone(),
        strategy,
        chosen,
        nodes,
        remedies,
    }
}

/// By what nodes are compared: lower is better, then the lower id.
pub(super) fn order(inventory: &Inventory, demand: &Demand<'_>, slot: Slot) -> (i64, i64, u32) {
    let load = i64::from(inventory.host(slot).load());
    let by_strategy = match inventory.settings.strategy {
        Strategy::Spread => load,
        Strategy::Pack => -load,
        Strategy::Balanced => {
            let skew = i64::from(inventory.host(slot).skew_with(demand.amount));
            (inventory.bands.band(slot) as i64) << 32 | skew
        }
    };
    let preference = i64::from(preference(inventory, demand, slot));
    (-preference, by_strategy, inventory.bands.rank(slot))
}

fn preference(inventory: &Inventory, demand: &Demand<'_>, slot: Slot) -> u32 {
    let followed =
        preferred(inventory, demand).filter(|(rule, _)| follows(inventory, rule, demand, slot));
    followed.map(|(_, weight)| u32::from(weight)).sum()
}

fn score(inventory: &Inventory, demand: &Demand<'_>, slot: Slot) -> Score {
    let permille = |share: u32| {
        let permille = u64::from(share) * 1000 / u64::from(WHOLE);
        u32::try_from(permille).unwrap_or(u32::MAX)
    };
    let host = inventory.host(slot);
    Score {
        preference: preference(inventory, demand, slot),
        load_permille: permille(host.load()),
        skew_permille: permille(host.skew_with(demand.amount)),
    }
}

/// What would make it fit: nodes with one thing against them first, then two.
fn remedies(nodes: &[NodeVerdict]) -> Vec<String> {
    let mut remedies = Vec::new();
    for against in 1..=2 {
        for node in nodes {
            let Verdict::Rejected(rejections) = &node.verdict else {
                continue;
            };
            if rejections.len() != against {
                continue;
            }
            let steps = rejections
                .iter()
                .map(|rejection| rejection.remedy(&node.name));
            let Some(steps) = steps.collect::<Option<Vec<_>>>() else {
                continue;
            };
            let remedy = steps.join(", and ");
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
            if remedies.len() == MAX_REMEDIES {
                return remedies;
            }
        }
        if !remedies.is_empty() {
            break;
        }
    }
    remedies
}
