//! The cluster's state, and the one function that changes it.
//!
//! ```text
//! log entry: now, actor, key, command ──> State::apply ──> Response (done at a revision, or refused)
//!                                             |
//!                                             +──> objects, inventory, changes for watchers, events
//! ```
//!
//! [`State::apply`] is total (no entry makes it panic), deterministic (the same entries in the same
//! order give the same state on every member, to the byte), bounded (see
//! `proto::cluster::limits`) and atomic (a refused entry changes nothing). It reads
//! no clock and draws no randomness: ids and the time come with the entry, and the state's time
//! never goes back.
//!
//! It refuses what was decided on something that is no longer so: a stale revision, a node that has
//! filled up meanwhile, an epoch that has passed. It does not ask who may do what: that is settled
//! before an entry is proposed.
//!
//! Invariants are written down one by one in [`invariants`](crate::invariants).

mod check;
mod cluster;
mod guest;
mod journal;
mod migration;
mod node;
mod ownership;
mod refusal;
mod resource;
mod snapshot;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use godwit_proto::cluster::{
    Applied, Change, Command, CpuBaseline, DoneRequest, Entry, Event, EventKind, Guest, Lease,
    LeaseState, Migration, Network, Node, ObjectRef, Operation, OperationState, PlacementRule,
    Pool, Reign, Response, Settings, Volume, limits,
};
use godwit_proto::id::{
    BaselineId, GuestId, MigrationId, NetworkId, NodeId, OperationId, PoolId, RequestId, Revision,
    RuleId, Timestamp, VolumeId,
};

use crate::scheduler::Inventory;
use journal::Journal;
use table::Table;

pub use journal::Watch;
pub(crate) use ownership::as_restarted;
pub use refusal::Refusal;
pub use snapshot::{Restore, RestoreError};

/// The cluster's state.
#[derive(Clone, Debug)]
pub struct State {
    revision: Revision,
    now: Timestamp,
    reign: Option<Reign>,
    settings: Settings,
    nodes: Table<Node>,
    guests: Table<Guest>,
    pools: Table<Pool>,
    volumes: Table<Volume>,
    networks: Table<Network>,
    rules: Table<PlacementRule>,
    leases: BTreeMap<NodeId, Lease>,
    migrations: BTreeMap<MigrationId, Migration>,
    operations: BTreeMap<OperationId, Operation>,
    baselines: BTreeMap<BaselineId, CpuBaseline>,
    last_baseline: BaselineId,
    journal: Journal,
    index: Index,
}

/// What follows from the rest of the state, kept up with each change.
#[derive(Clone, Debug)]
struct Index {
    inventory: Inventory,
    /// The guests that hold room on each node that has any.
    residents: BTreeMap<NodeId, BTreeSet<GuestId>>,
    /// When what each node is to do last changed.
    told: BTreeMap<NodeId, Revision>,
    /// The same for nodes that are not in `told`.
    told_before: Revision,
    /// Finished migrations, the longest finished first.
    finished_migrations: BTreeSet<(Revision, MigrationId)>,
    /// Finished operations, the longest finished first.
    finished_operations: BTreeSet<(Revision, OperationId)>,
}

/// What an entry is applied under.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    /// The revision that it makes.
    revision: Revision,
    now: Timestamp,
    actor: &'a str,
}

impl State {
    /// The state of a cluster without members, named `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut settings = Settings::default();
        settings.meta.name = name.into();
        Self {
            revision: Revision::new(0),
            now: Timestamp::from_millis(0),
            reign: None,
            nodes: Table::new(),
            guests: Table::new(),
            pools: Table::new(),
            volumes: Table::new(),
            networks: Table::new(),
            rules: Table::new(),
            leases: BTreeMap::new(),
            migrations: BTreeMap::new(),
            operations: BTreeMap::new(),
            baselines: BTreeMap::new(),
            last_baseline: BaselineId::new(0),
            journal: Journal::new(Revision::new(0)),
            index: Index {
                inventory: Inventory::new(&settings),
                residents: BTreeMap::new(),
                told: BTreeMap::new(),
                told_before: Revision::new(0),
                finished_migrations: BTreeSet::new(),
                finished_operations: BTreeSet::new(),
            },
            settings,
        }
    }

    /// Applies a log entry.
    pub fn apply(&mut self, entry: &Entry) -> Response {
        match self.try_apply(entry) {
            Ok(applied) => Response::Applied(applied),
            Err(refusal) => Response::Refused(refusal.to_coded_error()),
        }
    }

    /// Applies a log entry.
    ///
    /// # Errors
    /// Why it was refused; it changed nothing then.
    pub fn try_apply(&mut self, entry: &Entry) -> Result<Applied, Refusal> {
        let header = &entry.header;
        check::text("actor", &header.actor)?;
        let digest = match header.request {
            None => 0,
            Some(_) => digest(&entry.command)?,
        };
        if let Some(id) = header.request
            && let Some(applied) = self.journal.repeated(id, digest)?
        {
            return Ok(applied);
        }
        let context = Context {
            revision: self.revision.next(),
            now: header.now.max(self.now),
            actor: &header.actor,
        };
        let object = match &entry.command {
            Command::Node(command) => self.apply_node(&context, command),
            Command::Guest(command) => self.apply_guest(&context, command),
            Command::Migration(command) => self.apply_migration(&context, command),
            Command::Resource(command) => self.apply_resource(&context, command),
            Command::Cluster(command) => self.apply_cluster(&context, command),
        }?;
        self.revision = context.revision;
        self.now = context.now;
        let applied = Applied {
            revision: self.revision,
            object,
        };
        if let Some(id) = header.request {
            self.journal.done(DoneRequest {
                id,
                digest,
                applied,
            });
        }
        Ok(applied)
    }

    /// How many entries changed the state.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The latest time that an applied entry brought.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// When the reign of the present leader began; 0 before the first one.
    #[must_use]
    pub fn reign(&self) -> Revision {
        self.reign.map_or(Revision::new(0), |reign| reign.since)
    }

    /// Who was elected last.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.reign.map(|reign| reign.node)
    }

    /// What holds for the whole cluster.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The index that placement works on.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.index.inventory
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.find(id)
    }

    /// The node of a name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.by_name(name)
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> + Clone {
        self.nodes.iter()
    }

    /// A guest.
    #[must_use]
    pub fn guest(&self, id: GuestId) -> Option<&Guest> {
        self.guests.find(id)
    }

    /// The guest of a name.
    #[must_use]
    pub fn guest_named(&self, name: &str) -> Option<&Guest> {
        self.guests.by_name(name)
    }

    /// The guests, by id.
    pub fn guests(&self) -> impl ExactSizeIterator<Item = &Guest> + Clone {
        self.guests.iter()
    }

    /// The guests that hold room on a node: those it owns and those that are coming. By id.
    pub fn guests_on(&self, node: NodeId) -> impl Iterator<Item = &Guest> {
        let ids = self.index.residents.get(&node).into_iter().flatten();
        ids.filter_map(|id| self.guests.find(*id))
    }

    /// The revision at which what a node is to do last changed, or a later one: its guests, their
    /// migrations, its lease.
    #[must_use]
    pub fn told_at(&self, node: NodeId) -> Revision {
        let told = self.index.told.get(&node).copied();
        told.unwrap_or(self.index.told_before)
    }

    /// A pool.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.find(id)
    }

    /// The pool of a name.
    #[must_use]
    pub fn pool_named(&self, name: &str) -> Option<&Pool> {
        self.pools.by_name(name)
    }

    /// The pools, by id.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = &Pool> {
        self.pools.iter()
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.find(id)
    }

    /// The volume of a name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.volumes.by_name(name)
    }

    /// The volumes, by id.
    pub fn volumes(&self) -> impl ExactSizeIterator<Item = &Volume> {
        self.volumes.iter()
    }

    /// A network.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.find(id)
    }

    /// The network of a name.
    #[must_use]
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.networks.by_name(name)
    }

    /// The networks, by id.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Network> {
        self.networks.iter()
    }

    /// A placement rule.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&PlacementRule> {
        self.rules.find(id)
    }

    /// The placement rule of a name.
    #[must_use]
    pub fn rule_named(&self, name: &str) -> Option<&PlacementRule> {
        self.rules.by_name(name)
    }

    /// The placement rules, by id.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &PlacementRule> {
        self.rules.iter()
    }

    /// The lease of a node.
    #[must_use]
    pub fn lease(&self, node: NodeId) -> Option<&Lease> {
        self.leases.get(&node)
    }

    /// The leases, by node.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &Lease> {
        self.leases.values()
    }

    /// A migration.
    #[must_use]
    pub fn migration(&self, id: MigrationId) -> Option<&Migration> {
        self.migrations.get(&id)
    }

    /// The migrations, by id: those under way, and the last that ended.
    pub fn migrations(&self) -> impl ExactSizeIterator<Item = &Migration> {
        self.migrations.values()
    }

    /// An operation.
    #[must_use]
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations.get(&id)
    }

    /// The operations, by id: those under way, and the last that ended.
    pub fn operations(&self) -> impl ExactSizeIterator<Item = &Operation> {
        self.operations.values()
    }

    /// A promised set of CPU features.
    #[must_use]
    pub fn baseline(&self, id: BaselineId) -> Option<&CpuBaseline> {
        self.baselines.get(&id)
    }

    /// The promised sets of CPU features, by id.
    pub fn baselines(&self) -> impl ExactSizeIterator<Item = &CpuBaseline> {
        self.baselines.values()
    }

    /// What happened, oldest first; what is long past is forgotten.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.journal.events()
    }

    /// What changed after revision `since`: about `max` changes, and what to ask from next.
    #[must_use]
    pub fn changes_since(&self, since: Revision, max: usize) -> Watch {
        self.journal.since(since, self.revision, max)
    }

    /// The requests that were done under keys from the first to the last of a range, by key; what is
    /// long past is forgotten.
    pub fn requests_done(
        &self,
        keys: RangeInclusive<RequestId>,
    ) -> impl Iterator<Item = &DoneRequest> {
        self.journal.requests_done(keys)
    }

    /// Changes and requests that are remembered, for who looks at memory.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (
            self.journal.all_changes().len(),
            self.journal.requests().len(),
        )
    }

    /// The oldest change that is remembered.
    #[must_use]
    pub fn oldest_change(&self) -> Option<&Change> {
        self.journal.all_changes().next()
    }

    /// The indexes as they were kept, and as they follow from the objects: for
    /// [`invariants`](crate::invariants).
    pub(crate) fn describe_index(&self) -> (Vec<String>, Vec<String>) {
        (self.index.describe(), Index::build(self).describe())
    }

    /// Whether a node holds its lease.
    #[must_use]
    pub fn holds_lease(&self, node: NodeId) -> bool {
        let lease = self.leases.get(&node);
        lease.is_some_and(|lease| lease.state == LeaseState::Held)
    }

    fn changed(&mut self, context: &Context<'_>, object: ObjectRef) {
        self.journal.changed(context.revision, object, false);
    }

    fn deleted(&mut self, context: &Context<'_>, object: ObjectRef) {
        self.journal.changed(context.revision, object, true);
    }

    fn happened(
        &mut self,
        context: &Context<'_>,
        object: ObjectRef,
        kind: EventKind,
        message: String,
    ) {
        self.journal.happened(Event {
            revision: context.revision,
            at: context.now,
            object,
            kind,
            actor: context.actor.into(),
            message,
        });
    }

    fn put_node(&mut self, context: &Context<'_>, mut node: Node) {
        node.meta.revision = context.revision;
        let residents = self.index.residents.get(&node.id).into_iter().flatten();
        let guests = residents.filter_map(|id| self.guests.find(*id));
        self.index.inventory.set_node(&node, guests);
        self.changed(context, ObjectRef::Node(node.id));
        self.nodes.put(node);
    }

    fn put_guest(&mut self, context: &Context<'_>, mut guest: Guest) {
        guest.meta.revision = context.revision;
        let id = guest.id;
        let before: Vec<NodeId> = self.leave_hosts(id);
        self.index.add_guest(&guest);
        let hosts = before.iter().copied().chain(guest.ownership.hosts());
        hosts.for_each(|node| self.index.tell(node, context.revision));
        self.changed(context, ObjectRef::Guest(id));
        self.guests.put(guest);
        self.end_drains(context, &before);
    }

    fn remove_guest(&mut self, context: &Context<'_>, id: GuestId) {
        let before = self.leave_hosts(id);
        for node in &before {
            self.index.tell(*node, context.revision);
        }
        self.guests.remove(id);
        self.deleted(context, ObjectRef::Guest(id));
        self.end_drains(context, &before);
    }

    /// Takes a guest out of the index; answers where it was.
    fn leave_hosts(&mut self, id: GuestId) -> Vec<NodeId> {
        let Some(guest) = self.guests.find(id) else {
            return Vec::new();
        };
        self.index.remove_guest(guest);
        guest.ownership.hosts().collect()
    }

    /// Ends the drains of nodes that are empty now.
    fn end_drains(&mut self, context: &Context<'_>, nodes: &[NodeId]) {
        for node in nodes {
            if !self.index.residents.contains_key(node) {
                self.end_drain_of_empty(context, *node);
            }
        }
    }

    fn put_migration(&mut self, context: &Context<'_>, mut migration: Migration) {
        migration.meta.revision = context.revision;
        let id = migration.id;
        for node in [migration.source, migration.target] {
            self.index.tell(node, context.revision);
        }
        if migration.phase.is_finished() {
            let finished = &mut self.index.finished_migrations;
            finished.insert((context.revision, id));
            if finished.len() > limits::MAX_FINISHED_MIGRATIONS
                && let Some((_, oldest)) = finished.pop_first()
            {
                self.migrations.remove(&oldest);
                self.deleted(context, ObjectRef::Migration(oldest));
            }
        }
        self.changed(context, ObjectRef::Migration(id));
        self.migrations.insert(id, migration);
    }

    fn put_operation(&mut self, context: &Context<'_>, mut operation: Operation) {
        operation.meta.revision = context.revision;
        let id = operation.id;
        if operation.state.is_finished() {
            let finished = &mut self.index.finished_operations;
            finished.insert((context.revision, id));
            if finished.len() > limits::MAX_FINISHED_OPERATIONS
                && let Some((_, oldest)) = finished.pop_first()
            {
                self.operations.remove(&oldest);
                self.deleted(context, ObjectRef::Operation(oldest));
            }
        }
        self.changed(context, ObjectRef::Operation(id));
        self.operations.insert(id, operation);
    }

    /// Operations that have not ended.
    fn running_operations(&self) -> usize {
        let running = |operation: &&Operation| {
            matches!(
                operation.state,
                OperationState::Running | OperationState::Paused
            )
        };
        self.operations.values().filter(running).count()
    }
}

impl Index {
    fn describe(&self) -> Vec<String> {
        let mut lines = self.inventory.describe();
        for (node, guests) in &self.residents {
            lines.push(format!("guests of {node}: {guests:?}"));
        }
        lines.push(format!("{:?}", self.finished_migrations));
        lines.push(format!("{:?}", self.finished_operations));
        lines
    }

    fn tell(&mut self, node: NodeId, revision: Revision) {
        self.told.insert(node, revision);
    }

    fn add_guest(&mut self, guest: &Guest) {
        self.inventory.add_guest(guest);
        for node in guest.ownership.hosts() {
            self.residents.entry(node).or_default().insert(guest.id);
        }
    }

    fn remove_guest(&mut self, guest: &Guest) {
        self.inventory.remove_guest(guest);
        for node in guest.ownership.hosts() {
            if let Some(guests) = self.residents.get_mut(&node) {
                guests.remove(&guest.id);
                if guests.is_empty() {
                    self.residents.remove(&node);
                }
            }
        }
    }
}

/// Tells commands apart.
fn digest(command: &Command) -> Result<u64, Refusal> {
    let bytes = command.encode();
    let bytes = bytes.map_err(|error| Refusal::invalid("command", error.to_string()))?;
    Ok(xxhash_rust::xxh3::xxh3_64(&bytes))
}
