//! Placement rules, indexed: which rules a guest is under, and where the guests of a rule are.

use std::collections::BTreeMap;

use godwit_proto::cluster::{Labels, PlacementRule, RuleKind, Scope};
use godwit_proto::id::RuleId;

use super::set::{NodeSet, Slot};

/// What nodes share a failure domain: a dense number, one for each domain or lonely node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Domain(pub(super) u32);

/// A rule, and where its guests are.
#[derive(Clone, Debug)]
pub(super) struct IndexedRule {
    pub(super) rule: PlacementRule,
    /// Guests of the rule on each node that has any.
    on_node: BTreeMap<Slot, u32>,
    /// Guests of the rule in each failure domain that has any.
    in_domain: BTreeMap<Domain, u32>,
    /// Every node that lives together with a guest of the rule, by the rule's scope.
    pub(super) occupied: NodeSet,
    /// All guests of the rule, one that is moving counted at both ends.
    pub(super) members: u32,
}

impl IndexedRule {
    pub(super) fn new(rule: PlacementRule) -> Self {
        Self {
            rule,
            on_node: BTreeMap::new(),
            in_domain: BTreeMap::new(),
            occupied: NodeSet::new(),
            members: 0,
        }
    }

    /// What "together" means; `None` for a rule that is not about other guests.
    pub(super) fn scope(&self) -> Option<Scope> {
        match self.rule.kind {
            RuleKind::NodeAffinity { .. } => None,
            RuleKind::Affinity(scope) | RuleKind::AntiAffinity(scope) => Some(scope),
        }
    }

    /// A guest of the rule came to `slot`, which is in `domain` with the nodes of `members`.
    pub(super) fn add(&mut self, slot: Slot, domain: Domain, members: &NodeSet) {
        self.members += 1;
        *self.on_node.entry(slot).or_default() += 1;
        *self.in_domain.entry(domain).or_default() += 1;
        match self.scope() {
            Some(Scope::Node) => self.occupied.insert(slot),
            Some(Scope::FailureDomain) => self.occupied.unite(members),
            None => {}
        }
    }

    /// A guest of the rule left.
    pub(super) fn remove(&mut self, slot: Slot, domain: Domain, members: &NodeSet) {
        self.members -= 1;
        let nobody_on_node = decrement(&mut self.on_node, &slot);
        let nobody_in_domain = decrement(&mut self.in_domain, &domain);
        match self.scope() {
            Some(Scope::Node) if nobody_on_node => self.occupied.remove(slot),
            Some(Scope::FailureDomain) if nobody_in_domain => self.occupied.subtract(members),
            _ => {}
        }
    }

    /// Guests of the rule that live together with whoever is on `slot`.
    pub(super) fn together_with(&self, slot: Slot, domain: Domain) -> u32 {
        let count = match self.scope() {
            Some(Scope::Node) => self.on_node.get(&slot),
            Some(Scope::FailureDomain) => self.in_domain.get(&domain),
            None => None,
        };
        count.copied().unwrap_or_default()
    }

    /// A node is in `domain` from now on, or is new there.
    pub(super) fn node_moved(&mut self, slot: Slot, domain: Domain) {
        match self.together_with(slot, domain) {
            0 => self.occupied.remove(slot),
            _ => self.occupied.insert(slot),
        }
    }
}

/// Answers whether none is left.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return true;
    };
    *count -= 1;
    let none = *count == 0;
    if none {
        counts.remove(key);
    }
    none
}

/// All rules, by id and by the first label of their selector.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    rules: BTreeMap<RuleId, IndexedRule>,
    by_label: BTreeMap<String, BTreeMap<String, Vec<RuleId>>>,
}

impl Rules {
    pub(super) fn insert(&mut self, rule: IndexedRule) {
        let id = rule.rule.id;
        if let Some((key, value)) = rule.rule.guests.iter().next() {
            let values = self.by_label.entry(key.to_owned()).or_default();
            values.entry(value.to_owned()).or_default().push(id);
        }
        self.rules.insert(id, rule);
    }

    pub(super) fn remove(&mut self, id: RuleId) {
        let Some(rule) = self.rules.remove(&id) else {
            return;
        };
        let Some((key, value)) = rule.rule.guests.iter().next() else {
            return;
        };
        let Some(values) = self.by_label.get_mut(key) else {
            return;
        };
        if let Some(ids) = values.get_mut(value) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.by_label.remove(key);
        }
    }

    /// The rules that a guest with `labels` is under, by id.
    pub(super) fn of_guest(&self, labels: &Labels) -> Vec<RuleId> {
        if self.rules.is_empty() {
            return Vec::new();
        }
        let lists = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(key)?.get(value));
        let mut ids: Vec<RuleId> = lists
            .flatten()
            .copied()
            .filter(|id| labels.matches(&self.rules[id].rule.guests))
            .collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn get(&self, id: RuleId) -> Option<&IndexedRule> {
        self.rules.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: RuleId) -> Option<&mut IndexedRule> {
        self.rules.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &IndexedRule> {
        self.rules.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut IndexedRule> {
        self.rules.values_mut()
    }
}
