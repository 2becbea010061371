//! Impossible requests: refused with the field, never done halfway, never a panic.

use godwit_proto::cluster::{
    Capacity, ClusterCommand, Command, Desired, GuestCommand, LeaseProfile, NodeCommand,
    Overcommit, ResourceCommand, Strategy, Strength, limits,
};
use godwit_proto::cluster::{Labels, RuleKind, Scope};
use godwit_proto::codes::ErrorCode;
use godwit_proto::id::{GuestId, NodeId, RuleId};

use crate::state::Refusal;
use crate::workload::{Size, Workload};

fn workload() -> Workload {
    let size = Size {
        nodes: 2,
        guests: 1,
        services: 1,
    };
    Workload::full(size, 4)
}

fn refused(workload: &mut Workload, command: Command) -> Refusal {
    let before = workload.state.snapshot().unwrap();
    let refusal = workload.apply(command).unwrap_err();
    assert!(workload.state.snapshot().unwrap() == before);
    refusal
}

#[test]
fn names_that_are_no_names_are_refused() {
    let mut workload = workload();
    let long = "x".repeat(64);
    for name in ["", "-a", "a-", "A", "a b", "a/b", "ä", "a\n", long.as_str()] {
        let mut new = workload.guest();
        new.template.volumes.clear();
        new.name = name.into();
        let create = GuestCommand::Create(Box::new(new));
        let refusal = refused(&mut workload, Command::Guest(create));
        assert!(
            refusal.to_string().starts_with("guest name must be"),
            "{refusal}"
        );
        assert_eq!(refusal.code(), ErrorCode::RequestInvalid);
    }
}

#[test]
fn a_name_or_id_that_is_taken_says_by_whom() {
    let mut workload = workload();
    let taken = workload.state.guests().next().unwrap().clone();
    let mut new = workload.guest();
    new.template.volumes.clear();
    new.name.clone_from(&taken.meta.name);
    let create = Command::Guest(GuestCommand::Create(Box::new(new.clone())));
    let refusal = refused(&mut workload, create);
    assert!(
        refusal.to_string().contains(&taken.id.to_string()),
        "{refusal}"
    );
    new.id = taken.id;
    let create = Command::Guest(GuestCommand::Create(Box::new(new)));
    assert!(matches!(
        refused(&mut workload, create),
        Refusal::Exists { .. }
    ));
}

#[test]
fn guests_that_cannot_be_are_refused_with_the_field() {
    let mut workload = workload();
    let good = workload.guest();
    type Change = fn(&mut godwit_proto::cluster::NewGuest);
    let changes: [(&str, Change); 8] = [
        ("vCPUs", |new| new.template.vcpus = 0),
        ("vCPUs", |new| new.template.vcpus = u32::MAX),
        ("memory", |new| new.template.memory_bytes = u64::MAX),
        ("memory", |new| new.template.memory_bytes = 0),
        ("MAC address", |new| {
            new.template.networks[0].mac = [0xff; 6];
        }),
        ("name of a device", |new| {
            let again = new.template.networks[0].clone();
            new.template.networks.push(again);
        }),
        ("labels", |new| {
            new.labels = (0..=limits::MAX_LABELS)
                .map(|n| (n.to_string(), "x"))
                .collect();
        }),
        ("networks", |new| {
            let net = new.template.networks[0].clone();
            new.template.networks = vec![net; limits::MAX_GUEST_NETWORKS + 1];
        }),
    ];
    for (field, change) in changes {
        let mut new = good.clone();
        new.template.volumes.clear();
        change(&mut new);
        let create = Command::Guest(GuestCommand::Create(Box::new(new)));
        let refusal = refused(&mut workload, create);
        assert!(refusal.to_string().starts_with(field), "{field}: {refusal}");
    }
    let missing = Command::Guest(GuestCommand::Create(Box::new(good)));
    assert!(matches!(
        refused(&mut workload, missing),
        Refusal::NotFound { .. }
    ));
}

#[test]
fn a_wiped_node_under_its_old_name_is_told_what_to_do() {
    let mut workload = workload();
    let known = workload.state.nodes().next().unwrap().clone();
    let mut report = workload.node(0);
    report.name.clone_from(&known.meta.name);
    report.id = NodeId::from_bytes([0xaa; 16]);
    let join = |report| {
        Command::Node(NodeCommand::Join {
            report: Box::new(report),
            lower_baseline: true,
        })
    };
    let refusal = refused(&mut workload, join(report.clone()));
    assert!(matches!(refusal, Refusal::NameTaken { .. }));
    report.id = known.id;
    report.certificate = [0xaa; 32];
    let refusal = refused(&mut workload, join(report));
    assert!(
        refusal.fix().unwrap().contains("remove it by force"),
        "{refusal}"
    );
}

#[test]
fn absurd_nodes_are_refused() {
    let mut workload = workload();
    for capacity in [
        Capacity {
            memory_bytes: u64::MAX,
            reserved_bytes: 0,
            cpus: 1,
        },
        Capacity {
            memory_bytes: 1,
            reserved_bytes: 0,
            cpus: 0,
        },
    ] {
        let mut report = workload.node(7);
        report.capacity = capacity;
        let join = NodeCommand::Join {
            report: Box::new(report),
            lower_baseline: true,
        };
        let refusal = refused(&mut workload, Command::Node(join));
        assert_eq!(refusal.code(), ErrorCode::RequestInvalid);
    }
}

#[test]
fn settings_that_could_not_work_are_refused() {
    let mut workload = workload();
    let good = Desired {
        name: "lab".into(),
        overcommit: Overcommit {
            cpu_permille: 1000,
            memory_permille: 1000,
        },
        strategy: Strategy::Pack,
        migrations_per_node: 1,
        migrations_per_cluster: 1,
        lease: LeaseProfile::FAST,
    };
    let configure = |settings| {
        Command::Cluster(ClusterCommand::Configure {
            settings,
            expected: None,
        })
    };
    workload.apply(configure(good.clone())).unwrap();
    type Change = fn(&mut Desired);
    let changes: [Change; 5] = [
        |desired| desired.overcommit.cpu_permille = 0,
        |desired| desired.overcommit.memory_permille = u32::MAX,
        |desired| desired.migrations_per_node = 0,
        |desired| desired.lease.duration_ms = 10,
        |desired| desired.lease.renew_ms = desired.lease.duration_ms,
    ];
    for change in changes {
        let mut desired = good.clone();
        change(&mut desired);
        let refusal = refused(&mut workload, configure(desired));
        assert_eq!(refusal.code(), ErrorCode::RequestInvalid);
    }
}

#[test]
fn rules_about_everybody_or_of_no_weight_are_refused() {
    let mut workload = workload();
    let rule = |guests: Labels, strength| {
        Command::Resource(ResourceCommand::CreateRule {
            id: RuleId::from_bytes([0xaa; 16]),
            name: "rule".into(),
            guests,
            kind: RuleKind::AntiAffinity(Scope::Node),
            strength,
        })
    };
    refused(&mut workload, rule(Labels::none(), Strength::Required));
    let guests: Labels = [("a", "b")].into_iter().collect();
    for weight in [0, 101] {
        let command = rule(guests.clone(), Strength::Preferred { weight });
        let refusal = refused(&mut workload, command);
        assert!(refusal.to_string().starts_with("weight"));
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut workload = workload();
    let guest = GuestId::from_bytes([0xaa; 16]);
    let stop = GuestCommand::Stop {
        guest,
        expected: None,
    };
    let refusal = refused(&mut workload, Command::Guest(stop));
    assert_eq!(refusal.code(), ErrorCode::NotFound);
    assert_eq!(refusal.to_string(), format!("there is no guest {guest}"));
}

#[test]
fn a_running_guest_is_neither_changed_nor_deleted_nor_started_twice() {
    let mut workload = workload();
    let running = workload.state.guests().next().unwrap().clone();
    let (guest, expected) = (running.id, None);
    let node = running.ownership.hosts().next().unwrap();
    for command in [
        GuestCommand::Delete { guest, expected },
        GuestCommand::Update {
            guest,
            template: running.template.clone(),
            expected,
        },
        GuestCommand::Start {
            guest,
            node,
            expected,
        },
    ] {
        let refusal = refused(&mut workload, Command::Guest(command));
        assert_eq!(refusal.code(), ErrorCode::WrongState, "{refusal}");
        assert!(refusal.fix().is_some());
    }
}
