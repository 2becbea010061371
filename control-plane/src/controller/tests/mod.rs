//! Events in, commands out; each command is applied, so a refused one is found.

mod speed;

use std::time::Duration;

use godwit_proto::cluster::{
    AbortCause, ClusterCommand, Command, GuestCommand, Heartbeat, HeartbeatAnswer, LeaseAnswer,
    MigrationCommand, MigrationPhase, MigrationReason, NodeCommand, ObservedState, OperationState,
    Owner, Role, RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{GuestId, Incarnation, MigrationId, NodeId, OperationId, Revision};

use super::{Controller, desired};
use crate::lease::ClockBound;
use crate::workload::{Size, Workload};

const MIGRATION: MigrationId = MigrationId::from_bytes([7; 16]);
const OPERATION: OperationId = OperationId::from_bytes([8; 16]);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cluster, and the leader's controller from 100 s on.
struct World {
    workload: Workload,
    controller: Controller,
    now: Duration,
}

impl World {
    fn new(nodes: u32, guests: u32) -> Self {
        let size = Size {
            nodes,
            guests,
            services: 0,
        };
        let mut workload = Workload::full(size, 1);
        let node = workload.state.nodes().next().unwrap().id;
        let lead = Command::Cluster(ClusterCommand::Lead { node });
        workload.apply(lead).unwrap();
        let now = s(100);
        let controller = Controller::elected(now, ClockBound::DEFAULT, &workload.state);
        Self {
            workload,
            controller,
            now,
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.workload.state.nodes().map(|node| node.id).collect()
    }

    fn guests(&self) -> Vec<GuestId> {
        self.workload.state.guests().map(|guest| guest.id).collect()
    }

    fn apply(&mut self, command: Command) {
        let shown = format!("{command:?}");
        if let Err(refusal) = self.workload.apply(command) {
            panic!("{shown} was refused: {refusal}");
        }
    }

    fn tick(&mut self) -> Vec<Command> {
        self.controller.tick(self.now, &self.workload.state)
    }

    /// Carries out what is proposed until nothing is, at one moment; answers all of it.
    fn settle(&mut self) -> Vec<Command> {
        let mut all = Vec::new();
        for _ in 0..50 {
            self.now += Duration::from_millis(20);
            let commands = self.tick();
            if commands.is_empty() {
                return all;
            }
            for command in commands {
                all.push(command.clone());
                self.apply(command);
            }
        }
        panic!("it never ends: {all:?}");
    }

    fn heartbeat(&mut self, node: NodeId, seen: Revision) -> HeartbeatAnswer {
        let lease = self.workload.state.lease(node);
        let heartbeat = Heartbeat {
            node,
            sequence: 1,
            incarnation: lease.map_or(Incarnation::new(9), |lease| lease.incarnation),
            seen,
        };
        self.controller
            .heard(self.now, &heartbeat, &self.workload.state)
    }

    /// Every node but those tells that it lives, and a quorum answers.
    fn alive(&mut self, but: &[NodeId]) {
        self.controller.confirmed(self.now);
        for node in self.nodes() {
            if !but.contains(&node) {
                self.heartbeat(node, self.workload.state.revision());
            }
        }
    }

    /// Time passes, in which every node but those renews its lease.
    fn pass(&mut self, seconds: u64, but: &[NodeId]) -> Vec<Command> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            self.now += s(1);
            self.alive(but);
            all.extend(self.settle());
        }
        all
    }

    fn owner(&self, guest: GuestId) -> NodeId {
        let owner = self.workload.state.guest(guest).unwrap().ownership.owner;
        match owner {
            Owner::Node { node, .. } => node,
            Owner::Moving(handoff) => handoff.source,
            Owner::Nobody => panic!("nobody has it"),
        }
    }

    /// Begins to move a guest to where the scheduler wants it.
    fn prepare(&mut self, guest: GuestId) -> NodeId {
        for target in self.nodes() {
            let prepare = MigrationCommand::Prepare {
                migration: MIGRATION,
                guest,
                target,
                reason: MigrationReason::Asked,
                expected: None,
            };
            if self.workload.apply(Command::Migration(prepare)).is_ok() {
                return target;
            }
        }
        panic!("no node can take it");
    }

    fn crash(&mut self, guest: GuestId) {
        let error = CodedError::new(ErrorCode::GuestCrashed, "triple fault");
        self.workload
            .report(guest, ObservedState::Failed(error))
            .unwrap();
    }
}

fn is_fail_over(command: &Command) -> bool {
    matches!(command, Command::Guest(GuestCommand::FailOver { .. }))
}

fn is_start(command: &Command) -> bool {
    matches!(command, Command::Guest(GuestCommand::Start { .. }))
}

#[test]
fn a_silent_node_is_lost_after_its_lease_and_its_guests_are_started_elsewhere_once() {
    let mut world = World::new(6, 12);
    let silent = world.owner(world.guests()[0]);
    let owned = world.workload.state.guests_on(silent).count();
    assert_eq!(world.pass(9, &[silent]), [], "nobody knows yet");
    let commands = world.pass(4, &[silent]);
    let lapse = |command: &Command| matches!(command, Command::Node(NodeCommand::LapseLease { node, .. }) if *node == silent);
    assert_eq!(commands.iter().filter(|c| lapse(c)).count(), 1);
    let moved = commands.iter().filter(|command| is_fail_over(command));
    let left = world.workload.state.guests_on(silent).count();
    assert_eq!(moved.count() + left, owned, "{commands:?}");
    assert!(left < owned, "some fit elsewhere");
}

#[test]
fn what_is_under_way_is_not_proposed_again_before_it_was_given_its_time() {
    let mut world = World::new(6, 12);
    let silent = world.owner(world.guests()[0]);
    for _ in 0..12 {
        world.now += s(1);
        world.alive(&[silent]);
    }
    let first = world.tick();
    assert_eq!(first.len(), 1);
    world.now += Duration::from_millis(900);
    assert_eq!(world.tick(), []);
    world.now += Duration::from_millis(200);
    assert_eq!(world.tick(), first, "it may have been lost");
    let wake = world.controller.next_wake(world.now, &world.workload.state);
    assert!(wake > world.now && wake <= world.now + s(1));
}

#[test]
fn a_node_that_comes_back_is_granted_a_lease_and_keeps_what_was_not_taken() {
    let mut world = World::new(1, 3);
    let node = world.nodes()[0];
    world.pass(13, &[node]);
    assert!(!world.workload.state.holds_lease(node));
    assert_eq!(world.workload.state.guests_on(node).count(), 3, "no room");
    assert_eq!(
        world.heartbeat(node, Revision::new(0)).lease,
        LeaseAnswer::NotHeld
    );
    let commands = world.settle();
    assert_eq!(commands, [Command::Node(NodeCommand::GrantLease { node })]);
    world.controller.confirmed(world.now);
    let answer = world.heartbeat(node, Revision::new(0));
    assert!(matches!(answer.lease, LeaseAnswer::Renewed { .. }));
    let told = answer.desired.unwrap();
    assert_eq!(told.guests.len(), 3);
    assert_eq!(told.incarnation, Some(Incarnation::new(2)));
}

#[test]
fn a_leader_whose_reign_is_over_renews_and_proposes_nothing() {
    let mut world = World::new(3, 3);
    let [first, second] = [world.nodes()[0], world.nodes()[1]];
    world.controller.confirmed(world.now);
    let answer = world.heartbeat(first, Revision::new(0));
    assert!(matches!(answer.lease, LeaseAnswer::Renewed { .. }));
    world.apply(Command::Cluster(ClusterCommand::Lead { node: second }));
    assert!(!world.controller.reigns(&world.workload.state));
    world.controller.confirmed(world.now);
    let answer = world.heartbeat(first, Revision::new(0));
    assert_eq!(answer.lease, LeaseAnswer::Unconfirmed);
    world.now += s(60);
    assert_eq!(world.tick(), []);
}

#[test]
fn who_is_no_member_is_told_so_and_not_remembered() {
    let mut world = World::new(2, 0);
    let stranger = NodeId::from_bytes([0xcc; 16]);
    let answer = world.heartbeat(stranger, Revision::new(0));
    assert_eq!(answer.lease, LeaseAnswer::NotMember);
    assert!(world.controller.heard.is_empty());
}

#[test]
fn a_guest_that_fails_again_and_again_is_started_less_and_less_often() {
    let mut world = World::new(4, 4);
    let guest = world.guests()[0];
    let mut waits = Vec::new();
    for _ in 0..5 {
        world.crash(guest);
        let begin = world.now;
        while !world.pass(1, &[]).iter().any(is_start) {
            assert!(world.now < begin + s(600), "it is never started");
        }
        waits.push((world.now - begin).as_secs());
        assert_eq!(world.pass(3, &[]), []);
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(waits[0] <= 1 && waits[4] >= 8, "{waits:?}");
}

#[test]
fn a_guest_that_was_stopped_stays_so() {
    let mut world = World::new(4, 4);
    let guest = world.guests()[0];
    world
        .workload
        .report(guest, ObservedState::Stopped)
        .unwrap();
    assert_eq!(world.pass(30, &[]), []);
}

#[test]
fn a_node_that_is_drained_is_emptied_in_rounds() {
    let mut world = World::new(6, 18);
    let node = world.owner(world.guests()[0]);
    let operation = OPERATION;
    world.apply(Command::Node(NodeCommand::Drain { node, operation }));
    let limit = world.workload.state.settings().migrations_per_node as usize;
    for _ in 0..60 {
        let commands = world.pass(1, &[]);
        let migrations = world.workload.state.migrations();
        let running: Vec<MigrationId> = migrations
            .filter(|migration| !migration.phase.is_finished())
            .map(|migration| migration.id)
            .collect();
        assert!(running.len() <= limit);
        if commands.is_empty() && running.is_empty() {
            break;
        }
        for migration in running {
            let successor = world.workload.state.migration(migration).unwrap().successor;
            world.apply(Command::Migration(MigrationCommand::OpenWindow {
                migration,
            }));
            world.apply(Command::Migration(MigrationCommand::Complete {
                migration,
                epoch: successor,
                receipt: None,
            }));
        }
    }
    let state = &world.workload.state;
    let drain = state.operation(OPERATION).unwrap();
    let left = state.guests_on(node).count();
    assert_eq!(left, drain.blockers.len(), "who is left has a reason");
    let done = matches!(drain.state, OperationState::Done { .. });
    assert_eq!(done, left == 0);
    assert!(
        state
            .guests()
            .all(|guest| guest.intent == RunIntent::Running)
    );
}

#[test]
fn a_guest_whose_move_failed_waits_and_lets_others_go_first() {
    let mut world = World::new(6, 18);
    let node = world.owner(world.guests()[0]);
    let operation = OPERATION;
    world.apply(Command::Node(NodeCommand::Drain { node, operation }));
    world.settle();
    let moving = |world: &World| -> Vec<(GuestId, MigrationId)> {
        let running = world.workload.state.migrations();
        running
            .filter(|migration| !migration.phase.is_finished())
            .map(|migration| (migration.guest, migration.id))
            .collect()
    };
    let first = moving(&world);
    assert!(!first.is_empty());
    for (_, migration) in &first {
        world.apply(Command::Migration(MigrationCommand::Abort {
            migration: *migration,
            cause: AbortCause::SourceKept,
            error: CodedError::new(ErrorCode::LinkLost, "link lost"),
        }));
    }
    world.settle();
    let second = moving(&world);
    let again = |(guest, _): &(GuestId, MigrationId)| first.iter().any(|(old, _)| old == guest);
    assert!(!second.iter().any(again), "{first:?} {second:?}");
    for _ in 0..7 {
        for (_, migration) in moving(&world) {
            if !first.iter().any(|(_, old)| *old == migration) {
                let cause = AbortCause::SourceKept;
                let error = CodedError::new(ErrorCode::LinkLost, "link lost");
                let abort = MigrationCommand::Abort {
                    migration,
                    cause,
                    error,
                };
                world.apply(Command::Migration(abort));
            }
        }
        world.pass(1, &[]);
    }
    let tried = world.workload.state.migrations();
    let tried = tried
        .filter(|migration| migration.guest == first[0].0)
        .count();
    assert!(tried > 1, "after a while it is tried again");
}

#[test]
fn a_migration_that_can_never_finish_is_given_up() {
    // Its target is lost.
    let mut world = World::new(6, 6);
    let guest = world.guests()[0];
    let target = world.prepare(guest);
    world.pass(13, &[target]);
    let phase = |world: &World| {
        let migration = world.workload.state.migration(MIGRATION).unwrap();
        migration.phase.clone()
    };
    assert!(matches!(phase(&world), MigrationPhase::Aborted { .. }));
    // Its target is never ready.
    let mut world = World::new(6, 6);
    world.prepare(guest);
    world.pass(110, &[]);
    assert_eq!(phase(&world), MigrationPhase::Prepared);
    world.pass(12, &[]);
    assert!(matches!(phase(&world), MigrationPhase::Aborted { .. }));
    // Its guest is to be stopped.
    let mut world = World::new(6, 6);
    world.prepare(guest);
    let expected = None;
    world.apply(Command::Guest(GuestCommand::Stop { guest, expected }));
    world.settle();
    assert!(matches!(phase(&world), MigrationPhase::Aborted { .. }));
    // With its window open it is nobody's to give up but its ends'.
    let mut world = World::new(6, 6);
    let target = world.prepare(guest);
    let migration = MIGRATION;
    world.apply(Command::Migration(MigrationCommand::OpenWindow {
        migration,
    }));
    world.pass(200, &[target]);
    assert_eq!(phase(&world), MigrationPhase::WindowOpen);
}

#[test]
fn a_node_is_told_what_to_do_when_that_changes_and_not_again() {
    let mut world = World::new(3, 6);
    let guest = world.guests()[0];
    let node = world.owner(guest);
    let told = world.heartbeat(node, Revision::new(0)).desired.unwrap();
    assert_eq!(told, desired(&world.workload.state, node));
    assert!(told.guests.iter().any(|found| found.id == guest));
    assert_eq!(world.heartbeat(node, told.revision).desired, None);
    // Something else changes.
    let other = world.nodes().into_iter().find(|id| *id != node).unwrap();
    world.apply(Command::Node(NodeCommand::Cordon {
        node: other,
        reason: String::new(),
    }));
    assert_eq!(world.heartbeat(node, told.revision).desired, None);
    let outdated = |world: &World| {
        let state = &world.workload.state;
        world.controller.outdated(state).collect::<Vec<_>>()
    };
    assert_eq!(outdated(&world), []);
    let expected = None;
    world.apply(Command::Guest(GuestCommand::Stop { guest, expected }));
    assert_eq!(outdated(&world), [node]);
    let pushed = world.controller.push(node, &world.workload.state).unwrap();
    let found = pushed.guests.iter().find(|found| found.id == guest);
    assert_eq!(found.unwrap().intent, RunIntent::Stopped);
}

#[test]
fn a_guest_with_a_shared_disk_has_its_lease_there_whatever_its_policy_is() {
    let mut world = World::new(3, 3);
    let guest = world.guests()[0];
    let node = world.owner(guest);
    let pool = |world: &World| {
        let told = desired(&world.workload.state, node);
        let found = told.guests.into_iter().find(|found| found.id == guest);
        found.unwrap().lease_pool
    };
    let first = pool(&world);
    assert!(first.is_some());
    world.apply(Command::Guest(GuestCommand::SetPolicy {
        guest,
        labels: godwit_proto::cluster::Labels::none(),
        failover: godwit_proto::cluster::FailoverPolicy::Never,
        expected: None,
    }));
    assert_eq!(pool(&world), first);
}

#[test]
fn the_source_is_told_of_an_open_window_when_the_target_knows_of_it() {
    let mut world = World::new(6, 6);
    let guest = world.guests()[0];
    let source = world.owner(guest);
    let target = world.prepare(guest);
    let role = |world: &World, node| {
        let told = desired(&world.workload.state, node);
        let found = told.guests.into_iter().find(|found| found.id == guest);
        found.unwrap().role
    };
    assert!(matches!(role(&world, source), Role::Source(_)));
    assert!(matches!(role(&world, target), Role::Target(_)));
    let before = world.workload.state.revision();
    let migration = MIGRATION;
    world.apply(Command::Migration(MigrationCommand::OpenWindow {
        migration,
    }));
    world.heartbeat(target, before);
    let now = world.workload.state.revision();
    assert_eq!(world.heartbeat(source, now).informed, []);
    world.heartbeat(target, now);
    assert_eq!(world.heartbeat(source, now).informed, [MIGRATION]);
    assert_eq!(world.heartbeat(target, now).informed, []);
}
