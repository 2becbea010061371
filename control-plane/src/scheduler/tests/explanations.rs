//! Every reason at once, and what would help.

use godwit_proto::cluster::{
    Capacity, Command, CpuChoice, CpuLevel, NodeCommand, NodeReport, ResourceCommand, RuleKind,
    Scope, Strength,
};
use godwit_proto::codes::ErrorCode;
use godwit_proto::id::{NetworkId, NodeId, PoolId, VolumeId};

use super::world::{World, against};
use crate::scheduler::{Behind, Verdict};

#[test]
fn a_node_with_everything_against_it_says_all_of_it() {
    let mut world = World::new();
    let node = world.node("small", "", &[("disk", "hdd")]);
    world.node("other", "", &[]);
    let report = world.workload.state.node(node).unwrap().clone();
    let mut cpu = report.cpu;
    cpu.level = Some(CpuLevel::V2);
    world.apply(Command::Node(NodeCommand::Join {
        report: Box::new(NodeReport {
            id: node,
            name: report.meta.name,
            labels: report.meta.labels,
            address: report.address,
            certificate: report.certificate,
            capacity: Capacity {
                memory_bytes: 1 << 30,
                reserved_bytes: 0,
                cpus: 1,
            },
            cpu,
            failure_domain: String::new(),
            pools: Vec::new(),
            networks: Vec::new(),
        }),
        lower_baseline: true,
    }));
    world.apply(Command::Node(NodeCommand::Cordon {
        node,
        reason: "new disks".into(),
    }));
    world.rule(
        "apart",
        "web",
        RuleKind::NodeAffinity {
            nodes: [("zone", "a")].into_iter().collect(),
        },
        Strength::Required,
    );
    world.apply(Command::Resource(ResourceCommand::CreateVolume {
        id: VolumeId::from_bytes([9; 16]),
        name: "shared".into(),
        pool: PoolId::from_bytes([0; 16]),
        node: None,
        size_bytes: 512,
    }));
    let mut new = world.new_guest("big", &[("service", "web")]);
    new.template.memory_bytes = 2 << 30;
    new.template.vcpus = 9;
    new.template.cpu = CpuChoice::Level(CpuLevel::V4);
    new.template.node_selector = [("disk", "ssd"), ("gpu", "yes")].into_iter().collect();
    new.template.volumes = vec![godwit_proto::cluster::VolumeAttachment {
        id: "root".into(),
        volume: VolumeId::from_bytes([9; 16]),
        read_only: false,
    }];
    new.template.networks = vec![godwit_proto::cluster::NetworkAttachment {
        id: "lan".into(),
        network: NetworkId::from_bytes([0; 16]),
        mac: [2, 0, 0, 0, 0, 1],
    }];
    let explanation = world.explain_new(&new);
    assert_eq!(
        against(&explanation, node),
        [
            "it is cordoned (new disks)",
            "2048 MiB of memory are needed, 1024 MiB are free",
            "9 vCPUs are needed, 4 are free",
            "its CPU is x86-64-v2, below x86-64-v4",
            "label disk is hdd, not ssd",
            "it has no label gpu=yes",
            "it does not reach pool pool-0",
            "it does not have network net-0",
            "rule apart wants nodes with zone=a",
        ]
    );
    let error = explanation.to_error().unwrap();
    assert_eq!(error.code(), ErrorCode::Unschedulable);
    assert_eq!(error.causes.len(), 2, "each node is told");
}

#[test]
fn what_would_make_it_fit_is_the_smallest_change() {
    let mut world = World::new();
    let a = world.node("a", "", &[]);
    world.node("b", "", &[]);
    let mut new = world.new_guest("huge", &[]);
    new.template.memory_bytes = 20 << 30;
    let explanation = world.explain_new(&new);
    assert_eq!(
        explanation.remedies,
        [
            "free 4096 MiB on node a, or give the guest 16384 MiB",
            "free 4096 MiB on node b, or give the guest 16384 MiB"
        ]
    );
    world.apply(Command::Node(NodeCommand::Cordon {
        node: a,
        reason: String::new(),
    }));
    let explanation = world.explain_new(&new);
    assert_eq!(
        explanation.remedies,
        ["free 4096 MiB on node b, or give the guest 16384 MiB"],
        "one step rather than two"
    );
}

#[test]
fn following_a_remedy_makes_the_guest_fit() {
    let mut world = World::new();
    let a = world.node("a", "", &[]);
    world.apply(Command::Node(NodeCommand::Cordon {
        node: a,
        reason: String::new(),
    }));
    let new = world.new_guest("web-1", &[]);
    let explanation = world.explain_new(&new);
    assert_eq!(explanation.remedies, ["uncordon node a"]);
    world.apply(Command::Node(NodeCommand::Uncordon { node: a }));
    assert_eq!(world.explain_new(&new).chosen, Some(a));
}

#[test]
fn a_node_that_could_take_it_says_what_made_the_difference() {
    let mut world = World::new();
    let first = world.node("a", "", &[]);
    let second = world.node("b", "", &[]);
    let third = world.node("c", "", &[]);
    let new = world.new_guest("web-1", &[("service", "web")]);
    world.start_on(new, first);
    world.rule(
        "apart",
        "web",
        RuleKind::AntiAffinity(Scope::Node),
        Strength::Preferred { weight: 7 },
    );
    let behind = |explanation: &crate::scheduler::Explanation, node: NodeId| {
        let mut nodes = explanation.nodes.iter();
        match nodes.find(|verdict| verdict.node == node).unwrap().verdict {
            Verdict::Fits { behind, .. } => Some(behind),
            _ => None,
        }
    };
    let new = world.new_guest("web-2", &[("service", "web")]);
    let explanation = world.explain_new(&new);
    assert_eq!(explanation.chosen, Some(second));
    assert_eq!(behind(&explanation, first), Some(Behind::Preference));
    assert_eq!(behind(&explanation, third), Some(Behind::Id));
    let other = world.new_guest("db-1", &[]);
    let explanation = world.explain_new(&other);
    assert_eq!(behind(&explanation, first), Some(Behind::Strategy));
}

#[test]
fn a_large_cluster_is_summed_up() {
    let mut world = World::new();
    for number in 0..12 {
        world.node(&format!("n{number}"), "", &[]);
    }
    let mut new = world.new_guest("huge", &[]);
    new.template.memory_bytes = 20 << 30;
    let error = world.explain_new(&new).to_error().unwrap();
    assert_eq!(error.message, "none of 12 nodes can take guest huge");
    assert_eq!(error.causes, ["12 without enough free memory"]);
}
