//! What a guest needs of a node.

use godwit_proto::cluster::{CpuChoice, CpuLevel, Guest, Labels, PoolKind};
use godwit_proto::id::{BaselineId, GuestId, NetworkId, NodeId, PoolId, RuleId, VolumeId};

use super::host::Amount;
use super::inventory::Inventory;
use super::set::Slot;
use crate::state::State;

/// Why a guest is looked a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is started, here for the first time or elsewhere after its node was lost.
    Start,
    /// It moves while it runs: not to where it is, and not beyond the limits on migrations.
    Move,
}

/// What a guest needs of a node, gathered once so that each node is asked in a few instructions.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    pub(super) guest: GuestId,
    pub(super) purpose: Purpose,
    pub(super) amount: Amount,
    pub(super) cpu: CpuNeed,
    pub(super) selector: &'a Labels,
    pub(super) pools: Vec<PoolId>,
    /// A node that alone has one of its volumes.
    pub(super) bound: Option<(VolumeId, NodeId)>,
    pub(super) networks: Vec<NetworkId>,
    /// Rules that it is under, by id.
    pub(super) rules: Vec<RuleId>,
    /// Where rules count it already.
    pub(super) present: Vec<Slot>,
}

/// What a guest needs of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CpuNeed {
    /// Whatever there is.
    Anything,
    /// A level.
    Level(CpuLevel),
    /// All that it was promised.
    Baseline(BaselineId),
}

impl<'a> Demand<'a> {
    /// What `guest` needs. It need not be part of the state yet, nor be as it is there; where the
    /// state has it, it is not in its own way.
    ///
    /// A volume that is not part of the state needs nothing: a guest with one is refused before it
    /// becomes part of the state.
    #[must_use]
    pub fn new(state: &State, inventory: &Inventory, guest: &'a Guest, purpose: Purpose) -> Self {
        let template = &guest.template;
        let mut pools = Vec::new();
        let mut bound = None;
        for attachment in &template.volumes {
            let Some(volume) = state.volume(attachment.volume) else {
                continue;
            };
            let kind = state.pool(volume.pool).map(|pool| pool.kind);
            match volume.node.filter(|_| kind == Some(PoolKind::Local)) {
                Some(node) => bound = Some((volume.id, node)),
                None => pools.push(volume.pool),
            }
        }
        pools.sort_unstable();
        pools.dedup();
        let mut networks: Vec<_> = template.networks.iter().map(|net| net.network).collect();
        networks.sort_unstable();
        networks.dedup();
        let cpu = match (guest.baseline, template.cpu) {
            (Some(baseline), _) => CpuNeed::Baseline(baseline),
            (None, CpuChoice::Level(level)) => CpuNeed::Level(level),
            (None, CpuChoice::Cluster | CpuChoice::Host) => CpuNeed::Anything,
        };
        let counted = state.guest(guest.id);
        let hosts = counted
            .into_iter()
            .flat_map(|guest| guest.ownership.hosts());
        Self {
            guest: guest.id,
            purpose,
            amount: Amount::of_guest(template),
            cpu,
            selector: &template.node_selector,
            pools,
            bound,
            networks,
            rules: inventory.rules.of_guest(&guest.meta.labels),
            present: hosts.filter_map(|node| inventory.slot(node)).collect(),
        }
    }
}
