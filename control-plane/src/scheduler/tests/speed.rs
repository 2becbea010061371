//! How fast: `cargo test --release -p godwit-control-plane speed -- --ignored --nocapture`.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the clock; what it measures does not"
)]

use std::time::Instant;

use godwit_proto::cluster::{ClusterCommand, Command, Desired, Strategy};

use crate::workload::{Churn, Size, Workload};

/// What this thread has had of a processor (Linux, `Documentation/scheduler/sched-stats.rst`).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = stat.split_whitespace().next().unwrap().parse().unwrap();
    nanoseconds / 1e9
}

#[test]
#[ignore = "a measurement"]
fn decisions_a_second_with_5000_nodes_and_100000_guests() {
    let size = Size {
        nodes: 5_000,
        guests: 100_000,
        services: 500,
    };
    let start = Instant::now();
    let mut workload = Workload::full(size, 1);
    let entries = workload.state.revision().get();
    println!(
        "{entries} entries applied in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    for strategy in [Strategy::Spread, Strategy::Pack, Strategy::Balanced] {
        let settings = workload.state.settings();
        let settings = Desired {
            name: settings.meta.name.clone(),
            overcommit: settings.overcommit,
            strategy,
            migrations_per_node: settings.migrations_per_node,
            migrations_per_cluster: settings.migrations_per_cluster,
            lease: settings.lease,
        };
        let configure = ClusterCommand::Configure {
            settings,
            expected: None,
        };
        workload.apply(Command::Cluster(configure)).unwrap();
        let mut churn = Churn::new(workload.clone(), 1_000);
        churn.decide(2_000);
        let (start, start_cpu, count) = (Instant::now(), cpu_seconds(), 200_000);
        let found = churn.decide(count);
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - start_cpu);
        println!(
            "{strategy:?}: {:.0} decisions/s of a core ({:.0}/s on this machine as it is), \
             {found} of {count} found a place",
            count as f64 / cpu,
            count as f64 / wall,
        );
        assert!(found > count / 2, "a scheduler that finds nothing is fast");
    }
}
