//! The best node for a guest, found by sets.
//!
//! [`filter`](super::filter) says the same one node at a time, with reasons; a test holds the two
//! against each other.

use godwit_proto::cluster::{RuleKind, Scope, Strategy, Strength};
use godwit_proto::id::NodeId;

use super::demand::{CpuNeed, Demand, Purpose};
use super::inventory::Inventory;
use super::rules::IndexedRule;
use super::set::{NodeSet, Slot};

/// Finds nodes for guests. Keeps its memory from one guest to the next, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    candidates: NodeSet,
    scratch: NodeSet,
    heaviest: NodeSet,
    weights: Vec<u32>,
}

impl Scheduler {
    /// A scheduler.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The best node for a guest, by the cluster's strategy; `None` when no node can take it.
    ///
    /// Among nodes that can take it, those that follow the preferred rules of the highest total
    /// weight come first, then the strategy decides, then the lower id.
    pub fn choose(&mut self, inventory: &Inventory, demand: &Demand<'_>) -> Option<NodeId> {
        self.filter(inventory, demand);
        if !self.weigh(inventory, demand) {
            let best = best(inventory, demand, &self.candidates);
            return best.map(|slot| inventory.id(slot));
        }
        // Nearly always the first round ends it. The rounds are bounded by the sums of weights.
        loop {
            let weights = self
                .candidates
                .iter()
                .map(|slot| self.weights[slot.index()]);
            let heaviest = weights.max()?;
            self.heaviest.clear();
            for slot in self.candidates.iter() {
                if self.weights[slot.index()] == heaviest {
                    self.heaviest.insert(slot);
                }
            }
            if let Some(slot) = best(inventory, demand, &self.heaviest) {
                return Some(inventory.id(slot));
            }
            self.candidates.subtract(&self.heaviest);
        }
    }

    /// Fills the candidates with the nodes that nothing but room speaks against.
    fn filter(&mut self, inventory: &Inventory, demand: &Demand<'_>) {
        let candidates = &mut self.candidates;
        candidates.copy_from(&inventory.schedulable);
        let mut keep = |set: Option<&NodeSet>| match set {
            Some(set) => candidates.intersect(set),
            None => candidates.clear(),
        };
        match demand.cpu {
            CpuNeed::Anything => {}
            CpuNeed::Level(level) => keep(Some(inventory.at_level(level))),
            CpuNeed::Baseline(baseline) => keep(inventory.showing(baseline)),
        }
        for (key, value) in demand.selector.iter() {
            keep(inventory.with_label(key, value));
        }
        for pool in &demand.pools {
            keep(inventory.reaching(*pool));
        }
        for network in &demand.networks {
            keep(inventory.having(*network));
        }
        if let Some((_, node)) = demand.bound {
            let mut only = NodeSet::new();
            inventory
                .slot(node)
                .into_iter()
                .for_each(|slot| only.insert(slot));
            candidates.intersect(&only);
        }
        for rule in required(inventory, demand) {
            match &rule.rule.kind {
                RuleKind::NodeAffinity { nodes } => {
                    for (key, value) in nodes.iter() {
                        match inventory.with_label(key, value) {
                            Some(set) => candidates.intersect(set),
                            None => candidates.clear(),
                        }
                    }
                }
                RuleKind::Affinity(_) if others(rule, demand) == 0 => {}
                RuleKind::Affinity(_) => {
                    candidates.intersect(neighbours(inventory, rule, demand, &mut self.scratch));
                }
                RuleKind::AntiAffinity(_) => {
                    candidates.subtract(neighbours(inventory, rule, demand, &mut self.scratch));
                }
            }
        }
        if demand.purpose == Purpose::Move {
            for slot in &demand.present {
                candidates.remove(*slot);
            }
        }
    }

    /// Weighs the candidates by the preferred rules that the guest follows on each; answers whether
    /// there is any such rule.
    fn weigh(&mut self, inventory: &Inventory, demand: &Demand<'_>) -> bool {
        let mut weighed = false;
        for (rule, weight) in preferred(inventory, demand) {
            if !weighed {
                weighed = true;
                self.weights.clear();
                self.weights.resize(inventory.slots(), 0);
            }
            let mut add = |followers: &NodeSet| {
                for slot in self.candidates.iter_common(followers) {
                    self.weights[slot.index()] += u32::from(weight);
                }
            };
            match &rule.rule.kind {
                RuleKind::NodeAffinity { nodes } => {
                    let mut labels = nodes.iter();
                    let mut next = || {
                        let (key, value) = labels.next()?;
                        Some(inventory.with_label(key, value))
                    };
                    self.scratch.clear();
                    if let Some(Some(first)) = next() {
                        self.scratch.copy_from(first);
                    }
                    while let Some(set) = next() {
                        match set {
                            Some(set) => self.scratch.intersect(set),
                            None => self.scratch.clear(),
                        }
                    }
                    add(&self.scratch);
                }
                // Wherever the first one goes, it is with the others.
                RuleKind::Affinity(_) if others(rule, demand) == 0 => add(&self.candidates),
                RuleKind::Affinity(_) => {
                    add(neighbours(inventory, rule, demand, &mut self.scratch));
                }
                RuleKind::AntiAffinity(_) => {
                    let near = neighbours(inventory, rule, demand, &mut self.scratch);
                    self.heaviest.copy_from(&self.candidates);
                    self.heaviest.subtract(near);
                    add(&self.heaviest);
                }
            }
        }
        weighed
    }
}

/// The best of `candidates` that has room, by the strategy and then by id.
fn best(inventory: &Inventory, demand: &Demand<'_>, candidates: &NodeSet) -> Option<Slot> {
    let fits = |slot: Slot| has_room(inventory, demand, slot);
    let bands = &inventory.bands;
    match inventory.settings.strategy {
        Strategy::Spread => bands.emptiest(candidates, fits),
        Strategy::Pack => bands.fullest(candidates, fits),
        Strategy::Balanced => bands.most_even(candidates, fits, |slot| {
            inventory.host(slot).skew_with(demand.amount)
        }),
    }
}

/// Whether a node has room for the guest, and for a migration if it takes one.
pub(super) fn has_room(inventory: &Inventory, demand: &Demand<'_>, slot: Slot) -> bool {
    let host = inventory.host(slot);
    host.fits(demand.amount)
        && (demand.purpose == Purpose::Start
            || host.migrations < inventory.settings.migrations_per_node)
}

pub(super) fn required<'a>(
    inventory: &'a Inventory,
    demand: &'a Demand<'_>,
) -> impl Iterator<Item = &'a IndexedRule> {
    let rules = demand.rules.iter();
    rules
        .filter_map(|id| inventory.rules.get(*id))
        .filter(|rule| rule.rule.strength == Strength::Required)
}

pub(super) fn preferred<'a>(
    inventory: &'a Inventory,
    demand: &'a Demand<'_>,
) -> impl Iterator<Item = (&'a IndexedRule, u8)> {
    let rules = demand.rules.iter();
    rules
        .filter_map(|id| inventory.rules.get(*id))
        .filter_map(|rule| match rule.rule.strength {
            Strength::Required => None,
            Strength::Preferred { weight } => Some((rule, weight)),
        })
}

/// Guests of the rule beside this one, wherever they are.
pub(super) fn others(rule: &IndexedRule, demand: &Demand<'_>) -> u32 {
    let own = u32::try_from(demand.present.len()).unwrap_or(u32::MAX);
    rule.members.saturating_sub(own)
}

/// Guests of the rule beside this one that live together with whoever is on `slot`.
pub(super) fn neighbours_at(
    inventory: &Inventory,
    rule: &IndexedRule,
    demand: &Demand<'_>,
    slot: Slot,
) -> u32 {
    let domain = inventory.domain_at(slot);
    let own = demand.present.iter().filter(|own| match rule.scope() {
        Some(Scope::Node) => **own == slot,
        Some(Scope::FailureDomain) => inventory.domain_at(**own) == domain,
        None => false,
    });
    let own = u32::try_from(own.count()).unwrap_or(u32::MAX);
    rule.together_with(slot, domain).saturating_sub(own)
}

/// Whether the guest follows a rule on a node.
pub(super) fn follows(
    inventory: &Inventory,
    rule: &IndexedRule,
    demand: &Demand<'_>,
    slot: Slot,
) -> bool {
    match &rule.rule.kind {
        RuleKind::NodeAffinity { nodes } => nodes.iter().all(|(key, value)| {
            let set = inventory.with_label(key, value);
            set.is_some_and(|set| set.contains(slot))
        }),
        RuleKind::Affinity(_) => {
            others(rule, demand) == 0 || neighbours_at(inventory, rule, demand, slot) > 0
        }
        RuleKind::AntiAffinity(_) => neighbours_at(inventory, rule, demand, slot) == 0,
    }
}

/// Every node on which the guest would live together with others of the rule.
fn neighbours<'a>(
    inventory: &Inventory,
    rule: &'a IndexedRule,
    demand: &Demand<'_>,
    scratch: &'a mut NodeSet,
) -> &'a NodeSet {
    if demand.present.is_empty() {
        return &rule.occupied;
    }
    scratch.copy_from(&rule.occupied);
    for slot in &demand.present {
        if neighbours_at(inventory, rule, demand, *slot) > 0 {
            continue;
        }
        match rule.scope() {
            Some(Scope::FailureDomain) => {
                scratch.subtract(inventory.domain_members(inventory.domain_at(*slot)));
            }
            _ => scratch.remove(*slot),
        }
    }
    scratch
}
