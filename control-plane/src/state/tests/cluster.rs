//! Drains, volumes, settings.

use godwit_proto::cluster::{
    ClusterCommand, Command, FailoverPolicy, GuestCommand, NodeCommand, ObservedState,
    OperationState, PoolKind, ResourceCommand, Scheduling,
};
use godwit_proto::id::{NodeId, OperationId, PoolId, VolumeId};

use crate::state::Refusal;
use crate::workload::{Size, Workload};

const DRAIN: OperationId = OperationId::from_bytes([1; 16]);

fn workload(guests: u32) -> (Workload, NodeId) {
    let size = Size {
        nodes: 2,
        guests,
        services: 0,
    };
    let workload = Workload::full(size, 8);
    let guests = workload.state.guests();
    let owner = guests
        .filter_map(|guest| guest.ownership.hosts().next())
        .next();
    let node = owner.unwrap_or_else(|| workload.state.nodes().next().unwrap().id);
    (workload, node)
}

fn node_command(workload: &mut Workload, command: NodeCommand) -> Result<(), Refusal> {
    workload.apply(Command::Node(command)).map(drop)
}

fn drain(workload: &mut Workload, node: NodeId) -> Result<(), Refusal> {
    let operation = DRAIN;
    node_command(workload, NodeCommand::Drain { node, operation })
}

#[test]
fn a_drain_ends_when_the_last_guest_has_left_and_leaves_the_node_cordoned() {
    let (mut workload, node) = workload(6);
    drain(&mut workload, node).unwrap();
    assert!(matches!(
        drain(&mut workload, node),
        Err(Refusal::InUse { .. })
    ));
    let guests: Vec<_> = workload
        .state
        .guests_on(node)
        .map(|guest| guest.id)
        .collect();
    assert!(!guests.is_empty());
    for guest in guests {
        let state = &workload.state.operation(DRAIN).unwrap().state;
        assert_eq!(*state, OperationState::Running);
        workload.report(guest, ObservedState::Stopped).unwrap();
    }
    let state = &workload.state.operation(DRAIN).unwrap().state;
    assert!(matches!(state, OperationState::Done { .. }));
    let scheduling = &workload.state.node(node).unwrap().scheduling;
    assert!(matches!(scheduling, Scheduling::Cordoned { .. }));
}

#[test]
fn an_empty_node_is_drained_at_once() {
    let (mut workload, node) = workload(0);
    drain(&mut workload, node).unwrap();
    let state = &workload.state.operation(DRAIN).unwrap().state;
    assert!(matches!(state, OperationState::Done { .. }));
}

#[test]
fn a_drain_is_paused_resumed_and_given_up() {
    let (mut workload, node) = workload(6);
    drain(&mut workload, node).unwrap();
    let operation = DRAIN;
    let mut apply = |command| workload.apply(Command::Cluster(command)).map(drop);
    apply(ClusterCommand::PauseOperation { operation }).unwrap();
    apply(ClusterCommand::ResumeOperation { operation }).unwrap();
    let reason = "not today".to_owned();
    apply(ClusterCommand::AbortOperation { operation, reason }).unwrap();
    let late = apply(ClusterCommand::ResumeOperation { operation });
    assert_eq!(late, Err(Refusal::OperationEnded));
    node_command(&mut workload, NodeCommand::Uncordon { node }).unwrap();
    let scheduling = &workload.state.node(node).unwrap().scheduling;
    assert_eq!(*scheduling, Scheduling::Enabled);
}

#[test]
fn a_guest_with_a_local_volume_is_bound_to_its_node_and_has_no_failover() {
    let (mut workload, node) = workload(0);
    let pool = PoolId::from_bytes([9; 16]);
    let create = ResourceCommand::CreatePool {
        id: pool,
        name: "local".into(),
        kind: PoolKind::Local,
        path: "pools/local".into(),
    };
    workload.apply(Command::Resource(create)).unwrap();
    let volume = VolumeId::from_bytes([9; 16]);
    let create = |node| {
        Command::Resource(ResourceCommand::CreateVolume {
            id: volume,
            name: "root".into(),
            pool,
            node,
            size_bytes: 4096,
        })
    };
    let nameless = workload.apply(create(None)).unwrap_err();
    assert!(nameless.to_string().contains("must be named"), "{nameless}");
    let unreachable = workload.apply(create(Some(node))).unwrap_err();
    assert!(
        unreachable
            .to_string()
            .contains("does not reach pool local")
    );
    let known = workload.state.node(node).unwrap().clone();
    let mut report = workload.node(0);
    (report.id, report.name) = (node, known.meta.name);
    report.certificate = known.certificate;
    report.cpu = known.cpu;
    report.pools = vec![pool];
    report.networks = known.networks;
    let join = NodeCommand::Join {
        report: Box::new(report),
        lower_baseline: false,
    };
    node_command(&mut workload, join).unwrap();
    workload.apply(create(Some(node))).unwrap();

    let mut new = workload.guest();
    new.template.volumes[0].volume = volume;
    new.template.networks.clear();
    let made = |workload: &mut Workload, new: &godwit_proto::cluster::NewGuest| {
        let create = GuestCommand::Create(Box::new(new.clone()));
        workload.apply(Command::Guest(create))
    };
    let refused = made(&mut workload, &new).unwrap_err();
    assert!(
        refused.to_string().contains("on the disks of one node"),
        "{refused}"
    );
    new.failover = FailoverPolicy::Never;
    made(&mut workload, &new).unwrap();
    let other = workload
        .state
        .nodes()
        .find(|other| other.id != node)
        .unwrap()
        .id;
    let start = GuestCommand::Start {
        guest: new.id,
        node: other,
        expected: None,
    };
    let refused = workload.apply(Command::Guest(start)).unwrap_err();
    assert!(matches!(refused, Refusal::DoesNotFit { .. }));
    let causes = refused.to_coded_error().causes.join("; ");
    assert!(
        causes.contains("volume root is on the disks of node"),
        "{causes}"
    );
    let mut second = workload.guest();
    second.template.volumes[0].volume = volume;
    second.failover = FailoverPolicy::Never;
    assert!(matches!(
        made(&mut workload, &second),
        Err(Refusal::InUse { .. })
    ));
    let delete = ResourceCommand::DeleteVolume { id: volume };
    let refused = workload.apply(Command::Resource(delete));
    assert!(matches!(refused, Err(Refusal::InUse { .. })));
}
