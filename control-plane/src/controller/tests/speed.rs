//! What a controller costs: `cargo test --release -p godwit-control-plane speed -- --ignored --nocapture`.

use std::time::Duration;

use godwit_proto::cluster::{ClusterCommand, Command, Heartbeat, ObservedState};
use godwit_proto::id::{GuestId, NodeId, Revision};

use crate::controller::Controller;
use crate::lease::ClockBound;
use crate::workload::{Random, Size, Workload};

/// What this thread has had of a processor (Linux, `Documentation/scheduler/sched-stats.rst`).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = stat.split_whitespace().next().unwrap().parse().unwrap();
    nanoseconds / 1e9
}

#[test]
#[ignore = "a measurement"]
fn heartbeats_and_desired_states_of_5000_nodes_with_100000_guests() {
    let size = Size {
        nodes: 5_000,
        guests: 100_000,
        services: 500,
    };
    let mut workload = Workload::full(size, 1);
    let nodes: Vec<NodeId> = workload.state.nodes().map(|node| node.id).collect();
    let guests: Vec<GuestId> = workload.state.guests().map(|guest| guest.id).collect();
    let lead = ClusterCommand::Lead { node: nodes[0] };
    workload.apply(Command::Cluster(lead)).unwrap();
    let mut now = Duration::from_secs(1000);
    let mut controller = Controller::elected(now, ClockBound::DEFAULT, &workload.state);
    let mut random = Random::new(1);
    let mut seen = vec![Revision::new(0); nodes.len()];
    // Each node once every 2 s; changes of the state in between, as guests tell of themselves.
    for (changes, seconds) in [(0, 2), (0, 10), (100, 10), (1_000, 10)] {
        let (mut told, mut commands, mut cpu) = (0, 0, 0.0);
        for _ in 0..seconds * 50 {
            now += Duration::from_millis(20);
            for _ in 0..changes / 50 {
                let guest = random.one_of(&guests);
                workload.report(guest, ObservedState::Running).unwrap();
            }
            let start = cpu_seconds();
            controller.confirmed(now);
            for _ in 0..50 {
                let number = (told + 1) % nodes.len();
                told += 1;
                let node = nodes[number];
                let heartbeat = Heartbeat {
                    node,
                    sequence: 1,
                    incarnation: workload.state.lease(node).unwrap().incarnation,
                    seen: seen[number],
                };
                let answer = controller.heard(now, &heartbeat, &workload.state);
                if let Some(desired) = answer.desired {
                    seen[number] = desired.revision;
                }
            }
            commands += controller.tick(now, &workload.state).len();
            cpu += cpu_seconds() - start;
        }
        assert_eq!(commands, 0, "nothing is wrong");
        println!(
            "{changes} changes/s: {:.0} heartbeats/s cost {:.1} % of a core",
            told as f64 / f64::from(seconds),
            100.0 * cpu / f64::from(seconds)
        );
    }
}
