//! Everything that speaks against a node, all at once.

use std::fmt;

use godwit_proto::cluster::{
    CpuLevel, Guest, Labels, Node, NodeState, RuleKind, Scheduling, Scope,
};

use super::choose::{neighbours_at, others, required};
use super::demand::{CpuNeed, Demand, Purpose};
use super::inventory::Inventory;
use super::rules::IndexedRule;
use crate::state::State;

/// One thing that speaks against a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It holds no lease.
    NotReady {
        /// What it is instead.
        state: NodeState,
    },
    /// Nothing is placed on it.
    Cordoned {
        /// Why, as was said.
        reason: String,
    },
    /// It is being emptied.
    Draining,
    /// Too little memory is left.
    Memory {
        /// What the guest needs, in MiB.
        needed_mib: u64,
        /// What is left, in MiB.
        free_mib: u64,
    },
    /// Too few processors are left.
    Cpu {
        /// What the guest needs, in thousandths.
        needed_milli: u64,
        /// What is left, in thousandths.
        free_milli: u64,
    },
    /// Its processors lack what the guest was promised.
    CpuFeatures {
        /// What they lack.
        missing: Vec<String>,
    },
    /// Its processors are below the guest's level.
    CpuLevel {
        /// The guest's.
        wanted: CpuLevel,
        /// The node's.
        found: Option<CpuLevel>,
    },
    /// It lacks a label that the guest's selector wants.
    Label {
        /// The label's key.
        key: String,
        /// The value wanted.
        wanted: String,
        /// The value found.
        found: Option<String>,
    },
    /// It does not reach a pool that holds a volume of the guest.
    PoolUnreachable {
        /// The pool's name.
        pool: String,
    },
    /// A volume of the guest is on the disks of another node.
    VolumeElsewhere {
        /// The volume's name.
        volume: String,
        /// The other node's name.
        node: String,
    },
    /// It lacks a network of the guest.
    NoNetwork {
        /// The network's name.
        network: String,
    },
    /// A rule wants the guest on nodes with other labels.
    NodeAffinity {
        /// The rule's name.
        rule: String,
        /// The labels.
        wanted: Labels,
    },
    /// A rule wants the guest with others, which are elsewhere.
    Affinity {
        /// The rule's name.
        rule: String,
        /// What "with" means.
        scope: Scope,
    },
    /// A rule wants the guest apart from one that is here.
    AntiAffinity {
        /// The rule's name.
        rule: String,
        /// What "apart" means.
        scope: Scope,
        /// A guest that is here.
        guest: String,
    },
    /// It takes part in as many migrations as it may.
    MigrationLimit {
        /// How many.
        limit: u32,
    },
    /// The guest is there already.
    IsSource,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady {
                state: NodeState::Lost,
            } => f.write_str("its lease has lapsed"),
            Self::NotReady { .. } => f.write_str("it has no lease yet"),
            Self::Cordoned { reason } if reason.is_empty() => f.write_str("it is cordoned"),
            Self::Cordoned { reason } => write!(f, "it is cordoned ({reason})"),
            Self::Draining => f.write_str("it is being drained"),
            Self::Memory {
                needed_mib,
                free_mib,
            } => write!(
                f,
                "{needed_mib} MiB of memory are needed, {free_mib} MiB are free"
            ),
            Self::Cpu {
                needed_milli,
                free_milli,
            } => write!(
                f,
                "{} vCPUs are needed, {} are free",
                Thousandths(*needed_milli),
                Thousandths(*free_milli)
            ),
            Self::CpuFeatures { missing } => {
                write!(f, "its CPU lacks {}", missing.join(", "))
            }
            Self::CpuLevel { wanted, found } => write!(
                f,
                "its CPU is {}, below {}",
                found.map_or("of no known level", CpuLevel::name),
                wanted.name()
            ),
            Self::Label { key, wanted, found } => match found {
                Some(found) => write!(f, "label {key} is {found}, not {wanted}"),
                None => write!(f, "it has no label {key}={wanted}"),
            },
            Self::PoolUnreachable { pool } => write!(f, "it does not reach pool {pool}"),
            Self::VolumeElsewhere { volume, node } => {
                write!(f, "volume {volume} is on the disks of node {node}")
            }
            Self::NoNetwork { network } => write!(f, "it does not have network {network}"),
            Self::NodeAffinity { rule, wanted } => {
                write!(f, "rule {rule} wants nodes with {}", Selector(wanted))
            }
            Self::Affinity { rule, scope } => write!(
                f,
                "rule {rule} wants it in the same {} as guests that are elsewhere",
                scope_name(*scope)
            ),
            Self::AntiAffinity { rule, scope, guest } => write!(
                f,
                "rule {rule} wants it apart from guest {guest}, which is in the same {}",
                scope_name(*scope)
            ),
            Self::MigrationLimit { limit } => {
                write!(f, "it takes part in {limit} migrations already")
            }
            Self::IsSource => f.write_str("the guest is there already"),
        }
    }
}

impl Rejection {
    /// What would take this out of the way on `node`; `None` when nothing would.
    #[must_use]
    pub fn remedy(&self, node: &str) -> Option<String> {
        Some(match self {
            Self::NotReady { .. } => format!("bring node {node} back"),
            Self::Cordoned { .. } => format!("uncordon node {node}"),
            Self::Draining => format!("abort the drain of node {node}"),
            Self::Memory {
                needed_mib,
                free_mib,
            } => format!(
                "free {} MiB on node {node}, or give the guest {free_mib} MiB",
                needed_mib.saturating_sub(*free_mib)
            ),
            Self::Cpu {
                needed_milli,
                free_milli,
            } => format!(
                "free {} vCPUs on node {node}, or give the guest {}",
                Thousandths(needed_milli.saturating_sub(*free_milli)),
                free_milli / 1000
            ),
            Self::CpuFeatures { .. } | Self::CpuLevel { .. } => {
                "give the guest a lower CPU profile while it is stopped".into()
            }
            Self::Label { key, wanted, .. } => format!("label node {node} with {key}={wanted}"),
            Self::PoolUnreachable { pool } => format!("mount pool {pool} on node {node}"),
            Self::VolumeElsewhere { volume, .. } => {
                format!("move volume {volume} to a shared pool")
            }
            Self::NoNetwork { network } => {
                format!("add the bridge of network {network} to node {node}")
            }
            Self::NodeAffinity { rule, wanted } => format!(
                "label node {node} with {}, or make rule {rule} a preference",
                Selector(wanted)
            ),
            Self::Affinity { rule, .. } => format!("make rule {rule} a preference"),
            Self::AntiAffinity { rule, guest, .. } => {
                format!("move guest {guest} away, or make rule {rule} a preference")
            }
            Self::MigrationLimit { .. } => format!("wait for a migration of node {node} to end"),
            Self::IsSource => return None,
        })
    }

    /// The same for all rejections of a kind, to count them by.
    #[must_use]
    pub const fn summary(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not ready",
            Self::Cordoned { .. } => "cordoned",
            Self::Draining => "being drained",
            Self::Memory { .. } => "without enough free memory",
            Self::Cpu { .. } => "without enough free processors",
            Self::CpuFeatures { .. } => "without CPU features that the guest was promised",
            Self::CpuLevel { .. } => "with a CPU below the guest's level",
            Self::Label { .. } => "without a wanted label",
            Self::PoolUnreachable { .. } => "without a pool",
            Self::VolumeElsewhere { .. } => "without a volume that is on one node only",
            Self::NoNetwork { .. } => "without a network",
            Self::NodeAffinity { .. } => "ruled out by node affinity",
            Self::Affinity { .. } => "ruled out by affinity",
            Self::AntiAffinity { .. } => "ruled out by anti-affinity",
            Self::MigrationLimit { .. } => "at the limit of migrations",
            Self::IsSource => "where the guest is already",
        }
    }
}

/// Everything that speaks against placing a guest on `node`; nothing when it can take it.
#[must_use]
pub fn check(
    state: &State,
    inventory: &Inventory,
    demand: &Demand<'_>,
    node: &Node,
) -> Vec<Rejection> {
    let Some(slot) = inventory.slot(node.id) else {
        return vec![Rejection::NotReady { state: node.state }];
    };
    let mut found = check_node(node);
    let host = inventory.host(slot);
    let (needed, free) = (demand.amount, host.free());
    if needed.memory_mib > free.memory_mib {
        found.push(Rejection::Memory {
            needed_mib: needed.memory_mib,
            free_mib: free.memory_mib,
        });
    }
    if needed.cpu_milli > free.cpu_milli {
        found.push(Rejection::Cpu {
            needed_milli: needed.cpu_milli,
            free_milli: free.cpu_milli,
        });
    }
    found.extend(check_cpu(state, demand, node));
    for (key, value) in demand.selector.iter() {
        let label = node.meta.labels.value(key);
        if label != Some(value) {
            found.push(Rejection::Label {
                key: key.into(),
                wanted: value.into(),
                found: label.map(Into::into),
            });
        }
    }
    found.extend(check_resources(state, demand, node));
    for rule in required(inventory, demand) {
        found.extend(check_rule(state, inventory, demand, rule, node));
    }
    if demand.purpose == Purpose::Move {
        if demand.present.contains(&slot) {
            found.push(Rejection::IsSource);
        }
        let limit = inventory.settings.migrations_per_node;
        if host.migrations >= limit {
            found.push(Rejection::MigrationLimit { limit });
        }
    }
    found
}

fn check_node(node: &Node) -> Vec<Rejection> {
    let mut found = Vec::new();
    if node.state != NodeState::Ready {
        found.push(Rejection::NotReady { state: node.state });
    }
    match &node.scheduling {
        Scheduling::Enabled => {}
        Scheduling::Cordoned { reason } => found.push(Rejection::Cordoned {
            reason: reason.clone(),
        }),
        Scheduling::Draining { .. } => found.push(Rejection::Draining),
    }
    found
}

fn check_cpu(state: &State, demand: &Demand<'_>, node: &Node) -> Option<Rejection> {
    match demand.cpu {
        CpuNeed::Anything => None,
        CpuNeed::Level(wanted) => (node.cpu.level < Some(wanted)).then_some(Rejection::CpuLevel {
            wanted,
            found: node.cpu.level,
        }),
        CpuNeed::Baseline(id) => {
            let missing = match state.baseline(id) {
                Some(baseline) => baseline.features.missing_in(&node.cpu.features),
                None => vec![format!("baseline {id}, which is not known")],
            };
            (!missing.is_empty()).then_some(Rejection::CpuFeatures { missing })
        }
    }
}

fn check_resources(state: &State, demand: &Demand<'_>, node: &Node) -> Vec<Rejection> {
    let mut found = Vec::new();
    for id in &demand.pools {
        if !node.pools.contains(id) {
            let pool = state.pool(*id).map(|pool| pool.meta.name.clone());
            found.push(Rejection::PoolUnreachable {
                pool: pool.unwrap_or_else(|| id.to_string()),
            });
        }
    }
    if let Some((volume, home)) = demand.bound.filter(|(_, home)| *home != node.id) {
        let volume_name = state.volume(volume).map(|volume| volume.meta.name.clone());
        let home_name = state.node(home).map(|node| node.meta.name.clone());
        found.push(Rejection::VolumeElsewhere {
            volume: volume_name.unwrap_or_else(|| volume.to_string()),
            node: home_name.unwrap_or_else(|| home.to_string()),
        });
    }
    for id in &demand.networks {
        if !node.networks.contains(id) {
            let network = state.network(*id).map(|network| network.meta.name.clone());
            found.push(Rejection::NoNetwork {
                network: network.unwrap_or_else(|| id.to_string()),
            });
        }
    }
    found
}

fn check_rule(
    state: &State,
    inventory: &Inventory,
    demand: &Demand<'_>,
    indexed: &IndexedRule,
    node: &Node,
) -> Option<Rejection> {
    let slot = inventory.slot(node.id)?;
    let rule = indexed.rule.meta.name.clone();
    match &indexed.rule.kind {
        RuleKind::NodeAffinity { nodes } => {
            (!node.meta.labels.matches(nodes)).then(|| Rejection::NodeAffinity {
                rule,
                wanted: nodes.clone(),
            })
        }
        RuleKind::Affinity(scope) => (others(indexed, demand) > 0
            && neighbours_at(inventory, indexed, demand, slot) == 0)
            .then_some(Rejection::Affinity {
                rule,
                scope: *scope,
            }),
        RuleKind::AntiAffinity(scope) => (neighbours_at(inventory, indexed, demand, slot) > 0)
            .then(|| Rejection::AntiAffinity {
                rule,
                scope: *scope,
                guest: neighbour_name(state, demand, indexed, *scope, node),
            }),
    }
}

/// A guest of the rule that is here; planners try out placements of which the state knows nothing.
fn neighbour_name(
    state: &State,
    demand: &Demand<'_>,
    rule: &IndexedRule,
    scope: Scope,
    node: &Node,
) -> String {
    let is_other =
        |guest: &&Guest| guest.id != demand.guest && guest.meta.labels.matches(&rule.rule.guests);
    let here = state.guests_on(node.id).find(is_other);
    let domain = &node.failure_domain;
    let found = here.or_else(|| {
        let together = scope == Scope::FailureDomain && !domain.is_empty();
        let nodes = state.nodes().filter(|_| together);
        let nodes = nodes.filter(|other| other.failure_domain == *domain);
        nodes
            .flat_map(|node| state.guests_on(node.id))
            .find(is_other)
    });
    found.map_or_else(|| "that is planned".into(), |guest| guest.meta.name.clone())
}

const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Node => "node",
        Scope::FailureDomain => "failure domain",
    }
}

struct Thousandths(u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1000, self.0 % 1000) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, part) => write!(f, "{whole}.{part:03}"),
        }
    }
}

struct Selector<'a>(&'a Labels);

impl fmt::Display for Selector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}
