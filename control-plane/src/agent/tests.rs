//! What is to be, what is found, and the actions that follow.

use std::time::Duration;

use godwit_proto::cluster::{
    AbortCause, Command, DesiredGuest, DesiredState, GuestCommand, GuestMachine, HeartbeatAnswer,
    LeaseAnswer, Ledger, MachineCpu, MigrationCommand, Move, ObservedState, Role, RunIntent,
    Window,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{BootSpec, HugePages, Kernel};
use godwit_proto::id::{Epoch, Generation, GuestId, Incarnation, MigrationId, NodeId, Revision};

use super::{Action, Agent, Doing, End, Found, LearnError, Sending, Stage};
use crate::lease::ClockBound;
use crate::ownership::Origin;

const NODE: NodeId = NodeId::from_bytes([1; 16]);
const PEER: NodeId = NodeId::from_bytes([2; 16]);
const GUEST: GuestId = GuestId::from_bytes([3; 16]);
const MIGRATION: MigrationId = MigrationId::from_bytes([4; 16]);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn agent(ledger: &Ledger) -> Agent {
    Agent::new(NODE, ClockBound::DEFAULT, true, ledger)
}

fn guest(epoch: u64, role: Role) -> DesiredGuest {
    DesiredGuest {
        id: GUEST,
        name: "web".into(),
        generation: Generation::new(1),
        epoch: Epoch::new(epoch),
        revives: None,
        role,
        intent: RunIntent::Running,
        leased: true,
        lease_pool: None,
        observed: ObservedState::Starting,
        observed_generation: Generation::new(1),
        machine: GuestMachine {
            vcpus: 1,
            memory_bytes: 1 << 30,
            huge_pages: HugePages::None,
            cpu: MachineCpu::Host,
            boot: BootSpec {
                kernel: Kernel::BuiltIn,
                initrd: None,
                cmdline: None,
            },
            disks: Vec::new(),
            nets: Vec::new(),
            rng: false,
        },
    }
}

fn moving(window: Window, token: Option<&str>) -> Move {
    Move {
        migration: MIGRATION,
        peer: PEER,
        peer_epoch: Epoch::new(9),
        window,
        token: token.map(Into::into),
    }
}

fn state(revision: u64, guests: Vec<DesiredGuest>) -> DesiredState {
    DesiredState {
        node: NODE,
        revision: Revision::new(revision),
        incarnation: Some(Incarnation::new(1)),
        guests,
    }
}

fn found(epoch: u64, doing: Doing) -> Found {
    Found {
        guest: GUEST,
        epoch: Epoch::new(epoch),
        leased: true,
        doing,
        sending: None,
        dirty_pages_per_second: None,
        receipt: None,
    }
}

fn sending(epoch: u64, stage: Stage) -> Found {
    let migration = MIGRATION;
    Found {
        sending: Some(Sending { migration, stage }),
        ..found(epoch, Doing::Running)
    }
}

fn error() -> CodedError {
    CodedError::new(ErrorCode::LinkLost, "link lost")
}

/// Learns, and decides with everything recorded; answers the actions that are no records.
fn decide(agent: &mut Agent, desired: &DesiredState, found: &[Found]) -> Vec<Action> {
    agent.learn(desired).unwrap();
    again(agent, found)
}

fn again(agent: &mut Agent, found: &[Found]) -> Vec<Action> {
    for _ in 0..4 {
        let mut actions = agent.decide(s(1), found);
        match actions.first() {
            Some(Action::Record(ledger)) => {
                agent.recorded(&ledger.clone());
                assert!(
                    !actions.iter().any(|action| matches!(
                        action,
                        Action::Start(_) | Action::PrepareReceive { .. }
                    )),
                    "not before it is on the disk"
                );
                actions.remove(0);
                if !actions.is_empty() {
                    return actions;
                }
            }
            _ => return actions,
        }
    }
    panic!("it records for ever");
}

fn reported(actions: &[Action]) -> Option<ObservedState> {
    actions.iter().find_map(|action| match action {
        Action::Propose(Command::Guest(GuestCommand::Report(report))) => Some(report.state.clone()),
        _ => None,
    })
}

fn aborted(actions: &[Action]) -> Option<AbortCause> {
    actions.iter().find_map(|action| match action {
        Action::Propose(Command::Migration(MigrationCommand::Abort { cause, .. })) => Some(*cause),
        _ => None,
    })
}

#[test]
fn a_guest_is_pledged_then_started_once() {
    let mut agent = agent(&Ledger::default());
    agent.learn(&state(5, vec![guest(2, Role::Owner)])).unwrap();
    let first = agent.decide(s(0), &[]);
    let [Action::Record(ledger)] = first.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(ledger.seen, Revision::new(5));
    assert_eq!(agent.decide(s(0), &[]), first, "it is not on the disk yet");
    agent.recorded(ledger);
    let second = agent.decide(s(0), &[]);
    let [Action::Start(launch)] = second.as_slice() else {
        panic!("{second:?}");
    };
    assert_eq!(launch.epoch, Epoch::new(2));
    assert_eq!(launch.origin, Origin::Fresh);
    assert_eq!(agent.decide(s(0), &[found(2, Doing::Starting)]), []);
    // Its process dies.
    let third = agent.decide(s(1), &[]);
    assert!(matches!(reported(&third), Some(ObservedState::Failed(_))));
}

#[test]
fn a_daemon_that_died_between_the_pledge_and_the_start_does_not_start_the_guest() {
    let mut first = agent(&Ledger::default());
    let desired = state(5, vec![guest(2, Role::Owner)]);
    first.learn(&desired).unwrap();
    let actions = first.decide(s(0), &[]);
    let [Action::Record(ledger)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    let mut second = agent(ledger);
    let actions = decide(&mut second, &desired, &[]);
    assert!(matches!(reported(&actions), Some(ObservedState::Failed(_))));
    // Under a fresh epoch it does.
    let actions = decide(&mut second, &state(6, vec![guest(3, Role::Owner)]), &[]);
    assert!(matches!(actions.as_slice(), [Action::Start(_)]));
}

#[test]
fn an_older_desired_state_is_not_obeyed_even_by_a_daemon_that_was_started_anew() {
    let mut first = agent(&Ledger::default());
    decide(&mut first, &state(5, vec![guest(2, Role::Owner)]), &[]);
    let older = state(4, Vec::new());
    let refused = first.learn(&older);
    assert!(matches!(refused, Err(LearnError::Older { .. })));
    let ledger = Ledger {
        seen: Revision::new(5),
        pledges: Vec::new(),
    };
    let mut second = agent(&ledger);
    assert!(second.learn(&older).is_err());
    assert_eq!(second.decide(s(0), &[found(2, Doing::Running)]), []);
    let other = DesiredState {
        node: PEER,
        ..state(9, Vec::new())
    };
    assert!(matches!(
        second.learn(&other),
        Err(LearnError::OtherNode { .. })
    ));
}

#[test]
fn a_process_that_is_found_with_the_right_epoch_is_left_alone_and_reported_once() {
    let mut agent = agent(&Ledger::default());
    let mut desired = guest(2, Role::Owner);
    let running = [found(2, Doing::Running)];
    let actions = decide(&mut agent, &state(5, vec![desired.clone()]), &running);
    assert_eq!(reported(&actions), Some(ObservedState::Running));
    assert_eq!(actions.len(), 1);
    assert_eq!(again(&mut agent, &running), [], "it is under way");
    assert!(!agent.decide(s(3), &running).is_empty(), "it was lost");
    desired.observed = ObservedState::Running;
    assert_eq!(decide(&mut agent, &state(6, vec![desired]), &running), []);
}

#[test]
fn a_copy_whose_epoch_has_passed_is_destroyed_before_the_guest_is_started_anew() {
    let mut agent = agent(&Ledger::default());
    let desired = state(5, vec![guest(4, Role::Owner)]);
    let stale = [found(2, Doing::Paused)];
    let destroy = Action::Destroy {
        guest: GUEST,
        epoch: Epoch::new(2),
    };
    assert_eq!(decide(&mut agent, &desired, &stale), [destroy]);
    assert!(matches!(
        again(&mut agent, &[]).as_slice(),
        [Action::Start(_)]
    ));
    // So is one that belongs to somebody else.
    let stale = [found(4, Doing::Running)];
    let destroy = Action::Destroy {
        guest: GUEST,
        epoch: Epoch::new(4),
    };
    assert_eq!(decide(&mut agent, &state(6, Vec::new()), &stale), [destroy]);
}

#[test]
fn a_copy_that_was_given_up_is_kept_while_its_pages_are_needed() {
    let mut agent = agent(&Ledger::default());
    let stage = |serving| Stage::Relinquished {
        serving,
        lost: None,
    };
    let serving = [sending(2, stage(true))];
    assert_eq!(decide(&mut agent, &state(5, Vec::new()), &serving), []);
    let done = [sending(2, stage(false))];
    assert_eq!(again(&mut agent, &done).len(), 1, "destroyed");
}

#[test]
fn a_guest_that_is_to_stop_is_stopped_and_one_that_never_began_is_not_begun() {
    let mut stopped = guest(2, Role::Owner);
    stopped.intent = RunIntent::Stopped;
    let desired = state(5, vec![stopped]);
    let mut running = agent(&Ledger::default());
    let actions = decide(&mut running, &desired, &[found(2, Doing::Running)]);
    assert!(matches!(actions.as_slice(), [Action::Stop { .. }]));
    let ended = [found(2, Doing::Ended(End::Stopped))];
    let actions = again(&mut running, &ended);
    assert_eq!(reported(&actions), Some(ObservedState::Stopped));

    let mut fresh = agent(&Ledger::default());
    let actions = decide(&mut fresh, &desired, &[]);
    assert_eq!(reported(&actions), Some(ObservedState::Stopped));
    // An older word of the same epoch does not make it start after all.
    let actions = decide(&mut fresh, &state(5, vec![guest(2, Role::Owner)]), &[]);
    assert!(matches!(reported(&actions), Some(ObservedState::Failed(_))));
}

#[test]
fn a_policy_is_real_when_the_process_has_it() {
    let mut agent = agent(&Ledger::default());
    let mut desired = guest(2, Role::Owner);
    desired.generation = Generation::new(4);
    desired.observed = ObservedState::Running;
    let desired = state(5, vec![desired]);
    let mut process = found(2, Doing::Running);
    process.leased = false;
    let actions = decide(&mut agent, &desired, std::slice::from_ref(&process));
    assert!(matches!(
        actions.as_slice(),
        [Action::SetLeased { leased: true, .. }]
    ));
    process.leased = true;
    let actions = again(&mut agent, &[process]);
    let [Action::Propose(Command::Guest(GuestCommand::Report(report)))] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(report.generation, Generation::new(4));
}

#[test]
fn a_proof_is_for_what_was_this_nodes_under_the_lease_that_it_holds() {
    let mut agent = agent(&Ledger::default());
    let renewed = |incarnation| HeartbeatAnswer {
        sequence: 1,
        lease: LeaseAnswer::Renewed {
            incarnation: Incarnation::new(incarnation),
            valid_for_ms: 10_000,
        },
        renew_ms: 2_000,
        desired: None,
        informed: Vec::new(),
    };
    agent.answered(s(10), &renewed(1)).unwrap();
    assert_eq!(agent.proofs().count(), 0, "nothing is known to be its own");
    agent.learn(&state(5, vec![guest(2, Role::Owner)])).unwrap();
    let proof = agent.proofs().next().unwrap();
    assert_eq!((proof.guest, proof.epoch), (GUEST, Epoch::new(2)));
    assert!(proof.until > s(19) && proof.until < s(20));
    // Between two leases the guest may have been taken: the state is of the first one.
    agent.answered(s(30), &renewed(2)).unwrap();
    assert_eq!(agent.proofs().count(), 0);
    let mut next = state(9, vec![guest(2, Role::Owner)]);
    next.incarnation = Some(Incarnation::new(2));
    agent.learn(&next).unwrap();
    assert!(
        agent
            .proofs()
            .next()
            .is_some_and(|proof| proof.until > s(39))
    );
}

#[test]
fn a_target_has_a_proof_from_the_opening_of_the_window_on() {
    let mut agent = agent(&Ledger::default());
    let renewed = HeartbeatAnswer {
        sequence: 1,
        lease: LeaseAnswer::Renewed {
            incarnation: Incarnation::new(1),
            valid_for_ms: 10_000,
        },
        renew_ms: 2_000,
        desired: None,
        informed: Vec::new(),
    };
    agent.answered(s(10), &renewed).unwrap();
    for (revision, window, proofs) in [(5, Window::Closed, 0), (6, Window::Open, 1)] {
        let target = guest(9, Role::Target(moving(window, None)));
        agent.learn(&state(revision, vec![target])).unwrap();
        assert_eq!(agent.proofs().count(), proofs, "{window:?}");
    }
}

#[test]
fn a_source_sends_when_the_target_is_ready_and_switches_when_the_target_knows_that_it_may() {
    let mut agent = agent(&Ledger::default());
    let source = |revision, window, token| {
        let mut source = guest(2, Role::Source(moving(window, token)));
        source.observed = ObservedState::Running;
        state(revision, vec![source])
    };
    let running = [found(2, Doing::Running)];
    let waits = source(5, Window::Closed, None);
    assert_eq!(decide(&mut agent, &waits, &running), []);
    let ready = source(6, Window::Closed, Some("t"));
    let actions = decide(&mut agent, &ready, &running);
    assert!(matches!(actions.as_slice(), [Action::BeginSend { .. }]));
    assert_eq!(again(&mut agent, &[sending(2, Stage::Copying)]), []);
    let wants = [sending(2, Stage::WantsWindow)];
    let actions = again(&mut agent, &wants);
    let open = MigrationCommand::OpenWindow {
        migration: MIGRATION,
    };
    assert_eq!(actions, [Action::Propose(Command::Migration(open))]);
    let opened = source(7, Window::Open, Some("t"));
    assert_eq!(decide(&mut agent, &opened, &wants), []);
    let informed = HeartbeatAnswer {
        sequence: 1,
        lease: LeaseAnswer::Unconfirmed,
        renew_ms: 2_000,
        desired: None,
        informed: vec![MIGRATION],
    };
    agent.answered(s(1), &informed).unwrap();
    let actions = again(&mut agent, &wants);
    assert!(matches!(actions.as_slice(), [Action::AllowSwitch { .. }]));
}

#[test]
fn a_source_says_what_became_of_its_guest() {
    let lost = Stage::Relinquished {
        serving: false,
        lost: Some(error()),
    };
    let away = Stage::Relinquished {
        serving: true,
        lost: None,
    };
    let begun = Ledger {
        seen: Revision::new(1),
        pledges: vec![godwit_proto::cluster::Pledge {
            guest: GUEST,
            begun: Epoch::new(2),
            spent: Epoch::new(0),
        }],
    };
    let kept = Some(AbortCause::SourceKept);
    let gone = Some(AbortCause::SourceGone);
    let ended = found(2, Doing::Ended(End::Stopped));
    for (window, process, cause) in [
        (Window::Closed, Some(sending(2, Stage::Kept(error()))), kept),
        (Window::Open, Some(sending(2, Stage::Kept(error()))), kept),
        (Window::Open, Some(ended), kept),
        (Window::Open, Some(sending(2, lost)), gone),
        (Window::Open, Some(sending(2, away)), None),
        (Window::Open, None, gone),
        (Window::Closed, None, None),
    ] {
        let mut agent = agent(&begun);
        let mut source = guest(2, Role::Source(moving(window, Some("t"))));
        source.observed = ObservedState::Running;
        let process: Vec<Found> = process.into_iter().collect();
        let actions = decide(&mut agent, &state(5, vec![source]), &process);
        assert_eq!(aborted(&actions), cause, "{window:?} {process:?}");
        let dead = process.is_empty() && window == Window::Closed;
        assert_eq!(reported(&actions).is_some(), dead);
    }
}

#[test]
fn a_target_says_what_became_of_the_guest() {
    let begun = Ledger {
        seen: Revision::new(1),
        pledges: vec![godwit_proto::cluster::Pledge {
            guest: GUEST,
            begun: Epoch::new(9),
            spent: Epoch::new(0),
        }],
    };
    let nothing = Ledger::default();
    let never = || found(9, Doing::Ended(End::NeverRan(error())));
    let failed = || found(9, Doing::Ended(End::Failed(error())));
    let closed = Some(AbortCause::NotOpened);
    for (window, ledger, process, cause) in [
        (Window::Closed, &begun, Some(never()), closed),
        (Window::Closed, &begun, Some(failed()), closed),
        (Window::Closed, &begun, None, closed),
        (Window::Open, &begun, None, Some(AbortCause::TargetGone)),
        (
            Window::Open,
            &begun,
            Some(failed()),
            Some(AbortCause::TargetGone),
        ),
        (
            Window::Open,
            &begun,
            Some(never()),
            Some(AbortCause::TargetNeverRan),
        ),
        (
            Window::Open,
            &nothing,
            None,
            Some(AbortCause::TargetNeverRan),
        ),
    ] {
        let mut agent = agent(ledger);
        let target = guest(9, Role::Target(moving(window, None)));
        let process: Vec<Found> = process.into_iter().collect();
        let actions = decide(&mut agent, &state(5, vec![target]), &process);
        assert_eq!(aborted(&actions), cause, "{window:?} {process:?}");
    }
    for doing in [Doing::Running, Doing::Paused, Doing::Ended(End::Stopped)] {
        let mut agent = agent(&begun);
        let target = guest(9, Role::Target(moving(Window::Open, None)));
        let actions = decide(&mut agent, &state(5, vec![target]), &[found(9, doing)]);
        let complete = |action: &Action| {
            matches!(
                action,
                Action::Propose(Command::Migration(MigrationCommand::Complete { .. }))
            )
        };
        assert!(actions.iter().any(complete), "it was handed over");
    }
}

#[test]
fn a_target_prepares_once_and_tells_how_to_reach_it() {
    let mut agent = agent(&Ledger::default());
    let target = |revision, token| {
        let role = Role::Target(moving(Window::Closed, token));
        state(revision, vec![guest(9, role)])
    };
    let actions = decide(&mut agent, &target(5, None), &[]);
    let [Action::PrepareReceive { launch, source, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!((launch.origin, *source), (Origin::Moved, PEER));
    let receiving = |token: Option<&str>| {
        let migration = MIGRATION;
        let token = token.map(Into::into);
        [found(9, Doing::Receiving { migration, token })]
    };
    assert_eq!(again(&mut agent, &receiving(None)), []);
    let actions = again(&mut agent, &receiving(Some("t")));
    let ready = |action: &Action| {
        matches!(
            action,
            Action::Propose(Command::Migration(MigrationCommand::TargetReady { .. }))
        )
    };
    assert!(actions.iter().all(ready) && actions.len() == 1);
    let known = target(6, Some("t"));
    assert_eq!(decide(&mut agent, &known, &receiving(Some("t"))), []);
    // The source is gone, so nobody hands it over any more.
    let alone = state(7, vec![guest(9, Role::Owner)]);
    let actions = decide(&mut agent, &alone, &receiving(Some("t")));
    assert!(matches!(actions.as_slice(), [Action::Destroy { .. }]));
    let actions = again(&mut agent, &[]);
    assert!(matches!(reported(&actions), Some(ObservedState::Failed(_))));
}

#[test]
fn only_the_copy_that_never_ran_elsewhere_is_revived() {
    let relinquished = || {
        let stage = Stage::Relinquished {
            serving: false,
            lost: None,
        };
        [sending(2, stage)]
    };
    let revived = |revives: Option<u64>| DesiredGuest {
        revives: revives.map(Epoch::new),
        ..guest(5, Role::Owner)
    };
    let mut first = agent(&Ledger::default());
    let desired = state(5, vec![revived(Some(2))]);
    let actions = decide(&mut first, &desired, &relinquished());
    assert!(matches!(actions.as_slice(), [Action::Revive { .. }]));
    assert!(
        matches!(
            reported(&again(&mut first, &[])),
            Some(ObservedState::Failed(_))
        ),
        "it died on the way"
    );
    for revives in [None, Some(1)] {
        let mut agent = agent(&Ledger::default());
        let desired = state(5, vec![revived(revives)]);
        let actions = decide(&mut agent, &desired, &relinquished());
        assert!(matches!(actions.as_slice(), [Action::Destroy { .. }]));
    }
    let mut without = agent(&Ledger::default());
    let actions = decide(&mut without, &desired, &[]);
    assert!(
        matches!(actions.as_slice(), [Action::Start(_)]),
        "from its disks"
    );
}

#[test]
fn what_was_handed_over_and_lost_there_is_reported() {
    let mut agent = agent(&Ledger::default());
    let stage = Stage::Relinquished {
        serving: true,
        lost: None,
    };
    let desired = state(5, vec![guest(2, Role::Owner)]);
    let actions = decide(&mut agent, &desired, &[sending(2, stage)]);
    assert!(matches!(reported(&actions), Some(ObservedState::Failed(_))));
}

#[test]
fn a_migration_that_is_over_is_cancelled_at_the_source() {
    let mut agent = agent(&Ledger::default());
    let mut desired = guest(2, Role::Owner);
    desired.observed = ObservedState::Running;
    let actions = decide(
        &mut agent,
        &state(5, vec![desired]),
        &[sending(2, Stage::Copying)],
    );
    assert!(matches!(actions.as_slice(), [Action::CancelSend { .. }]));
    let kept = [sending(2, Stage::Kept(error()))];
    assert_eq!(again(&mut agent, &kept), []);
}

#[test]
fn without_a_desired_state_nothing_is_done() {
    let mut agent = agent(&Ledger::default());
    let processes = [found(2, Doing::Running), sending(3, Stage::WantsWindow)];
    assert_eq!(agent.decide(s(1), &processes), []);
    assert_eq!(agent.heartbeat(1).seen, Revision::new(0));
}
