//! Small clusters, spelled out.

use godwit_proto::cluster::{
    Command, GuestCommand, NewGuest, NodeCommand, ObservedState, ResourceCommand, RuleKind,
    Strength,
};
use godwit_proto::id::{GuestId, NodeId, RuleId};

use crate::scheduler::{Explanation, Purpose, Scheduler, Verdict, explain};
use crate::workload::{Size, Workload};

/// A cluster of equal nodes: 16 GiB and 4 processors without overcommit of memory, all pools and
/// networks.
pub(super) struct World {
    pub(super) workload: Workload,
    scheduler: Scheduler,
    nodes: u8,
    guests: u8,
    rules: u8,
}

impl World {
    pub(super) fn new() -> Self {
        let size = Size {
            nodes: 0,
            guests: 0,
            services: 0,
        };
        Self {
            workload: Workload::new(size, 1),
            scheduler: Scheduler::new(),
            nodes: 0,
            guests: 0,
            rules: 0,
        }
    }

    pub(super) fn node(&mut self, name: &str, rack: &str, labels: &[(&str, &str)]) -> NodeId {
        self.nodes += 1;
        let id = NodeId::from_bytes([self.nodes; 16]);
        let mut report = self.workload.node(0);
        report.id = id;
        report.name = name.into();
        report.labels = labels.iter().copied().collect();
        report.failure_domain = rack.into();
        report.capacity.memory_bytes = 16 << 30;
        report.capacity.reserved_bytes = 0;
        report.capacity.cpus = 4;
        report.pools = self.workload.state.pools().map(|pool| pool.id).collect();
        report.networks = self.workload.state.networks().map(|net| net.id).collect();
        let join = NodeCommand::Join {
            report: Box::new(report),
            lower_baseline: true,
        };
        self.apply(Command::Node(join));
        self.apply(Command::Node(NodeCommand::GrantLease { node: id }));
        id
    }

    /// One of 1 GiB and 1 vCPU that asks for nothing else.
    pub(super) fn new_guest(&mut self, name: &str, labels: &[(&str, &str)]) -> NewGuest {
        self.guests += 1;
        let mut new = self.workload.guest();
        new.id = GuestId::from_bytes([self.guests; 16]);
        new.name = name.into();
        new.labels = labels.iter().copied().collect();
        new.template.vcpus = 1;
        new.template.memory_bytes = 1 << 30;
        new.template.cpu = godwit_proto::cluster::CpuChoice::Cluster;
        new.template.node_selector = godwit_proto::cluster::Labels::none();
        new.template.volumes.clear();
        new.template.networks.clear();
        new
    }

    /// Makes and starts a guest; where it went.
    pub(super) fn start(&mut self, new: NewGuest) -> Option<NodeId> {
        let id = new.id;
        self.apply(Command::Guest(GuestCommand::Create(Box::new(new))));
        self.workload.start(&mut self.scheduler, id)
    }

    /// Makes and starts a guest on a node.
    pub(super) fn start_on(&mut self, new: NewGuest, node: NodeId) -> GuestId {
        let guest = new.id;
        self.apply(Command::Guest(GuestCommand::Create(Box::new(new))));
        self.apply(Command::Guest(GuestCommand::Start {
            guest,
            node,
            expected: None,
        }));
        self.workload.report(guest, ObservedState::Running).unwrap();
        guest
    }

    pub(super) fn rule(&mut self, name: &str, service: &str, kind: RuleKind, strength: Strength) {
        self.rules += 1;
        self.apply(Command::Resource(ResourceCommand::CreateRule {
            id: RuleId::from_bytes([self.rules; 16]),
            name: name.into(),
            guests: [("service", service)].into_iter().collect(),
            kind,
            strength,
        }));
    }

    pub(super) fn explain_new(&self, new: &NewGuest) -> Explanation {
        let state = &self.workload.state;
        explain(
            state,
            state.inventory(),
            &state.preview(new),
            Purpose::Start,
        )
    }

    pub(super) fn explain_move(&self, guest: GuestId) -> Explanation {
        let state = &self.workload.state;
        let guest = state.guest(guest).unwrap();
        explain(state, state.inventory(), guest, Purpose::Move)
    }

    pub(super) fn apply(&mut self, command: Command) {
        self.workload.apply(command).unwrap();
    }
}

/// All that speaks against a node, as it is told.
pub(super) fn against(explanation: &Explanation, node: NodeId) -> Vec<String> {
    let mut nodes = explanation.nodes.iter();
    match &nodes.find(|verdict| verdict.node == node).unwrap().verdict {
        Verdict::Rejected(rejections) => rejections.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}
