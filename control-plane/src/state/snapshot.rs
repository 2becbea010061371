//! A whole state as bytes, and back.
//!
//! A snapshot is a series of chunks, each a [sequence of records](godwit_proto::record) of about a
//! megabyte; the first begins with a [`StateHeader`]. The same state gives the same chunks on every
//! member. What follows from the rest (the inventory, indexes) is not in it, and is built anew.

use std::collections::{BTreeMap, BTreeSet};

use godwit_proto::cluster::{Change, DoneRequest, Object, ObjectRef, Owner, StateHeader, limits};
use godwit_proto::record::{Kind, RecordError, RecordReader, RecordWriter};

use super::journal::Journal;
use super::table::{Named, Table};
use super::{Index, State};
use crate::scheduler::Inventory;

/// Records of one chunk.
const CHUNK_RECORDS: usize = 1024;
/// Numbers that only grow are taken from a snapshot up to this: no number of steps that anybody
/// takes comes near, and far beyond they would end.
const MAX_NUMBER: u64 = 1 << 62;

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its records are not right.
    #[error("malformed snapshot of the cluster's state")]
    Record(#[from] RecordError),
    /// It does not begin as one.
    #[error("a snapshot of the cluster's state begins with its header")]
    NoHeader,
    /// It is cut short, or too long.
    #[error("a snapshot of {wanted} objects has {found}")]
    Objects {
        /// How many the header promised.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// What it holds does not fit together.
    #[error("the snapshot's {object} {problem}")]
    Inconsistent {
        /// Which object.
        object: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl State {
    /// The state as chunks, in order.
    ///
    /// # Errors
    /// None for a state that was built by [`State::apply`]: no object comes near the length of a
    /// record.
    pub fn snapshot(&self) -> Result<Vec<Vec<u8>>, RecordError> {
        let mut chunks = Chunks::new();
        chunks.writer.push(&StateHeader {
            revision: self.revision,
            now: self.now,
            last_baseline: self.last_baseline,
            oldest_change: self.journal.oldest(),
            reign: self.reign,
            objects: self.count(),
        })?;
        chunks.add(&Object::Settings(self.settings.clone()))?;
        for baseline in self.baselines() {
            chunks.add(&Object::Baseline(baseline.clone()))?;
        }
        for pool in self.pools() {
            chunks.add(&Object::Pool(pool.clone()))?;
        }
        for network in self.networks() {
            chunks.add(&Object::Network(network.clone()))?;
        }
        for node in self.nodes() {
            chunks.add(&Object::Node(node.clone()))?;
        }
        for lease in self.leases() {
            chunks.add(&Object::Lease(lease.clone()))?;
        }
        for volume in self.volumes() {
            chunks.add(&Object::Volume(volume.clone()))?;
        }
        for rule in self.rules() {
            chunks.add(&Object::Rule(rule.clone()))?;
        }
        for guest in self.guests() {
            chunks.add(&Object::Guest(guest.clone()))?;
        }
        for migration in self.migrations() {
            chunks.add(&Object::Migration(migration.clone()))?;
        }
        for operation in self.operations() {
            chunks.add(&Object::Operation(operation.clone()))?;
        }
        for event in self.events() {
            chunks.add(&Object::Event(event.clone()))?;
        }
        for change in self.journal.all_changes() {
            chunks.writer.push(change)?;
            chunks.counted()?;
        }
        for request in self.journal.requests() {
            chunks.writer.push(request)?;
            chunks.counted()?;
        }
        chunks.finish()
    }

    /// Records after the header.
    fn count(&self) -> u64 {
        let tables = [
            self.nodes.len(),
            self.guests.len(),
            self.pools.len(),
            self.volumes.len(),
            self.networks.len(),
            self.rules.len(),
            self.leases.len(),
            self.migrations.len(),
            self.operations.len(),
            self.baselines.len(),
            self.events().len(),
            self.journal.all_changes().len(),
            self.journal.requests().len(),
        ];
        1 + tables.iter().sum::<usize>() as u64
    }
}

struct Chunks {
    done: Vec<Vec<u8>>,
    writer: RecordWriter,
    records: usize,
}

impl Chunks {
    fn new() -> Self {
        Self {
            done: Vec::new(),
            writer: RecordWriter::new(),
            records: 0,
        }
    }

    fn add(&mut self, object: &Object) -> Result<(), RecordError> {
        object.push_to(&mut self.writer)?;
        self.counted()
    }

    fn counted(&mut self) -> Result<(), RecordError> {
        self.records += 1;
        if self.records == CHUNK_RECORDS {
            let full = std::mem::take(&mut self.writer);
            self.done.push(full.finish()?);
            self.records = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Vec<u8>>, RecordError> {
        self.done.push(self.writer.finish()?);
        Ok(self.done)
    }
}

/// Builds a state from the chunks of a snapshot. They are untrusted.
#[derive(Debug)]
pub struct Restore {
    header: Option<StateHeader>,
    found: u64,
    state: State,
    has_settings: bool,
}

impl Default for Restore {
    fn default() -> Self {
        Self::new()
    }
}

impl Restore {
    /// Of which nothing has come yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: None,
            found: 0,
            state: State::new(""),
            has_settings: false,
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let mut reader = RecordReader::new(chunk)?;
        if self.header.is_none() {
            let first = reader.remaining().first();
            if first.is_none_or(|record| record.kind != Kind::ClusterState) {
                return Err(RestoreError::NoHeader);
            }
            let header: StateHeader = reader.one()?;
            if header.objects > max_objects() {
                return Err(RestoreError::Objects {
                    wanted: header.objects,
                    found: 0,
                });
            }
            self.state.revision = header.revision;
            self.state.now = header.now;
            self.state.reign = header.reign;
            self.state.last_baseline = header.last_baseline;
            self.state.journal = Journal::new(header.oldest_change);
            self.header = Some(header);
        }
        for record in reader.remaining() {
            self.found += 1;
            let wanted = self.header.map_or(0, |header| header.objects);
            if self.found > wanted {
                return Err(RestoreError::Objects {
                    wanted,
                    found: self.found,
                });
            }
            match record.kind {
                Kind::Change => {
                    let change: Change = record.decode()?;
                    let journal = &mut self.state.journal;
                    journal.changed(change.revision, change.object, change.deleted);
                }
                Kind::DoneRequest => {
                    let request: DoneRequest = record.decode()?;
                    self.state.journal.done(request);
                }
                kind => match Object::from_record(record)? {
                    Some(object) => self.take(object)?,
                    None => return Err(RecordError::Unused { kind }.into()),
                },
            }
        }
        Ok(())
    }

    /// The state, if all of it came and it fits together.
    ///
    /// # Errors
    /// What is missing or does not fit.
    pub fn finish(self) -> Result<State, RestoreError> {
        let header = self.header.ok_or(RestoreError::NoHeader)?;
        if self.found != header.objects || !self.has_settings {
            return Err(RestoreError::Objects {
                wanted: header.objects,
                found: self.found,
            });
        }
        let mut state = self.state;
        check_numbers(&state)?;
        check_references(&state)?;
        state.index = Index::build(&state);
        Ok(state)
    }

    fn take(&mut self, object: Object) -> Result<(), RestoreError> {
        let state = &mut self.state;
        let is_new = match object {
            Object::Settings(settings) => {
                state.settings = settings;
                !std::mem::replace(&mut self.has_settings, true)
            }
            Object::Node(node) => put(&mut state.nodes, node),
            Object::Guest(guest) => put(&mut state.guests, guest),
            Object::Pool(pool) => put(&mut state.pools, pool),
            Object::Volume(volume) => put(&mut state.volumes, volume),
            Object::Network(network) => put(&mut state.networks, network),
            Object::Rule(rule) => put(&mut state.rules, rule),
            Object::Lease(lease) => insert(&mut state.leases, lease.node, lease),
            Object::Migration(migration) => insert(&mut state.migrations, migration.id, migration),
            Object::Operation(operation) => insert(&mut state.operations, operation.id, operation),
            Object::Baseline(baseline) => insert(&mut state.baselines, baseline.id, baseline),
            Object::Event(event) => {
                state.journal.happened(event);
                true
            }
        };
        match is_new {
            true => Ok(()),
            false => Err(RestoreError::Inconsistent {
                object: "object".into(),
                problem: "is there twice, or one of its kind with its name is",
            }),
        }
    }
}

fn put<T: Named>(table: &mut Table<T>, object: T) -> bool {
    let is_new = table.check_new(object.id(), &object.meta().name).is_ok();
    if is_new {
        table.put(object);
    }
    is_new
}

fn insert<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    map.insert(key, value).is_none()
}

/// More than any state has.
fn max_objects() -> u64 {
    let tables = limits::MAX_NODES * 2 + limits::MAX_GUESTS * 2 + limits::MAX_VOLUMES;
    let journal = limits::MAX_EVENTS + limits::MAX_CHANGES + limits::MAX_REQUESTS;
    let rest = limits::MAX_POOLS + limits::MAX_NETWORKS + limits::MAX_RULES;
    (tables + journal + rest + 10_000) as u64
}

/// Numbers that are counted on from here must leave room for that.
fn check_numbers(state: &State) -> Result<(), RestoreError> {
    let too_high = |object: &str| RestoreError::Inconsistent {
        object: object.into(),
        problem: "has a number beyond any that was given out",
    };
    let metas = state
        .nodes()
        .map(|node| &node.meta)
        .chain(state.guests().map(|guest| &guest.meta))
        .chain(state.volumes().map(|volume| &volume.meta))
        .chain(state.operations().map(|operation| &operation.meta))
        .chain([&state.settings.meta]);
    for meta in metas {
        if meta.generation.get() > MAX_NUMBER {
            return Err(too_high(&meta.name));
        }
    }
    let epochs = state.guests().map(|guest| guest.ownership.highest.get());
    let incarnations = state.leases().map(|lease| lease.incarnation.get());
    let single = [state.revision.get(), state.last_baseline.get()];
    let highest = epochs.chain(incarnations).chain(single).max();
    if state.reign() > state.revision() {
        return Err(too_high("reign"));
    }
    match highest.is_some_and(|highest| highest > MAX_NUMBER) {
        true => Err(too_high("counters")),
        false => Ok(()),
    }
}

/// What the rest of the code takes for granted, because no command makes it otherwise.
fn check_references(state: &State) -> Result<(), RestoreError> {
    let wrong = |object: ObjectRef, problem| RestoreError::Inconsistent {
        object: object.to_string(),
        problem,
    };
    for guest in state.guests() {
        let object = ObjectRef::Guest(guest.id);
        if guest
            .ownership
            .hosts()
            .any(|node| state.node(node).is_none())
        {
            return Err(wrong(object, "belongs to a node that is not there"));
        }
        if let Owner::Moving(handoff) = guest.ownership.owner {
            if handoff.source == handoff.target {
                return Err(wrong(object, "moves to where it is"));
            }
            let migration = state.migration(handoff.migration);
            if migration.is_none_or(|m| m.guest != guest.id || m.phase.is_finished()) {
                return Err(wrong(object, "moves by a migration that is not under way"));
            }
        }
        let amount = crate::scheduler::Amount::of_guest(&guest.template);
        if amount.memory_mib > 1 << 30 || guest.template.vcpus > 1 << 20 {
            return Err(wrong(object, "takes more than any guest may"));
        }
    }
    for node in state.nodes() {
        if state.lease(node.id).is_none() {
            return Err(wrong(ObjectRef::Node(node.id), "has no lease"));
        }
        if node.capacity.memory_bytes > 1 << 60 {
            return Err(wrong(
                ObjectRef::Node(node.id),
                "has more than any node has",
            ));
        }
    }
    if state.leases().len() != state.nodes().len() {
        return Err(wrong(
            ObjectRef::Settings,
            "has leases of nodes that are not there",
        ));
    }
    Ok(())
}

impl Index {
    /// All that follows from the rest of the state.
    pub(super) fn build(state: &State) -> Self {
        let mut index = Self {
            inventory: Inventory::new(state.settings()),
            residents: BTreeMap::new(),
            told: BTreeMap::new(),
            told_before: state.revision(),
            finished_migrations: BTreeSet::new(),
            finished_operations: BTreeSet::new(),
        };
        for node in state.nodes() {
            index.inventory.set_node(node, std::iter::empty());
        }
        for baseline in state.baselines() {
            index.inventory.add_baseline(baseline, state.nodes());
        }
        for rule in state.rules() {
            index.inventory.add_rule(rule, std::iter::empty());
        }
        for guest in state.guests() {
            index.add_guest(guest);
        }
        for migration in state.migrations().filter(|m| m.phase.is_finished()) {
            let finished = (migration.meta.revision, migration.id);
            index.finished_migrations.insert(finished);
        }
        for operation in state.operations().filter(|o| o.state.is_finished()) {
            let finished = (operation.meta.revision, operation.id);
            index.finished_operations.insert(finished);
        }
        index
    }
}
