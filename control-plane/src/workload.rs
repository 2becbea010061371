//! Made-up clusters, as large as wanted and the same for the same seed: for tests and benchmarks.
//!
//! Everything is made by log entries, as in a cluster that people use.

use godwit_proto::cluster::{Applied, Command};
use godwit_proto::cluster::{
    Capacity, CpuChoice, CpuFeatures, CpuLevel, Entry, EntryHeader, FailoverPolicy, Guest,
    GuestCommand, GuestReport, GuestTemplate, Labels, NetworkAttachment, NewGuest, NodeCommand,
    NodeCpu, NodeReport, ObservedState, PoolKind, ResourceCommand, RuleKind, Scope, Strength,
    VolumeAttachment,
};
use godwit_proto::guest::{BootSpec, HugePages, Kernel};
use godwit_proto::id::{
    Generation, GuestId, NetworkId, NodeId, PoolId, RuleId, Timestamp, VolumeId,
};

use crate::scheduler::{Demand, Inventory, Purpose, Scheduler};
use crate::state::{Refusal, State};

/// Numbers that look random and follow from the first one (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that follow from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..bound`; 0 when the bound is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        match bound {
            0 => 0,
            bound => self.number() % bound,
        }
    }

    /// Whether something of one in `count` happens.
    pub const fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of `values`.
    ///
    /// # Panics
    /// When there is none.
    pub const fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// How large a cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes.
    pub nodes: u32,
    /// Running guests.
    pub guests: u32,
    /// Services: groups of guests under a placement rule each.
    pub services: u32,
}

/// A made-up cluster.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its state.
    pub state: State,
    random: Random,
    size: Size,
    made: u32,
}

const POOLS: u8 = 4;
const NETWORKS: u8 = 4;

impl Workload {
    /// A cluster of nodes that are ready, with pools, networks and rules, and without guests.
    ///
    /// # Panics
    /// When a command of its own is refused: a mistake here.
    #[must_use]
    pub fn new(size: Size, seed: u64) -> Self {
        let mut workload = Self {
            state: State::new("made-up"),
            random: Random::new(seed),
            size,
            made: 0,
        };
        for number in 0..POOLS {
            workload.done(Command::Resource(ResourceCommand::CreatePool {
                id: PoolId::from_bytes([number; 16]),
                name: format!("pool-{number}"),
                kind: PoolKind::Shared,
                path: format!("pools/{number}"),
            }));
        }
        for number in 0..NETWORKS {
            workload.done(Command::Resource(ResourceCommand::CreateNetwork {
                id: NetworkId::from_bytes([number; 16]),
                name: format!("net-{number}"),
                bridge: format!("br{number}"),
            }));
        }
        for number in 0..size.nodes {
            let report = workload.node(number);
            let node = report.id;
            workload.done(Command::Node(NodeCommand::Join {
                report: Box::new(report),
                lower_baseline: true,
            }));
            workload.done(Command::Node(NodeCommand::GrantLease { node }));
        }
        for number in 0..size.services {
            workload.rule(number);
        }
        workload
    }

    /// The same with all the guests of its size, each where the scheduler wants it.
    ///
    /// # Panics
    /// As [`Workload::new`].
    #[must_use]
    pub fn full(size: Size, seed: u64) -> Self {
        let mut workload = Self::new(size, seed);
        let mut scheduler = Scheduler::new();
        for _ in 0..size.guests {
            let new = workload.guest();
            let id = new.id;
            workload.make(new);
            workload.start(&mut scheduler, id);
        }
        workload
    }

    /// Applies a command.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn apply(&mut self, command: Command) -> Result<Applied, Refusal> {
        let now = self.state.now().as_millis() + 1;
        self.state.try_apply(&Entry {
            header: EntryHeader {
                now: Timestamp::from_millis(now),
                actor: "workload".into(),
                request: None,
            },
            command,
        })
    }

    fn done(&mut self, command: Command) {
        if let Err(refusal) = self.apply(command) {
            panic!("a command of the workload was refused: {refusal}");
        }
    }

    /// Makes a guest, and its volume.
    ///
    /// # Panics
    /// As [`Workload::new`].
    pub fn make(&mut self, new: NewGuest) {
        for attachment in &new.template.volumes {
            self.done(Command::Resource(ResourceCommand::CreateVolume {
                id: attachment.volume,
                name: format!("{}-root", new.name),
                pool: PoolId::from_bytes([new.name.len() as u8 % POOLS; 16]),
                node: None,
                size_bytes: 1 << 30,
            }));
        }
        self.done(Command::Guest(GuestCommand::Create(Box::new(new))));
    }

    /// Starts a guest where the scheduler wants it, and lets its node say that it runs; answers
    /// where, or `None` when no node can take it.
    pub fn start(&mut self, scheduler: &mut Scheduler, id: GuestId) -> Option<NodeId> {
        let guest = self.state.guest(id)?;
        let inventory = self.state.inventory();
        let demand = Demand::new(&self.state, inventory, guest, Purpose::Start);
        let node = scheduler.choose(inventory, &demand)?;
        self.done(Command::Guest(GuestCommand::Start {
            guest: id,
            node,
            expected: None,
        }));
        self.report(id, ObservedState::Running).ok()?;
        Some(node)
    }

    /// Lets the owner of a guest tell what it does.
    ///
    /// # Errors
    /// Why that was refused.
    pub fn report(&mut self, id: GuestId, state: ObservedState) -> Result<Applied, Refusal> {
        let guest = self.state.guest(id);
        let runner = guest.and_then(|guest| guest.ownership.runners().next());
        let (node, epoch) = runner.unwrap_or((NodeId::from_bytes([0; 16]), Default::default()));
        let generation = guest.map_or(Generation::new(0), |guest| guest.meta.generation);
        self.apply(Command::Guest(GuestCommand::Report(GuestReport {
            guest: id,
            node,
            epoch,
            state,
            generation,
            dirty_pages_per_second: None,
        })))
    }

    /// A node of a rack of 40, one of three generations of hardware.
    pub fn node(&mut self, number: u32) -> NodeReport {
        let random = &mut self.random;
        let hardware = random.below(3) as usize;
        let mut features: Vec<String> = ["avx", "avx2", "avx512f", "sse2"][..2 + hardware.min(1)]
            .iter()
            .map(ToString::to_string)
            .collect();
        features.push("sse4_2".into());
        features.sort_unstable();
        let numbers = |random: &mut Random, count: u8, of: u64| -> Vec<u8> {
            let all = 0..count;
            all.filter(|number| *number == 0 || random.below(4) < of)
                .collect()
        };
        NodeReport {
            id: NodeId::from_bytes(spread(number)),
            name: format!("node-{number}"),
            labels: labels(&[
                ("disk", random.one_of(&["ssd", "hdd"])),
                ("zone", random.one_of(&["a", "b", "c"])),
            ]),
            address: format!("node-{number}:7000"),
            certificate: [number as u8; 32],
            capacity: Capacity {
                memory_bytes: [128, 256, 384][hardware] << 30,
                reserved_bytes: 4 << 30,
                cpus: [32, 48, 64][hardware],
            },
            cpu: NodeCpu {
                features: CpuFeatures {
                    vendor: "GenuineIntel".into(),
                    signature: 0x0005_0654,
                    physical_bits: 46,
                    features,
                    components: Vec::new(),
                },
                level: Some([CpuLevel::V2, CpuLevel::V3, CpuLevel::V4][hardware]),
            },
            failure_domain: match number % 16 {
                15 => String::new(),
                _ => format!("rack-{}", number / 40),
            },
            pools: numbers(random, POOLS, 3)
                .into_iter()
                .map(|number| PoolId::from_bytes([number; 16]))
                .collect(),
            networks: numbers(random, NETWORKS, 3)
                .into_iter()
                .map(|number| NetworkId::from_bytes([number; 16]))
                .collect(),
        }
    }

    /// A guest that is not made yet.
    pub fn guest(&mut self) -> NewGuest {
        let number = self.made;
        self.made += 1;
        let random = &mut self.random;
        let service = random.below(u64::from(self.size.services) * 2);
        let mut all = vec![("number".to_owned(), number.to_string())];
        if service < u64::from(self.size.services) {
            all.push(("service".into(), format!("s{service}")));
        }
        let selector = match random.below(8) {
            0 => labels(&[("disk", "ssd")]),
            1 => labels(&[("zone", "a")]),
            _ => Labels::none(),
        };
        let cpu = match random.below(8) {
            0 => CpuChoice::Level(CpuLevel::V3),
            _ => CpuChoice::Cluster,
        };
        let vcpus = random.one_of(&[1, 1, 2, 2, 4, 8]);
        let memory_gib: u64 = random.one_of(&[1, 2, 4, 4, 8, 16]);
        let network = NetworkId::from_bytes([random.below(NETWORKS.into()) as u8; 16]);
        let priority = random.below(256) as u8;
        NewGuest {
            id: GuestId::from_bytes(spread(number)),
            name: format!("guest-{number}"),
            labels: all.into_iter().collect(),
            template: GuestTemplate {
                vcpus,
                memory_bytes: memory_gib << 30,
                huge_pages: HugePages::None,
                cpu,
                boot: BootSpec {
                    kernel: Kernel::BuiltIn,
                    initrd: None,
                    cmdline: None,
                },
                volumes: vec![VolumeAttachment {
                    id: "root".into(),
                    volume: VolumeId::from_bytes(spread(number)),
                    read_only: false,
                }],
                networks: vec![NetworkAttachment {
                    id: "lan".into(),
                    network,
                    mac: [0x52, 0x54, 0, 0, 0, 1],
                }],
                rng: true,
                node_selector: selector,
            },
            failover: FailoverPolicy::Restart { priority },
        }
    }

    fn rule(&mut self, number: u32) {
        let service = format!("s{number}");
        let (kind, strength) = match number % 8 {
            0 => (
                RuleKind::AntiAffinity(Scope::FailureDomain),
                Strength::Preferred { weight: 50 },
            ),
            1 => (
                RuleKind::NodeAffinity {
                    nodes: labels(&[("zone", "b")]),
                },
                Strength::Preferred { weight: 10 },
            ),
            2 => (
                RuleKind::Affinity(Scope::FailureDomain),
                Strength::Preferred { weight: 5 },
            ),
            _ => (RuleKind::AntiAffinity(Scope::Node), Strength::Required),
        };
        self.done(Command::Resource(ResourceCommand::CreateRule {
            id: RuleId::from_bytes(spread(number)),
            name: format!("rule-{number}"),
            guests: labels(&[("service", &service)]),
            kind,
            strength,
        }));
    }
}

/// What the scheduler's speed is measured on: a cluster, and guests that come and go.
#[derive(Debug)]
pub struct Churn {
    state: State,
    inventory: Inventory,
    scheduler: Scheduler,
    coming: Vec<Guest>,
    /// Guests that were placed and hold room, the longest there first.
    placed: std::collections::VecDeque<Guest>,
    next: usize,
}

impl Churn {
    /// Guests that hold room at once, beside those of the cluster.
    const HELD: usize = 1_000;

    /// Churn in a cluster: `kinds` different guests come again and again.
    #[must_use]
    pub fn new(mut workload: Workload, kinds: usize) -> Self {
        let coming = (0..kinds).map(|_| {
            let mut new = workload.guest();
            new.template.volumes.clear();
            workload.state.preview(&new)
        });
        let coming = coming.collect();
        Self {
            inventory: workload.state.inventory().clone(),
            state: workload.state,
            scheduler: Scheduler::new(),
            coming,
            placed: std::collections::VecDeque::new(),
            next: 0,
        }
    }

    /// Decides where `count` guests go, one after the other, each seeing those before it; answers
    /// how many found a place. A decision is all of it: what the guest needs, the choice, and the
    /// index brought up to date.
    pub fn decide(&mut self, count: usize) -> usize {
        let mut found = 0;
        for _ in 0..count {
            let guest = &self.coming[self.next % self.coming.len()];
            self.next += 1;
            let demand = Demand::new(&self.state, &self.inventory, guest, Purpose::Start);
            let Some(node) = self.scheduler.choose(&self.inventory, &demand) else {
                continue;
            };
            found += 1;
            let mut guest = guest.clone();
            let epoch = guest.ownership.highest.next();
            guest.ownership.owner = godwit_proto::cluster::Owner::Node { node, epoch };
            self.inventory.add_guest(&guest);
            self.placed.push_back(guest);
            if self.placed.len() > Self::HELD
                && let Some(gone) = self.placed.pop_front()
            {
                self.inventory.remove_guest(&gone);
            }
        }
        found
    }
}

/// Sixteen bytes that follow from a number, spread so that order by id is not order by number.
fn spread(number: u32) -> [u8; 16] {
    let mut random = Random::new(u64::from(number) + 1);
    let (high, low) = (random.number(), random.number());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().copied().collect()
}
