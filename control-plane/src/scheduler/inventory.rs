//! All that placement asks of the cluster, indexed: what each node has left, and for each thing that
//! a guest can need the set of nodes that have it.
//!
//! It holds nothing that is not in the [`State`](crate::state::State): it is kept up with each
//! change, and a test builds it anew and compares. A planner clones it and tries things out.
//!
//! Cost, with N nodes: a guest placed or taken away is O(log N) for each rule it is under; a node
//! that joins, leaves or changes is O(N).

use std::collections::BTreeMap;

use godwit_proto::cluster::{
    CpuBaseline, CpuLevel, Guest, Node, NodeState, Owner, PlacementRule, Scheduling, Settings,
};
use godwit_proto::id::{BaselineId, NetworkId, NodeId, PoolId, RuleId};

use super::bands::Bands;
use super::host::{Amount, Host};
use super::rules::{Domain, IndexedRule, Rules};
use super::set::{NodeSet, Slot};

/// What placement asks of the cluster.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub(super) settings: Settings,
    slots: BTreeMap<NodeId, Slot>,
    free_slots: Vec<Slot>,
    ids: Vec<NodeId>,
    hosts: Vec<Host>,
    domain_of: Vec<Domain>,
    domains: Vec<NodeSet>,
    free_domains: Vec<Domain>,
    domain_names: BTreeMap<DomainName, Domain>,
    pub(super) bands: Bands,
    /// Nodes that hold a lease and are not cordoned.
    pub(super) schedulable: NodeSet,
    labels: BTreeMap<String, BTreeMap<String, NodeSet>>,
    pools: BTreeMap<PoolId, NodeSet>,
    networks: BTreeMap<NetworkId, NodeSet>,
    /// Nodes that can show a guest each promised set of CPU features.
    baselines: BTreeMap<BaselineId, (CpuBaseline, NodeSet)>,
    /// Nodes that can show a guest each level.
    levels: [NodeSet; 3],
    pub(super) rules: Rules,
    migrations: u32,
}

/// What fails together: something with a name, or one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DomainName {
    Named(String),
    Node(NodeId),
}

impl Inventory {
    /// Of a cluster without nodes.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            slots: BTreeMap::new(),
            free_slots: Vec::new(),
            ids: Vec::new(),
            hosts: Vec::new(),
            domain_of: Vec::new(),
            domains: Vec::new(),
            free_domains: Vec::new(),
            domain_names: BTreeMap::new(),
            bands: Bands::new(),
            schedulable: NodeSet::new(),
            labels: BTreeMap::new(),
            pools: BTreeMap::new(),
            networks: BTreeMap::new(),
            baselines: BTreeMap::new(),
            levels: Default::default(),
            rules: Rules::default(),
            migrations: 0,
        }
    }

    /// Notes that the settings changed; `nodes` are all nodes.
    pub fn configure<'a>(&mut self, settings: &Settings, nodes: impl Iterator<Item = &'a Node>) {
        self.settings = settings.clone();
        for node in nodes {
            if let Some(slot) = self.slot(node.id) {
                let total = Amount::allocatable(&node.capacity, settings.overcommit);
                self.hosts[slot.index()].set_total(total);
                self.load_changed(slot);
            }
        }
    }

    /// Takes a node in, or notes that it changed. `guests` are those that hold room on it, which is
    /// needed when its failure domain changed.
    pub fn set_node<'a>(&mut self, node: &Node, guests: impl Iterator<Item = &'a Guest>) {
        let known = self.slots.get(&node.id).copied();
        let slot = known.unwrap_or_else(|| self.new_slot(node.id));
        if known.is_some() {
            self.forget_facts(slot);
        }
        let name = match node.failure_domain.as_str() {
            "" => DomainName::Node(node.id),
            name => DomainName::Named(name.to_owned()),
        };
        let domain = self.domain(name);
        if known.is_none() || self.domain_of[slot.index()] != domain {
            self.set_domain(slot, domain, guests, known.is_some());
        }
        self.hosts[slot.index()].set_total(Amount::allocatable(
            &node.capacity,
            self.settings.overcommit,
        ));
        if node.state == NodeState::Ready && node.scheduling == Scheduling::Enabled {
            self.schedulable.insert(slot);
        }
        for (key, value) in node.meta.labels.iter() {
            let values = self.labels.entry(key.to_owned()).or_default();
            values.entry(value.to_owned()).or_default().insert(slot);
        }
        for pool in &node.pools {
            self.pools.entry(*pool).or_default().insert(slot);
        }
        for network in &node.networks {
            self.networks.entry(*network).or_default().insert(slot);
        }
        for (baseline, nodes) in self.baselines.values_mut() {
            if baseline.features.missing_in(&node.cpu.features).is_empty() {
                nodes.insert(slot);
            }
        }
        for level in [CpuLevel::V2, CpuLevel::V3, CpuLevel::V4] {
            if node.cpu.level >= Some(level) {
                self.levels[level as usize].insert(slot);
            }
        }
        self.load_changed(slot);
    }

    /// Forgets a node. Guests that hold room on it were [taken away](Self::remove_guest) before.
    pub fn remove_node(&mut self, id: NodeId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        self.forget_facts(slot);
        let domain = self.domain_of[slot.index()];
        self.leave_domain(slot, domain);
        for rule in self.rules.iter_mut() {
            rule.occupied.remove(slot);
        }
        self.bands.remove(slot);
        self.hosts[slot.index()] = Host::default();
        self.free_slots.push(slot);
        self.rank_nodes();
    }

    /// Notes what CPU features were promised; `nodes` are all nodes.
    pub fn add_baseline<'a>(
        &mut self,
        baseline: &CpuBaseline,
        nodes: impl Iterator<Item = &'a Node>,
    ) {
        let mut able = NodeSet::new();
        for node in nodes {
            let missing = baseline.features.missing_in(&node.cpu.features);
            if let Some(slot) = self.slot(node.id).filter(|_| missing.is_empty()) {
                able.insert(slot);
            }
        }
        self.baselines.insert(baseline.id, (baseline.clone(), able));
    }

    /// Forgets a promise.
    pub fn remove_baseline(&mut self, id: BaselineId) {
        self.baselines.remove(&id);
    }

    /// Takes a rule in; `guests` are all guests.
    pub fn add_rule<'a>(&mut self, rule: &PlacementRule, guests: impl Iterator<Item = &'a Guest>) {
        let mut indexed = IndexedRule::new(rule.clone());
        for guest in guests.filter(|guest| guest.meta.labels.matches(&rule.guests)) {
            for slot in self.slots_of(guest) {
                let domain = self.domain_of[slot.index()];
                indexed.add(slot, domain, &self.domains[domain.0 as usize]);
            }
        }
        self.rules.insert(indexed);
    }

    /// Forgets a rule.
    pub fn remove_rule(&mut self, id: RuleId) {
        self.rules.remove(id);
    }

    /// Holds room for a guest where it is, and where it is going.
    pub fn add_guest(&mut self, guest: &Guest) {
        let rules = self.rules.of_guest(&guest.meta.labels);
        let amount = Amount::of_guest(&guest.template);
        let slots: Vec<Slot> = self.slots_of(guest).collect();
        for slot in &slots {
            self.hosts[slot.index()].take(amount);
            self.load_changed(*slot);
            let domain = self.domain_of[slot.index()];
            for id in &rules {
                if let Some(rule) = self.rules.get_mut(*id) {
                    rule.add(*slot, domain, &self.domains[domain.0 as usize]);
                }
            }
        }
        if is_moving(guest) {
            self.migrations += 1;
            for slot in slots {
                self.hosts[slot.index()].migrations += 1;
            }
        }
    }

    /// Undoes [`add_guest`](Self::add_guest) of the same guest.
    pub fn remove_guest(&mut self, guest: &Guest) {
        let rules = self.rules.of_guest(&guest.meta.labels);
        let amount = Amount::of_guest(&guest.template);
        let slots: Vec<Slot> = self.slots_of(guest).collect();
        for slot in &slots {
            self.hosts[slot.index()].give_back(amount);
            self.load_changed(*slot);
            let domain = self.domain_of[slot.index()];
            for id in &rules {
                if let Some(rule) = self.rules.get_mut(*id) {
                    rule.remove(*slot, domain, &self.domains[domain.0 as usize]);
                }
            }
        }
        if is_moving(guest) {
            self.migrations -= 1;
            for slot in slots {
                self.hosts[slot.index()].migrations -= 1;
            }
        }
    }

    /// Migrations under way.
    #[must_use]
    pub fn migrations(&self) -> u32 {
        self.migrations
    }

    /// Migrations that a node takes part in.
    #[must_use]
    pub fn migrations_of(&self, node: NodeId) -> u32 {
        self.slot(node).map_or(0, |slot| self.host(slot).migrations)
    }

    /// Guests that hold room on a node: those it owns and those that are coming.
    #[must_use]
    pub fn guests_on(&self, node: NodeId) -> u32 {
        self.slot(node).map_or(0, |slot| self.host(slot).guests)
    }

    /// What a node has left.
    #[must_use]
    pub fn free(&self, node: NodeId) -> Option<Amount> {
        Some(self.host(self.slot(node)?).free())
    }

    /// The larger of the shares of memory and processors that a node has promised, of
    /// [`WHOLE`](super::WHOLE).
    #[must_use]
    pub fn load(&self, node: NodeId) -> Option<u32> {
        Some(self.host(self.slot(node)?).load())
    }

    /// The same with `amount` more.
    #[must_use]
    pub fn load_with(&self, node: NodeId, amount: Amount) -> Option<u32> {
        let mut host = *self.host(self.slot(node)?);
        host.take(amount);
        Some(host.load())
    }

    /// The same with `amount` less.
    #[must_use]
    pub fn load_without(&self, node: NodeId, amount: Amount) -> Option<u32> {
        let mut host = *self.host(self.slot(node)?);
        host.used.memory_mib = host.used.memory_mib.saturating_sub(amount.memory_mib);
        host.used.cpu_milli = host.used.cpu_milli.saturating_sub(amount.cpu_milli);
        Some(host.load())
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.slots.keys().copied()
    }

    /// All it holds, by name and without slots: two inventories of the same cluster say the same,
    /// however they came about.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let names = |set: &NodeSet| {
            let mut ids: Vec<NodeId> = set.iter().map(|slot| self.id(slot)).collect();
            ids.sort_unstable();
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            ids.join(" ")
        };
        let mut lines = vec![format!("{} migrations", self.migrations)];
        for (id, slot) in &self.slots {
            let (host, domain) = (self.host(*slot), self.domain_at(*slot));
            lines.push(format!(
                "{id}: {:?} of {:?}, {} guests, {} migrations, load {} in band {}, rank {}",
                host.used,
                host.total,
                host.guests,
                host.migrations,
                self.bands.load(*slot),
                self.bands.band(*slot),
                self.bands.rank(*slot),
            ));
            lines.push(format!("{id} with {}", names(self.domain_members(domain))));
        }
        lines.push(format!("schedulable: {}", names(&self.schedulable)));
        for (key, values) in &self.labels {
            let values = values.iter();
            lines.extend(values.map(|(value, set)| format!("{key}={value}: {}", names(set))));
        }
        let pools = self.pools.iter();
        lines.extend(pools.map(|(id, set)| format!("pool {id}: {}", names(set))));
        let networks = self.networks.iter();
        lines.extend(networks.map(|(id, set)| format!("network {id}: {}", names(set))));
        let baselines = self.baselines.iter();
        lines.extend(baselines.map(|(id, (_, set))| format!("baseline {id}: {}", names(set))));
        let levels = self.levels.iter().enumerate();
        lines.extend(levels.map(|(level, set)| format!("level {level}: {}", names(set))));
        let rules = self.rules.iter();
        lines.extend(rules.map(|rule| {
            let (id, members) = (rule.rule.id, rule.members);
            format!("rule {id}: {members} guests, {}", names(&rule.occupied))
        }));
        lines
    }

    /// One more than the highest slot that was ever used.
    pub(super) fn slots(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn slot(&self, node: NodeId) -> Option<Slot> {
        self.slots.get(&node).copied()
    }

    pub(super) fn id(&self, slot: Slot) -> NodeId {
        self.ids[slot.index()]
    }

    pub(super) fn host(&self, slot: Slot) -> &Host {
        &self.hosts[slot.index()]
    }

    pub(super) fn domain_at(&self, slot: Slot) -> Domain {
        self.domain_of[slot.index()]
    }

    pub(super) fn domain_members(&self, domain: Domain) -> &NodeSet {
        &self.domains[domain.0 as usize]
    }

    pub(super) fn with_label(&self, key: &str, value: &str) -> Option<&NodeSet> {
        self.labels.get(key)?.get(value)
    }

    pub(super) fn reaching(&self, pool: PoolId) -> Option<&NodeSet> {
        self.pools.get(&pool)
    }

    pub(super) fn having(&self, network: NetworkId) -> Option<&NodeSet> {
        self.networks.get(&network)
    }

    pub(super) fn showing(&self, baseline: BaselineId) -> Option<&NodeSet> {
        self.baselines.get(&baseline).map(|(_, nodes)| nodes)
    }

    pub(super) fn at_level(&self, level: CpuLevel) -> &NodeSet {
        &self.levels[level as usize]
    }

    /// Where a guest is and where it is going.
    fn slots_of(&self, guest: &Guest) -> impl Iterator<Item = Slot> + use<> {
        let mut hosts = guest.ownership.hosts();
        let first = hosts.next().and_then(|node| self.slot(node));
        let second = hosts.next().and_then(|node| self.slot(node));
        first.into_iter().chain(second)
    }

    fn new_slot(&mut self, id: NodeId) -> Slot {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            let slot = Slot(u32::try_from(self.ids.len()).expect("there are at most MAX_NODES"));
            self.ids.push(id);
            self.hosts.push(Host::default());
            self.domain_of.push(Domain(0));
            slot
        });
        self.ids[slot.index()] = id;
        self.slots.insert(id, slot);
        self.bands.insert(slot, 0, 0);
        self.rank_nodes();
        slot
    }

    /// Among equals the lower id wins, whatever the slots are.
    fn rank_nodes(&mut self) {
        for (rank, slot) in (0..).zip(self.slots.values()) {
            self.bands.set_rank(*slot, rank);
        }
    }

    /// Removes a slot from every set that says something of its node.
    fn forget_facts(&mut self, slot: Slot) {
        self.schedulable.remove(slot);
        let labels = self.labels.values_mut().flat_map(BTreeMap::values_mut);
        labels
            .chain(self.pools.values_mut())
            .chain(self.networks.values_mut())
            .chain(self.baselines.values_mut().map(|(_, nodes)| nodes))
            .chain(&mut self.levels)
            .for_each(|set| set.remove(slot));
        self.labels.retain(|_, values| {
            values.retain(|_, nodes| !nodes.is_empty());
            !values.is_empty()
        });
        self.pools.retain(|_, nodes| !nodes.is_empty());
        self.networks.retain(|_, nodes| !nodes.is_empty());
    }

    fn domain(&mut self, name: DomainName) -> Domain {
        if let Some(domain) = self.domain_names.get(&name) {
            return *domain;
        }
        let domain = self.free_domains.pop().unwrap_or_else(|| {
            let count = u32::try_from(self.domains.len());
            self.domains.push(NodeSet::new());
            Domain(count.expect("there are no more domains than nodes"))
        });
        self.domain_names.insert(name, domain);
        domain
    }

    fn leave_domain(&mut self, slot: Slot, domain: Domain) {
        let members = &mut self.domains[domain.0 as usize];
        members.remove(slot);
        if members.is_empty() {
            self.domain_names.retain(|_, other| *other != domain);
            self.free_domains.push(domain);
        }
    }

    /// Moves a slot to another domain, and with it the guests that rules count there.
    fn set_domain<'a>(
        &mut self,
        slot: Slot,
        domain: Domain,
        guests: impl Iterator<Item = &'a Guest>,
        was_in_another: bool,
    ) {
        let present: Vec<&Guest> = guests.collect();
        let before = self.domain_of[slot.index()];
        let mut moved = Vec::new();
        for guest in present {
            moved.extend(self.rules.of_guest(&guest.meta.labels));
        }
        if was_in_another {
            for id in &moved {
                if let Some(rule) = self.rules.get_mut(*id) {
                    rule.remove(slot, before, &self.domains[before.0 as usize]);
                }
            }
            self.leave_domain(slot, before);
        }
        self.domain_of[slot.index()] = domain;
        self.domains[domain.0 as usize].insert(slot);
        for id in &moved {
            if let Some(rule) = self.rules.get_mut(*id) {
                rule.add(slot, domain, &self.domains[domain.0 as usize]);
            }
        }
        for rule in self.rules.iter_mut() {
            rule.node_moved(slot, domain);
        }
    }

    fn load_changed(&mut self, slot: Slot) {
        self.bands.set_load(slot, self.hosts[slot.index()].load());
    }
}

/// Whether a guest takes part in a migration.
fn is_moving(guest: &Guest) -> bool {
    matches!(guest.ownership.owner, Owner::Moving(_))
}
