//! What guests are promised of processors.

use godwit_proto::cluster::{ClusterCommand, Command, CpuChoice, Labels, NodeCommand, NodeReport};
use godwit_proto::codes::ErrorCode;
use godwit_proto::id::NodeId;

use crate::scheduler::Scheduler;
use crate::state::Refusal;
use crate::workload::{Size, Workload};

const EMPTY: Size = Size {
    nodes: 0,
    guests: 0,
    services: 0,
};

fn report(number: u8, features: &[&str]) -> NodeReport {
    let mut report = Workload::new(EMPTY, 2).node(0);
    report.id = NodeId::from_bytes([number; 16]);
    report.name = format!("n{number}");
    report.cpu.features.features = features.iter().map(ToString::to_string).collect();
    report
}

fn join(workload: &mut Workload, report: NodeReport, lower: bool) -> Result<(), Refusal> {
    let node = report.id;
    workload.apply(Command::Node(NodeCommand::Join {
        report: Box::new(report),
        lower_baseline: lower,
    }))?;
    workload.apply(Command::Node(NodeCommand::GrantLease { node }))?;
    Ok(())
}

fn promised(workload: &Workload) -> Vec<String> {
    let id = workload.state.settings().baseline.unwrap();
    workload
        .state
        .baseline(id)
        .unwrap()
        .features
        .features
        .clone()
}

#[test]
fn a_node_below_the_baseline_is_told_what_it_lacks_and_joins_only_when_that_is_wanted() {
    let mut workload = Workload::new(EMPTY, 1);
    join(&mut workload, report(1, &["avx", "avx2", "sse2"]), false).unwrap();
    join(
        &mut workload,
        report(2, &["avx", "avx2", "avx512f", "sse2"]),
        false,
    )
    .unwrap();
    assert_eq!(promised(&workload), ["avx", "avx2", "sse2"]);
    let refused = join(&mut workload, report(3, &["sse2"]), false).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::CpuIncompatible);
    assert!(refused.to_string().ends_with("avx, avx2"), "{refused}");
    join(&mut workload, report(3, &["sse2"]), true).unwrap();
    assert_eq!(promised(&workload), ["sse2"]);
}

#[test]
fn a_node_of_another_vendor_never_joins() {
    let mut workload = Workload::new(EMPTY, 1);
    join(&mut workload, report(1, &["sse2"]), false).unwrap();
    let mut other = report(2, &["sse2"]);
    other.cpu.features.vendor = "AuthenticAMD".into();
    let refused = join(&mut workload, other, true).unwrap_err();
    assert!(matches!(
        refused,
        Refusal::BelowBaseline {
            can_lower: false,
            ..
        }
    ));
}

#[test]
fn a_guest_keeps_what_it_was_promised_when_the_baseline_falls() {
    let mut workload = Workload::new(EMPTY, 1);
    join(&mut workload, report(1, &["avx", "sse2"]), false).unwrap();
    let guest = |workload: &mut Workload, cpu| {
        let mut new = workload.guest();
        new.template.cpu = cpu;
        new.template.networks.clear();
        new.template.volumes.clear();
        new.template.node_selector = Labels::none();
        let id = new.id;
        workload.make(new);
        id
    };
    let early = guest(&mut workload, CpuChoice::Cluster);
    join(&mut workload, report(2, &["sse2"]), true).unwrap();
    let late = guest(&mut workload, CpuChoice::Cluster);
    let first = NodeId::from_bytes([1; 16]);
    let cordon = NodeCommand::Cordon {
        node: first,
        reason: String::new(),
    };
    workload.apply(Command::Node(cordon)).unwrap();
    let mut scheduler = Scheduler::new();
    assert_eq!(workload.start(&mut scheduler, early), None);
    assert!(workload.start(&mut scheduler, late).is_some());
    let uncordon = NodeCommand::Uncordon { node: first };
    workload.apply(Command::Node(uncordon)).unwrap();
    assert_eq!(workload.start(&mut scheduler, early), Some(first));
}

#[test]
fn the_baseline_rises_only_when_that_is_asked_for() {
    let mut workload = Workload::new(EMPTY, 1);
    join(&mut workload, report(1, &["avx", "sse2"]), false).unwrap();
    join(&mut workload, report(2, &["sse2"]), true).unwrap();
    let remove = NodeCommand::Remove {
        node: NodeId::from_bytes([2; 16]),
        force: false,
    };
    workload.apply(Command::Node(remove)).unwrap();
    assert_eq!(promised(&workload), ["sse2"]);
    let raise = ClusterCommand::RaiseBaseline;
    workload.apply(Command::Cluster(raise)).unwrap();
    assert_eq!(promised(&workload), ["avx", "sse2"]);
}

#[test]
fn promises_that_nobody_holds_are_forgotten_when_there_are_many() {
    let mut workload = Workload::new(EMPTY, 1);
    let all: Vec<String> = (0..200).map(|number| format!("f{number:03}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    join(&mut workload, report(1, &all), false).unwrap();
    for left in (20..200).rev() {
        join(&mut workload, report(2, &all[..left]), true).unwrap_or_else(|refusal| {
            assert!(matches!(refusal, Refusal::LeaseState { .. }), "{refusal}");
        });
    }
    assert_eq!(promised(&workload).len(), 20);
    let max = godwit_proto::cluster::limits::MAX_BASELINES;
    assert!(workload.state.baselines().len() <= max);
}
