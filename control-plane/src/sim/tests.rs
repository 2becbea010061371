//! Many seeds, and each rule broken on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_proto::cluster::{
    ClusterCommand, Command, CpuChoice, Desired, FailoverPolicy, GuestCommand, Labels, NodeCommand,
    Owner,
};
use godwit_proto::id::{GuestId, NodeId, PoolId};

use super::host::{Disk, Host};
use super::world::{Event, Failure, World};
use super::{Broken, LEASE, Setup};
use crate::scheduler::{Demand, Purpose, Scheduler};
use crate::workload::{Random, Size, Workload};

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;

impl World {
    /// A cluster whose nodes hold leases and have been given guests; nothing runs yet.
    fn new(setup: Setup) -> Self {
        let mut random = Random::new(setup.seed);
        let size = Size {
            nodes: 0,
            guests: 0,
            services: 0,
        };
        let mut workload = Workload::new(size, 1);
        let settings = workload.state.settings();
        let configure = ClusterCommand::Configure {
            settings: Desired {
                name: "simulated".into(),
                overcommit: settings.overcommit,
                strategy: settings.strategy,
                migrations_per_node: settings.migrations_per_node,
                migrations_per_cluster: settings.migrations_per_cluster,
                lease: LEASE,
            },
            expected: None,
        };
        workload.apply(Command::Cluster(configure)).unwrap();
        let report = workload.node(0);
        let ids: Vec<NodeId> = (0..setup.nodes)
            .map(|number| NodeId::from_bytes([number as u8 + 1; 16]))
            .collect();
        for (number, node) in ids.iter().copied().enumerate() {
            let mut report = report.clone();
            report.id = node;
            report.name = format!("n{number}");
            report.pools = (0..4).map(|pool| PoolId::from_bytes([pool; 16])).collect();
            let join = NodeCommand::Join {
                report: Box::new(report),
                lower_baseline: false,
            };
            workload.apply(Command::Node(join)).unwrap();
            let grant = NodeCommand::GrantLease { node };
            workload.apply(Command::Node(grant)).unwrap();
        }
        for number in 0..setup.nodes as u8 + 3 {
            let mut new = workload.guest();
            new.id = GuestId::from_bytes([0xa0 + number; 16]);
            new.name = format!("g{number}");
            new.labels = Labels::none();
            if number % 3 != 2 {
                new.template.volumes.clear();
            }
            new.template.networks.clear();
            new.template.node_selector = Labels::none();
            new.template.memory_bytes = 1 << 30;
            new.template.vcpus = 1;
            new.template.cpu = CpuChoice::Cluster;
            new.failover = match number % 3 {
                0 => FailoverPolicy::Never,
                _ => FailoverPolicy::Restart { priority: number },
            };
            let guest = new.id;
            workload.make(new);
            let state = &workload.state;
            let found = state.guest(guest).unwrap();
            let demand = Demand::new(state, state.inventory(), found, Purpose::Start);
            let node = Scheduler::new().choose(state.inventory(), &demand).unwrap();
            let expected = None;
            let start = GuestCommand::Start {
                guest,
                node,
                expected,
            };
            workload.apply(Command::Guest(start)).unwrap();
        }
        let drift = i64::from(setup.drift_ppm());
        let hosts = ids.into_iter().map(|id| Host {
            id,
            // Clocks are at the edges of what they may be, or between them.
            rate_ppm: match random.below(3) {
                0 => -drift,
                1 => drift,
                _ => random.below(2 * drift as u64 + 1) as i64 - drift,
            },
            offset: Duration::from_secs(1000 + random.below(1000)),
            disk: Disk::default(),
            daemon: None,
            boot: 0,
            stopped_until: None,
            processes: BTreeMap::new(),
            disks_out_until: Duration::ZERO,
            replica: workload.state.clone(),
            applied: 0,
        });
        let hosts = hosts.collect();
        let mut world = Self::empty(setup, hosts, workload.state);
        for host in 0..setup.nodes {
            world.at(Duration::ZERO, Event::StartDaemon { host });
        }
        world
    }
}

fn run(setup: Setup) -> Result<BTreeMap<&'static str, u64>, Failure> {
    let mut world = World::new(setup);
    world.schedule_faults();
    world.run()
}

/// Runs a seed; if it fails, once more with a trace.
fn run_or_trace(setup: Setup) -> Result<BTreeMap<&'static str, u64>, Failure> {
    run(setup).map_err(|failure| {
        let traced = run(Setup {
            trace: true,
            ..setup
        });
        traced.err().unwrap_or(failure)
    })
}

fn seeds(first: u64, count: u64) -> BTreeMap<&'static str, u64> {
    let mut seen = BTreeMap::new();
    for seed in first..first + count {
        match run_or_trace(Setup::of_seed(seed)) {
            Ok(found) => {
                for (what, count) in found {
                    *seen.entry(what).or_insert(0) += count;
                }
            }
            Err(failure) => panic!(
                "{}\n{}\n{:?}\nGODWIT_SIM_FIRST={seed} GODWIT_SIM_SEEDS=1 repeats it",
                failure.trace, failure.what, failure.setup
            ),
        }
    }
    seen
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_cluster_keeps_its_promises_whatever_goes_wrong_and_comes_right_afterwards() {
    let first = variable("GODWIT_SIM_FIRST").unwrap_or(0);
    let count = variable("GODWIT_SIM_SEEDS").unwrap_or(SEEDS);
    let seen = seeds(first, count);
    println!("{count} seeds: {seen:#?}");
    if count >= SEEDS {
        for what in [
            "acknowledged",
            "daemons killed",
            "elections",
            "entries lost with a leader",
            "entries taken over by a leader",
            "failovers",
            "guests that lost pages",
            "handovers",
            "handovers of unknown fate",
            "moves that failed before the handover",
            "older desired states",
            "pauses for want of a proof",
            "revivals",
            "targets that gave up",
        ] {
            let times = seen.get(what).copied().unwrap_or(0);
            assert!(times >= 5, "{what}: {times} times");
        }
    }
}

/// Seeds until a rule that is broken on purpose is found, and what is then said of it.
fn found(broken: Broken) -> String {
    for seed in 0..200 {
        let setup = Setup {
            broken,
            ..Setup::of_seed(seed)
        };
        if let Err(failure) = run(setup) {
            println!("{broken:?}: seed {seed}: {}", failure.what);
            return failure.what;
        }
    }
    panic!("the simulation does not see what {broken:?} does");
}

#[test]
fn each_rule_that_is_broken_on_purpose_is_found_in_a_simulation() {
    for broken in [
        Broken::NoWaiting,
        Broken::FromArrival,
        Broken::ForwardedLapse,
        Broken::Drift,
        Broken::NoLedger,
        Broken::LateClock,
        Broken::NoRelinquish,
        Broken::StaleCopy,
        Broken::NoQuorum,
        Broken::NoDisk,
    ] {
        let what = found(broken);
        let expected: &[&str] = match broken {
            Broken::NoLedger => &["begun once"],
            Broken::StaleCopy => &["memory fits the disks"],
            _ => &["one runner", "not taken while it runs"],
        };
        assert!(
            expected.iter().any(|name| what.starts_with(name)),
            "{broken:?}: {what}"
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let runs = [0, 1].map(|_| run(Setup::of_seed(7)).unwrap());
    assert_eq!(runs[0], runs[1]);
    let other = run(Setup::of_seed(8)).unwrap();
    assert_ne!(runs[0], other);
}

#[test]
fn without_a_quorum_only_guests_that_have_no_other_proof_stand_still_and_none_is_lost() {
    for seed in 0..5 {
        let setup = Setup {
            nodes: 5,
            voters: 3,
            ..Setup::of_seed(seed)
        };
        let mut world = World::new(setup);
        world.until(Duration::from_secs(20));
        let owners = |world: &World| -> Vec<Owner> {
            let guests = world.truth.guests();
            guests.map(|guest| guest.ownership.owner).collect()
        };
        let before = owners(&world);
        for voter in 0..3 {
            world.kill_daemon(voter);
        }
        world.until(Duration::from_secs(80));
        let processes = world.hosts.iter().flat_map(|host| host.processes.values());
        for process in processes {
            let proven = !process.leased || process.disk.is_some();
            assert_eq!(process.runs(), proven, "seed {seed}");
        }
        for host in 0..3 {
            world.start_daemon(host);
        }
        world.until(Duration::from_secs(100));
        assert_eq!(owners(&world), before, "nobody was started anew");
        let processes = world.hosts.iter().flat_map(|host| host.processes.values());
        assert!(processes.clone().count() > 0);
        assert!(processes.into_iter().all(super::process::Process::runs));
    }
}
