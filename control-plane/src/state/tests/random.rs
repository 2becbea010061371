//! Random commands, most of them sensible: every invariant after every step, and the same state
//! whichever way it is reached.

use godwit_proto::cluster::{
    AbortCause, ClusterCommand, Command, Entry, EntryHeader, FailoverPolicy, GuestCommand,
    GuestReport, MigrationCommand, MigrationReason, NodeCommand, NodeState, ObservedState, Owner,
    ResourceCommand, Response, RuleKind, Scope, Strength,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{
    Epoch, Generation, GuestId, Incarnation, MigrationId, NodeId, OperationId, RequestId, Revision,
    RuleId, Timestamp, VolumeId,
};
use proptest::prelude::*;

use super::restored;
use crate::invariants;
use crate::scheduler::{Demand, Purpose, check};
use crate::state::State;
use crate::workload::{Random, Size, Workload};

/// Commands that follow from a seed and from the state they are for.
struct Commands {
    random: Random,
    workload: Workload,
    next: u64,
}

impl Commands {
    fn new(seed: u64) -> Self {
        let size = Size {
            nodes: 5,
            guests: 12,
            services: 3,
        };
        Self {
            random: Random::new(seed),
            workload: Workload::full(size, seed),
            next: 0,
        }
    }

    fn id(&mut self) -> [u8; 16] {
        self.next += 1;
        let mut bytes = [0xee; 16];
        bytes[..8].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }

    fn node(&mut self, state: &State) -> NodeId {
        let nodes: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
        match nodes.is_empty() || self.random.one_in(40) {
            true => NodeId::from_bytes([0xcc; 16]),
            false => self.random.one_of(&nodes),
        }
    }

    fn guest(&mut self, state: &State) -> GuestId {
        let guests: Vec<GuestId> = state.guests().map(|guest| guest.id).collect();
        match guests.is_empty() || self.random.one_in(40) {
            true => GuestId::from_bytes([0xcc; 16]),
            false => self.random.one_of(&guests),
        }
    }

    fn migration(&mut self, state: &State) -> MigrationId {
        let running = state.migrations().filter(|m| !m.phase.is_finished());
        let ids: Vec<MigrationId> = running.map(|migration| migration.id).collect();
        match ids.is_empty() || self.random.one_in(10) {
            true => MigrationId::from_bytes([0xcc; 16]),
            false => self.random.one_of(&ids),
        }
    }

    fn operation(&mut self, state: &State) -> OperationId {
        let ids: Vec<OperationId> = state.operations().map(|operation| operation.id).collect();
        match ids.is_empty() {
            true => OperationId::from_bytes([0xcc; 16]),
            false => self.random.one_of(&ids),
        }
    }

    fn entry(&mut self, state: &State) -> Entry {
        let command = self.command(state);
        let request = self.random.one_in(3).then(|| {
            // Few, so that some come twice.
            RequestId::from_bytes([self.random.below(30) as u8; 16])
        });
        Entry {
            header: EntryHeader {
                now: Timestamp::from_millis(self.random.below(1 << 40)),
                actor: "test".into(),
                request,
            },
            command,
        }
    }

    fn command(&mut self, state: &State) -> Command {
        match self.random.below(100) {
            0..20 => Command::Node(self.node_command(state)),
            20..55 => Command::Guest(self.guest_command(state)),
            55..85 => Command::Migration(self.migration_command(state)),
            85..95 => Command::Resource(self.resource_command(state)),
            _ => Command::Cluster(self.cluster_command(state)),
        }
    }

    fn node_command(&mut self, state: &State) -> NodeCommand {
        let node = self.node(state);
        match self.random.below(20) {
            0..3 => {
                let number = self.random.below(8) as u32;
                NodeCommand::Join {
                    report: Box::new(self.workload.node(number)),
                    lower_baseline: self.random.one_in(2),
                }
            }
            3..9 => NodeCommand::GrantLease { node },
            9..13 => {
                let lease = state.lease(node);
                let incarnation = lease.map_or(Incarnation::new(9), |lease| lease.incarnation);
                NodeCommand::LapseLease {
                    node,
                    incarnation,
                    reign: match self.random.one_in(10) {
                        true => Revision::new(self.random.below(9)),
                        false => state.reign(),
                    },
                }
            }
            13 => NodeCommand::SetLabels {
                node,
                labels: [("disk", "ssd")].into_iter().collect(),
                expected: Some(state.revision()),
            },
            14 => NodeCommand::Cordon {
                node,
                reason: "test".into(),
            },
            15 | 16 => NodeCommand::Uncordon { node },
            17 | 18 => NodeCommand::Drain {
                node,
                operation: OperationId::from_bytes(self.id()),
            },
            _ => NodeCommand::Remove {
                node,
                force: self.random.one_in(2),
            },
        }
    }

    fn guest_command(&mut self, state: &State) -> GuestCommand {
        let (guest, node) = (self.guest(state), self.node(state));
        let found = state.guest(guest);
        match self.random.below(20) {
            0 | 1 => {
                let mut new = self.workload.guest();
                new.template.volumes.clear();
                if self.random.one_in(4) {
                    new.failover = FailoverPolicy::Never;
                }
                GuestCommand::Create(Box::new(new))
            }
            2 => GuestCommand::SetPolicy {
                guest,
                labels: [("service", "s1")].into_iter().collect(),
                failover: match self.random.below(2) {
                    0 => FailoverPolicy::Never,
                    _ => FailoverPolicy::Restart { priority: 3 },
                },
                expected: None,
            },
            3 => GuestCommand::Stop {
                guest,
                expected: None,
            },
            4 => GuestCommand::Delete {
                guest,
                expected: None,
            },
            5 => {
                let mut template = self.workload.guest().template;
                template.volumes.clear();
                GuestCommand::Update {
                    guest,
                    template,
                    expected: None,
                }
            }
            6..10 => GuestCommand::Start {
                guest,
                node,
                expected: None,
            },
            10..13 => {
                let lost = state.guests().find(|guest| {
                    let lost = |(id, _)| state.node(id).unwrap().state == NodeState::Lost;
                    guest.ownership.runners().any(lost)
                });
                let guest = lost.map_or(guest, |guest| guest.id);
                GuestCommand::FailOver { guest, node }
            }
            _ => {
                let runner = found.and_then(|guest| guest.ownership.runners().last());
                let (node, mut epoch) = runner.unwrap_or((node, Epoch::new(1)));
                if self.random.one_in(10) {
                    epoch = Epoch::new(self.random.below(4));
                }
                let failed = CodedError::new(ErrorCode::GuestCrashed, "triple fault");
                let states = [
                    ObservedState::Running,
                    ObservedState::Paused,
                    ObservedState::Stopped,
                    ObservedState::Failed(failed),
                    ObservedState::Starting,
                ];
                let which = self.random.below(12).saturating_sub(7) as usize;
                GuestCommand::Report(GuestReport {
                    guest,
                    node,
                    epoch,
                    state: states[which].clone(),
                    generation: match found {
                        Some(guest) => guest.meta.generation,
                        None => Generation::new(1),
                    },
                    dirty_pages_per_second: Some(7),
                })
            }
        }
    }

    fn migration_command(&mut self, state: &State) -> MigrationCommand {
        let migration = self.migration(state);
        match self.random.below(11) {
            10 => MigrationCommand::TargetReady {
                migration,
                token: "godwit1_AA".into(),
            },
            0..4 => MigrationCommand::Prepare {
                migration: MigrationId::from_bytes(self.id()),
                guest: self.guest(state),
                target: self.node(state),
                reason: MigrationReason::Asked,
                expected: None,
            },
            4..6 => MigrationCommand::OpenWindow { migration },
            6..8 => {
                let found = state.migration(migration);
                MigrationCommand::Complete {
                    migration,
                    epoch: found.map_or(Epoch::new(1), |migration| migration.successor),
                    receipt: None,
                }
            }
            _ => MigrationCommand::Abort {
                migration,
                cause: self.random.one_of(&[
                    AbortCause::NotOpened,
                    AbortCause::SourceKept,
                    AbortCause::TargetNeverRan,
                    AbortCause::TargetGone,
                    AbortCause::SourceGone,
                ]),
                error: CodedError::new(ErrorCode::Cancelled, "test"),
            },
        }
    }

    fn resource_command(&mut self, state: &State) -> ResourceCommand {
        let number = self.random.below(4) as u8;
        let rules: Vec<RuleId> = state.rules().map(|rule| rule.id).collect();
        match self.random.below(8) {
            0..3 => ResourceCommand::CreateRule {
                id: RuleId::from_bytes(self.id()),
                name: format!("rule-{}", self.next),
                guests: [("service", ["s0", "s1", "s2", "s3"][usize::from(number)])]
                    .into_iter()
                    .collect(),
                kind: match self.random.below(3) {
                    0 => RuleKind::Affinity(Scope::FailureDomain),
                    1 => RuleKind::AntiAffinity(Scope::Node),
                    _ => RuleKind::AntiAffinity(Scope::FailureDomain),
                },
                strength: match self.random.below(2) {
                    0 => Strength::Required,
                    _ => Strength::Preferred { weight: 1 + number },
                },
            },
            3..5 if !rules.is_empty() => ResourceCommand::DeleteRule {
                id: self.random.one_of(&rules),
            },
            5 => ResourceCommand::DeletePool {
                id: godwit_proto::id::PoolId::from_bytes([number; 16]),
            },
            6 => ResourceCommand::DeleteNetwork {
                id: godwit_proto::id::NetworkId::from_bytes([number; 16]),
            },
            _ => {
                let volumes: Vec<VolumeId> = state.volumes().map(|volume| volume.id).collect();
                match volumes.is_empty() {
                    true => ResourceCommand::DeleteVolume {
                        id: VolumeId::from_bytes([0xcc; 16]),
                    },
                    false => ResourceCommand::DeleteVolume {
                        id: self.random.one_of(&volumes),
                    },
                }
            }
        }
    }

    fn cluster_command(&mut self, state: &State) -> ClusterCommand {
        let operation = self.operation(state);
        match self.random.below(5) {
            4 => ClusterCommand::Lead {
                node: self.node(state),
            },
            0 => ClusterCommand::RaiseBaseline,
            1 => ClusterCommand::PauseOperation { operation },
            2 => ClusterCommand::ResumeOperation { operation },
            _ => ClusterCommand::AbortOperation {
                operation,
                reason: "test".into(),
            },
        }
    }
}

/// The state that a log of random commands leads to; `each` sees those on the way.
fn unchecked(seed: u64, length: usize, mut each: impl FnMut(&State)) -> State {
    let mut commands = Commands::new(seed);
    let mut state = commands.workload.state.clone();
    for _ in 0..length {
        let entry = commands.entry(&state);
        state.apply(&entry);
        each(&state);
    }
    state
}

/// A log and the state it leads to, from a seed; every invariant is checked after every step.
fn log(seed: u64, length: usize) -> (State, Vec<Entry>, State) {
    let mut commands = Commands::new(seed);
    let first = commands.workload.state.clone();
    let (mut state, mut entries) = (first.clone(), Vec::new());
    for _ in 0..length {
        let entry = commands.entry(&state);
        let before = state.clone();
        let response = state.apply(&entry);
        let violations = [
            invariants::check(&state),
            invariants::check_step(&before, &state),
        ];
        assert_eq!(violations.concat(), [], "seed {seed}, after {entry:?}");
        match response {
            Response::Refused(_) => assert!(
                before.snapshot().unwrap() == state.snapshot().unwrap(),
                "seed {seed}: a refused entry changed something: {entry:?}"
            ),
            Response::Applied(_) => assert_placed_well(&before, &state, &entry, seed),
        }
        entries.push(entry);
    }
    (first, entries, state)
}

/// Whoever came to a node by a command that names one could be taken by it before.
fn assert_placed_well(before: &State, after: &State, entry: &Entry, seed: u64) {
    let (guest, node, purpose) = match &entry.command {
        Command::Guest(GuestCommand::Start { guest, node, .. }) => (guest, node, Purpose::Start),
        Command::Guest(GuestCommand::FailOver { guest, node }) => (guest, node, Purpose::Start),
        Command::Migration(MigrationCommand::Prepare { guest, target, .. }) => {
            (guest, target, Purpose::Move)
        }
        _ => return,
    };
    if before.revision() == after.revision() {
        return;
    }
    let mut guest = before.guest(*guest).unwrap().clone();
    if purpose == Purpose::Start {
        guest = crate::state::ownership::as_restarted(&guest);
    }
    let demand = Demand::new(before, before.inventory(), &guest, purpose);
    let found = check(
        before,
        before.inventory(),
        &demand,
        before.node(*node).unwrap(),
    );
    assert!(
        found.is_empty(),
        "seed {seed}: {entry:?} in spite of {found:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn invariants_hold_after_every_step_and_a_replayed_log_gives_the_same_state(
        seed in any::<u64>(),
        cut in 0_usize..250,
    ) {
        let (first, entries, last) = log(seed, 250);
        let bytes = last.snapshot().unwrap();
        let mut replayed = first.clone();
        for entry in &entries {
            // As it comes out of a log.
            let entry = Entry::decode(&entry.encode().unwrap()).unwrap();
            replayed.apply(&entry);
        }
        prop_assert!(replayed.snapshot().unwrap() == bytes);
        // A member that was sent a snapshot on the way gets there as well.
        let mut joined = first;
        for (index, entry) in entries.iter().enumerate() {
            if index == cut {
                joined = restored(&joined);
            }
            joined.apply(entry);
        }
        prop_assert!(joined.snapshot().unwrap() == bytes);
        prop_assert_eq!(joined.describe_index().0, last.describe_index().0);
    }
}

#[test]
fn the_commands_of_this_test_reach_every_part_of_the_state_machine() {
    let mut seen = std::collections::BTreeMap::new();
    let mut owners = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let state = unchecked(seed, 250, |state| {
            for guest in state.guests() {
                owners.insert(match guest.ownership.owner {
                    Owner::Nobody => "nobody".into(),
                    Owner::Node { .. } => "node".into(),
                    Owner::Moving(handoff) => format!("{:?}", handoff.window),
                });
            }
        });
        for event in state.events() {
            *seen.entry(format!("{:?}", event.kind)).or_insert(0) += 1;
        }
    }
    let wanted = [
        "Created",
        "Deleted",
        "Elected",
        "FailedOver",
        "Failed",
        "MigrationAborted",
        "MigrationCompleted",
        "MigrationPrepared",
        "MigrationWindowOpen",
        "NodeLost",
        "NodeReady",
        "Operation",
        "Started",
        "Stopped",
        "Updated",
    ];
    for kind in wanted {
        assert!(
            seen.get(kind).is_some_and(|count| *count >= 5),
            "{kind}: {seen:?}"
        );
    }
    assert_eq!(owners.len(), 4, "{owners:?}");
}
