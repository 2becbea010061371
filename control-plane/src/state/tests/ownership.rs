//! Who may run a guest, transition by transition.

use godwit_proto::cluster::{
    AbortCause, ClusterCommand, Command, FailoverPolicy, GuestCommand, GuestReport, Labels,
    MigrationCommand, MigrationPhase, MigrationReason, NodeCommand, NodeState, ObservedState,
    Owner, RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Epoch, Generation, GuestId, MigrationId, NodeId};

use crate::scheduler::Scheduler;
use crate::state::Refusal;
use crate::workload::{Random, Size, Workload};

const MIGRATION: MigrationId = MigrationId::from_bytes([1; 16]);

/// Three equal nodes, and a guest that runs on the first.
struct World {
    workload: Workload,
    guest: GuestId,
    nodes: [NodeId; 3],
}

impl World {
    fn new() -> Self {
        let size = Size {
            nodes: 0,
            guests: 0,
            services: 0,
        };
        let mut workload = Workload::new(size, 3);
        let nodes = [1, 2, 3].map(|number| {
            let mut report = Workload::new(size, 9).node(0);
            report.id = NodeId::from_bytes([number; 16]);
            report.name = format!("n{number}");
            let node = report.id;
            let report = Box::new(report);
            let join = NodeCommand::Join {
                report,
                lower_baseline: false,
            };
            workload.apply(Command::Node(join)).unwrap();
            let grant = NodeCommand::GrantLease { node };
            workload.apply(Command::Node(grant)).unwrap();
            node
        });
        let mut new = workload.guest();
        new.template.volumes.clear();
        new.template.networks.clear();
        new.template.node_selector = Labels::none();
        new.template.cpu = godwit_proto::cluster::CpuChoice::Host;
        new.labels = Labels::none();
        let guest = new.id;
        workload.make(new);
        let mut world = Self {
            workload,
            guest,
            nodes,
        };
        world.start(nodes[0]).unwrap();
        world.report(ObservedState::Running).unwrap();
        world
    }

    fn owner(&self) -> Owner {
        self.workload
            .state
            .guest(self.guest)
            .unwrap()
            .ownership
            .owner
    }

    fn owned_by(&self, number: usize, epoch: u64) -> bool {
        let (node, epoch) = (self.nodes[number], Epoch::new(epoch));
        self.owner() == Owner::Node { node, epoch }
    }

    fn guest_command(&mut self, command: GuestCommand) -> Result<(), Refusal> {
        self.workload.apply(Command::Guest(command)).map(drop)
    }

    fn start(&mut self, node: NodeId) -> Result<(), Refusal> {
        self.guest_command(GuestCommand::Start {
            guest: self.guest,
            node,
            expected: None,
        })
    }

    fn report(&mut self, state: ObservedState) -> Result<(), Refusal> {
        self.workload.report(self.guest, state).map(drop)
    }

    fn report_as(&mut self, number: usize, epoch: u64) -> Result<(), Refusal> {
        self.guest_command(GuestCommand::Report(GuestReport {
            guest: self.guest,
            node: self.nodes[number],
            epoch: Epoch::new(epoch),
            state: ObservedState::Running,
            generation: Generation::new(1),
            dirty_pages_per_second: None,
        }))
    }

    fn prepare(&mut self, target: usize) -> Result<(), Refusal> {
        let prepare = MigrationCommand::Prepare {
            migration: MIGRATION,
            guest: self.guest,
            target: self.nodes[target],
            reason: MigrationReason::Asked,
            expected: None,
        };
        self.workload.apply(Command::Migration(prepare)).map(drop)
    }

    fn open(&mut self) -> Result<(), Refusal> {
        let migration = MIGRATION;
        let open = MigrationCommand::OpenWindow { migration };
        self.workload.apply(Command::Migration(open)).map(drop)
    }

    fn complete(&mut self, epoch: u64) -> Result<(), Refusal> {
        let complete = MigrationCommand::Complete {
            migration: MIGRATION,
            epoch: Epoch::new(epoch),
            receipt: Some("{}".into()),
        };
        self.workload.apply(Command::Migration(complete)).map(drop)
    }

    fn abort(&mut self, cause: AbortCause) -> Result<(), Refusal> {
        let abort = MigrationCommand::Abort {
            migration: MIGRATION,
            cause,
            error: CodedError::new(ErrorCode::Cancelled, "cancelled"),
        };
        self.workload.apply(Command::Migration(abort)).map(drop)
    }

    fn lapse(&mut self, number: usize) {
        let node = self.nodes[number];
        let incarnation = self.workload.state.lease(node).unwrap().incarnation;
        let lapse = NodeCommand::LapseLease {
            node,
            incarnation,
            reign: self.workload.state.reign(),
        };
        self.workload.apply(Command::Node(lapse)).unwrap();
    }

    fn fail_over(&mut self, to: usize) -> Result<(), Refusal> {
        self.guest_command(GuestCommand::FailOver {
            guest: self.guest,
            node: self.nodes[to],
        })
    }
}

#[test]
fn an_undisturbed_migration_changes_the_owner_when_it_completes() {
    let mut world = World::new();
    assert!(world.owned_by(0, 1));
    world.prepare(1).unwrap();
    assert!(world.complete(2).is_err(), "the window is closed");
    assert!(
        world.report_as(1, 2).is_err(),
        "the target cannot run it yet"
    );
    world.open().unwrap();
    world.report_as(1, 2).unwrap();
    assert!(matches!(world.complete(1), Err(Refusal::StaleEpoch { .. })));
    world.complete(2).unwrap();
    assert!(world.owned_by(1, 2));
    let migration = world.workload.state.migration(MIGRATION).unwrap();
    assert!(matches!(migration.phase, MigrationPhase::Completed { .. }));
    assert_eq!(migration.receipt.as_deref(), Some("{}"));
    assert!(matches!(
        world.report_as(0, 1),
        Err(Refusal::StaleEpoch { .. })
    ));
}

#[test]
fn a_source_that_keeps_the_guest_keeps_its_epoch_and_the_reserved_one_is_never_used() {
    for open in [false, true] {
        let mut world = World::new();
        world.prepare(1).unwrap();
        if open {
            world.open().unwrap();
        }
        world.abort(AbortCause::SourceKept).unwrap();
        assert!(world.owned_by(0, 1));
        assert!(world.complete(2).is_err());
        world.report(ObservedState::Stopped).unwrap();
        world.start(world.nodes[2]).unwrap();
        assert!(world.owned_by(2, 3));
    }
}

#[test]
fn a_target_that_never_ran_the_guest_gives_it_back_under_a_fresh_epoch() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    assert!(
        world.abort(AbortCause::TargetNeverRan).is_err(),
        "nobody gave it up"
    );
    world.open().unwrap();
    assert!(world.abort(AbortCause::NotOpened).is_err());
    world.abort(AbortCause::TargetNeverRan).unwrap();
    assert!(world.owned_by(0, 3));
    let revives = |world: &World| {
        let guest = world.workload.state.guest(world.guest).unwrap();
        guest.ownership.revives
    };
    assert_eq!(revives(&world), Some(Epoch::new(1)));
    world.report(ObservedState::Running).unwrap();
    let crash = CodedError::new(ErrorCode::GuestCrashed, "triple fault");
    world.report(ObservedState::Failed(crash)).unwrap();
    assert_eq!(revives(&world), None, "only that copy, only then");
}

#[test]
fn a_target_that_is_gone_leaves_the_guest_to_the_source_under_the_same_epoch() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    assert!(
        world.abort(AbortCause::TargetGone).is_err(),
        "it cannot have run"
    );
    world.open().unwrap();
    world.abort(AbortCause::TargetGone).unwrap();
    assert!(world.owned_by(0, 1));
    assert!(world.complete(2).is_err());
    let guest = world.workload.state.guest(world.guest).unwrap();
    assert_eq!(guest.observed.state, ObservedState::Starting);
    assert_eq!(guest.ownership.revives, None, "what was given up is stale");
    assert!(
        world.prepare(2).is_err(),
        "the source says first whether it has it"
    );
}

#[test]
fn a_source_that_is_gone_leaves_the_guest_to_the_target() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    assert!(world.abort(AbortCause::SourceGone).is_err());
    world.open().unwrap();
    world.abort(AbortCause::SourceGone).unwrap();
    assert!(world.owned_by(1, 2));
    assert!(matches!(
        world.report_as(0, 1),
        Err(Refusal::StaleEpoch { .. })
    ));
    world.report_as(1, 2).unwrap();
}

#[test]
fn a_token_is_told_once_while_the_window_is_closed_and_forgotten_in_the_end() {
    let mut world = World::new();
    let ready = |token: &str| {
        Command::Migration(MigrationCommand::TargetReady {
            migration: MIGRATION,
            token: token.into(),
        })
    };
    assert!(world.workload.apply(ready("t")).is_err());
    world.prepare(1).unwrap();
    assert!(world.workload.apply(ready("")).is_err());
    let source = world.nodes[0];
    let before = world.workload.state.told_at(source);
    world.workload.apply(ready("t")).unwrap();
    assert!(world.workload.state.told_at(source) > before, "it is told");
    assert!(world.workload.apply(ready("u")).is_err());
    let token = |world: &World| {
        let migration = world.workload.state.migration(MIGRATION).unwrap();
        migration.token.clone()
    };
    assert_eq!(token(&world).as_deref(), Some("t"));
    world.open().unwrap();
    assert!(world.workload.apply(ready("t")).is_err());
    world.complete(2).unwrap();
    assert_eq!(token(&world), None);
}

#[test]
fn a_lost_owner_keeps_the_guest_until_its_lease_has_lapsed() {
    let mut world = World::new();
    assert!(matches!(world.fail_over(1), Err(Refusal::NodeState { .. })));
    world.lapse(0);
    assert!(matches!(
        world.fail_over(0),
        Err(Refusal::DoesNotFit { .. })
    ));
    world.fail_over(1).unwrap();
    assert!(world.owned_by(1, 2));
    assert!(matches!(
        world.report_as(0, 1),
        Err(Refusal::StaleEpoch { .. })
    ));
}

#[test]
fn with_the_window_open_both_ends_must_have_lapsed() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    world.open().unwrap();
    world.lapse(0);
    assert!(matches!(world.fail_over(2), Err(Refusal::NodeState { .. })));
    world.lapse(1);
    world.fail_over(2).unwrap();
    assert!(world.owned_by(2, 3));
    assert!(world.complete(2).is_err(), "too late");
    let migration = world.workload.state.migration(MIGRATION).unwrap();
    assert!(matches!(migration.phase, MigrationPhase::Aborted { .. }));
}

#[test]
fn with_the_window_closed_the_target_cannot_run_the_guest_and_is_not_waited_for() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    world.lapse(0);
    assert!(matches!(world.open(), Err(Refusal::NodeState { .. })));
    world.fail_over(1).unwrap();
    assert!(world.owned_by(1, 3));
}

#[test]
fn a_guest_that_may_still_run_on_its_disk_keeps_it_until_it_was_started_elsewhere() {
    let size = Size {
        nodes: 6,
        guests: 6,
        services: 0,
    };
    let full = Workload::full(size, 3);
    let taken = full.state.guests().find_map(|guest| {
        let mut tried = full.clone();
        let (node, _) = guest.ownership.runners().next()?;
        let lapse = NodeCommand::LapseLease {
            node,
            incarnation: tried.state.lease(node)?.incarnation,
            reign: tried.state.reign(),
        };
        tried.apply(Command::Node(lapse)).unwrap();
        let steps = crate::plan::fail_over(&tried.state).steps;
        let step = steps.into_iter().find(|step| step.guest == guest.id)?;
        tried.apply(Command::Guest(step.to_fail_over())).unwrap();
        Some((tried, guest.id))
    });
    let (mut workload, guest) = taken.expect("one of them fits elsewhere");
    // It ends before it has waited for the lease on the disk.
    workload.report(guest, ObservedState::Stopped).unwrap();
    let expected = None;
    let delete = || Command::Guest(GuestCommand::Delete { guest, expected });
    assert!(matches!(
        workload.apply(delete()),
        Err(Refusal::GuestState { .. })
    ));
    let template = workload.state.guest(guest).unwrap().template.clone();
    let update = GuestCommand::Update {
        guest,
        template,
        expected,
    };
    assert!(workload.apply(Command::Guest(update)).is_err());
    // It is started, and runs: by then nobody else does.
    workload.start(&mut Scheduler::new(), guest).unwrap();
    workload.report(guest, ObservedState::Stopped).unwrap();
    workload.apply(delete()).unwrap();
}

#[test]
fn a_guest_whose_owner_never_learned_that_it_needs_a_lease_is_not_taken() {
    let mut world = World::new();
    let guest = world.guest;
    let policy = |failover| GuestCommand::SetPolicy {
        guest,
        labels: Labels::none(),
        failover,
        expected: None,
    };
    world.guest_command(policy(FailoverPolicy::Never)).unwrap();
    let restart = FailoverPolicy::Restart { priority: 1 };
    world.guest_command(policy(restart)).unwrap();
    world.lapse(0);
    assert!(matches!(
        world.fail_over(1),
        Err(Refusal::GuestState { .. })
    ));

    let node = world.nodes[0];
    let grant = NodeCommand::GrantLease { node };
    world.workload.apply(Command::Node(grant)).unwrap();
    world.report(ObservedState::Running).unwrap();
    world.lapse(0);
    world.fail_over(1).unwrap();
}

#[test]
fn a_guest_that_ends_while_it_is_copied_ends_the_migration() {
    let mut world = World::new();
    world.prepare(1).unwrap();
    world.report(ObservedState::Stopped).unwrap();
    assert_eq!(world.owner(), Owner::Nobody);
    let guest = world.workload.state.guest(world.guest).unwrap();
    assert_eq!(guest.intent, RunIntent::Stopped);
    assert_eq!(
        guest.baseline, None,
        "it may be started on another processor"
    );
    assert!(world.open().is_err());
}

#[test]
fn a_guest_that_crashed_is_still_wanted() {
    let mut world = World::new();
    let crash = CodedError::new(ErrorCode::GuestCrashed, "triple fault");
    world.report(ObservedState::Failed(crash)).unwrap();
    let guest = world.workload.state.guest(world.guest).unwrap();
    assert_eq!(
        (guest.ownership.owner, guest.intent),
        (Owner::Nobody, RunIntent::Running)
    );
    let again = world.workload.start(&mut Scheduler::new(), world.guest);
    assert!(again.is_some());
}

#[test]
fn a_lease_that_lapsed_is_granted_anew_and_never_lapses_for_an_older_one() {
    let mut world = World::new();
    let node = world.nodes[0];
    let old = world.workload.state.lease(node).unwrap().incarnation;
    world.lapse(0);
    assert_eq!(
        world.workload.state.node(node).unwrap().state,
        NodeState::Lost
    );
    let grant = || Command::Node(NodeCommand::GrantLease { node });
    world.workload.apply(grant()).unwrap();
    assert!(world.workload.apply(grant()).is_err());
    let late = NodeCommand::LapseLease {
        node,
        incarnation: old,
        reign: world.workload.state.reign(),
    };
    let refused = world.workload.apply(Command::Node(late));
    assert!(matches!(refused, Err(Refusal::LeaseState { .. })));
}

#[test]
fn a_leader_whose_reign_is_over_lapses_nothing() {
    let mut world = World::new();
    let node = world.nodes[0];
    let lead = |node| Command::Cluster(ClusterCommand::Lead { node });
    world.workload.apply(lead(world.nodes[1])).unwrap();
    let first = world.workload.state.reign();
    world.workload.apply(lead(world.nodes[2])).unwrap();
    assert!(world.workload.state.reign() > first);
    assert_eq!(world.workload.state.leader(), Some(world.nodes[2]));
    let incarnation = world.workload.state.lease(node).unwrap().incarnation;
    let lapse = |reign| {
        Command::Node(NodeCommand::LapseLease {
            node,
            incarnation,
            reign,
        })
    };
    let refused = world.workload.apply(lapse(first));
    assert!(matches!(refused, Err(Refusal::Deposed { .. })));
    assert!(world.workload.state.holds_lease(node));
    let restored = super::restored(&world.workload.state);
    assert_eq!(restored.reign(), world.workload.state.reign());
    let current = world.workload.state.reign();
    world.workload.apply(lapse(current)).unwrap();
}

#[test]
fn a_node_that_is_removed_by_force_leaves_its_guests_to_others() {
    let mut world = World::new();
    let node = world.nodes[0];
    let remove = |force| Command::Node(NodeCommand::Remove { node, force });
    assert!(matches!(
        world.workload.apply(remove(false)),
        Err(Refusal::InUse { .. })
    ));
    assert!(matches!(
        world.workload.apply(remove(true)),
        Err(Refusal::NodeState { .. })
    ));
    world.lapse(0);
    world.workload.apply(remove(true)).unwrap();
    assert_eq!(world.owner(), Owner::Nobody);
    world.start(world.nodes[1]).unwrap();
    assert!(world.owned_by(1, 2));
}

#[test]
fn no_more_migrations_are_begun_than_the_limits_allow() {
    let size = Size {
        nodes: 12,
        guests: 60,
        services: 0,
    };
    let mut workload = Workload::full(size, 5);
    let guests: Vec<_> = workload.state.guests().map(|guest| guest.id).collect();
    let nodes: Vec<_> = workload.state.nodes().map(|node| node.id).collect();
    let mut random = Random::new(1);
    let mut refused = 0;
    for (index, guest) in guests.into_iter().enumerate() {
        let prepare = MigrationCommand::Prepare {
            migration: MigrationId::from_bytes([index as u8; 16]),
            guest,
            target: random.one_of(&nodes),
            reason: MigrationReason::Asked,
            expected: None,
        };
        if let Err(Refusal::TooManyMigrations { .. } | Refusal::DoesNotFit { .. }) =
            workload.apply(Command::Migration(prepare))
        {
            refused += 1;
        }
    }
    let limit = workload.state.settings().migrations_per_node;
    let counts: Vec<u32> = nodes
        .iter()
        .map(|node| workload.state.inventory().migrations_of(*node))
        .collect();
    assert!(counts.iter().all(|count| *count <= limit), "{counts:?}");
    assert!(counts.contains(&limit) && refused > 0);
}
