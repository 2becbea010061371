//! Commands about members.

use godwit_proto::cluster::{
    CpuBaseline, CpuFeatures, EventKind, Lease, LeaseState, Meta, Node, NodeCommand, NodeReport,
    NodeState, ObjectRef, ObservedState, Operation, OperationKind, OperationState, Owner,
    Scheduling, Window, limits,
};
use godwit_proto::id::{BaselineId, Incarnation, NodeId, OperationId, Revision};

use super::{Context, Refusal, State, check};

impl State {
    pub(super) fn apply_node(
        &mut self,
        context: &Context<'_>,
        command: &NodeCommand,
    ) -> Result<ObjectRef, Refusal> {
        match command {
            NodeCommand::Join {
                report,
                lower_baseline,
            } => self.join(context, report, *lower_baseline),
            NodeCommand::GrantLease { node } => self.grant_lease(context, *node),
            NodeCommand::LapseLease {
                node,
                incarnation,
                reign,
            } => self.lapse_lease(context, *node, *incarnation, *reign),
            NodeCommand::SetLabels {
                node,
                labels,
                expected,
            } => {
                let mut node = self.nodes.want_at(*node, *expected)?.clone();
                check::labels("labels", labels)?;
                node.meta.labels = labels.clone();
                node.meta.generation = node.meta.generation.next();
                Ok(self.update_node(context, node, "has other labels"))
            }
            NodeCommand::Cordon { node, reason } => self.cordon(context, *node, reason),
            NodeCommand::Uncordon { node } => self.uncordon(context, *node),
            NodeCommand::Drain { node, operation } => self.drain(context, *node, *operation),
            NodeCommand::Remove { node, force } => self.remove_node(context, *node, *force),
        }
    }

    fn join(
        &mut self,
        context: &Context<'_>,
        report: &NodeReport,
        lower_baseline: bool,
    ) -> Result<ObjectRef, Refusal> {
        self.check_report(report)?;
        let known = self.nodes.find(report.id).cloned();
        match &known {
            None => self.nodes.check_new(report.id, &report.name)?,
            Some(node) if node.certificate != report.certificate => {
                return Err(Refusal::OtherCertificate {
                    name: node.meta.name.clone(),
                });
            }
            Some(node) if node.meta.name != report.name => {
                return Err(Refusal::invalid(
                    "name",
                    format!("of node {} cannot change", node.meta.name),
                ));
            }
            Some(_) => {}
        }
        let baseline = self.baseline_with(report, lower_baseline)?;
        let baseline = match baseline {
            None => None,
            Some(features) => Some(self.intern(context, &features)?),
        };

        let is_new = known.is_none();
        let mut node = known.unwrap_or_else(|| Node {
            id: report.id,
            meta: Meta {
                name: report.name.clone(),
                labels: report.labels.clone(),
                created: context.now,
                ..Meta::default()
            },
            address: String::new(),
            certificate: report.certificate,
            capacity: report.capacity,
            cpu: report.cpu.clone(),
            failure_domain: String::new(),
            pools: Vec::new(),
            networks: Vec::new(),
            state: NodeState::Joining,
            scheduling: Scheduling::Enabled,
        });
        node.meta.generation = node.meta.generation.next();
        node.address.clone_from(&report.address);
        node.capacity = report.capacity;
        node.cpu = report.cpu.clone();
        node.failure_domain.clone_from(&report.failure_domain);
        node.pools.clone_from(&report.pools);
        node.networks.clone_from(&report.networks);
        if is_new {
            let lease = Lease {
                node: node.id,
                meta: Meta {
                    name: node.meta.name.clone(),
                    created: context.now,
                    ..Meta::default()
                },
                profile: self.settings.lease,
                incarnation: Incarnation::new(0),
                state: LeaseState::Lapsed,
            };
            self.put_lease(context, lease);
        }
        if let Some(baseline) = baseline.filter(|id| self.settings.baseline != Some(*id)) {
            self.settings.baseline = Some(baseline);
            self.settings.meta.revision = context.revision;
            self.changed(context, ObjectRef::Settings);
        }
        let object = ObjectRef::Node(node.id);
        let (kind, what) = match is_new {
            true => (EventKind::Created, "joined"),
            false => (EventKind::Updated, "told anew what it has"),
        };
        let message = format!("node {} {what}", node.meta.name);
        self.put_node(context, node);
        self.happened(context, object, kind, message);
        Ok(object)
    }

    fn check_report(&self, report: &NodeReport) -> Result<(), Refusal> {
        check::name("node name", &report.name)?;
        check::labels("labels", &report.labels)?;
        check::filled("address", &report.address)?;
        check::text("failure domain", &report.failure_domain)?;
        check::capacity(&report.capacity)?;
        check::cpu(&report.cpu.features)?;
        for (index, pool) in report.pools.iter().enumerate() {
            self.pools.want(*pool)?;
            if report.pools[..index].contains(pool) {
                return Err(Refusal::invalid("pools", "name one twice"));
            }
        }
        for (index, network) in report.networks.iter().enumerate() {
            self.networks.want(*network)?;
            if report.networks[..index].contains(network) {
                return Err(Refusal::invalid("networks", "name one twice"));
            }
        }
        Ok(())
    }

    /// What new guests are promised once the node is a member.
    fn baseline_with(
        &self,
        report: &NodeReport,
        lower: bool,
    ) -> Result<Option<CpuFeatures>, Refusal> {
        let theirs = &report.cpu.features;
        let current = self.settings.baseline.and_then(|id| self.baseline(id));
        let Some(CpuBaseline {
            features: current, ..
        }) = current
        else {
            return Ok(Some(theirs.clone()));
        };
        let missing = current.missing_in(theirs);
        if missing.is_empty() {
            return Ok(None);
        }
        let common = current.common(theirs);
        match common.filter(|_| lower) {
            Some(common) => Ok(Some(common)),
            None => Err(Refusal::BelowBaseline {
                name: report.name.clone(),
                missing,
                can_lower: current.common(theirs).is_some(),
            }),
        }
    }

    /// The id of a set of features. When there are many, those that nobody was promised any more are
    /// forgotten.
    pub(super) fn intern(
        &mut self,
        context: &Context<'_>,
        features: &CpuFeatures,
    ) -> Result<BaselineId, Refusal> {
        let same = |baseline: &&CpuBaseline| baseline.features == *features;
        if let Some(known) = self.baselines.values().find(same) {
            return Ok(known.id);
        }
        if self.baselines.len() >= limits::MAX_BASELINES {
            let used = self.guests.iter().filter_map(|guest| guest.baseline);
            let used: std::collections::BTreeSet<_> = used.chain(self.settings.baseline).collect();
            let unused = self.baselines.keys().copied();
            let unused: Vec<_> = unused.filter(|id| !used.contains(id)).collect();
            if unused.is_empty() {
                return Err(Refusal::Limit {
                    what: "CPU baselines",
                    max: limits::MAX_BASELINES,
                });
            }
            for id in unused {
                self.baselines.remove(&id);
                self.index.inventory.remove_baseline(id);
                self.deleted(context, ObjectRef::Baseline(id));
            }
        }
        let id = self.last_baseline.next();
        self.last_baseline = id;
        let baseline = CpuBaseline {
            id,
            features: features.clone(),
        };
        let inventory = &mut self.index.inventory;
        inventory.add_baseline(&baseline, self.nodes.iter());
        self.baselines.insert(id, baseline);
        self.changed(context, ObjectRef::Baseline(id));
        Ok(id)
    }

    fn grant_lease(&mut self, context: &Context<'_>, id: NodeId) -> Result<ObjectRef, Refusal> {
        let mut node = self.nodes.want(id)?.clone();
        let mut lease = self.want_lease(id)?.clone();
        if lease.state == LeaseState::Held {
            return Err(Refusal::LeaseState {
                name: node.meta.name,
                found: "is held already",
            });
        }
        lease.state = LeaseState::Held;
        lease.incarnation = lease.incarnation.next();
        lease.profile = self.settings.lease;
        self.put_lease(context, lease);
        node.state = NodeState::Ready;
        let message = format!("node {} holds a lease", node.meta.name);
        self.put_node(context, node);
        self.happened(context, ObjectRef::Node(id), EventKind::NodeReady, message);
        Ok(ObjectRef::Lease(id))
    }

    fn lapse_lease(
        &mut self,
        context: &Context<'_>,
        id: NodeId,
        incarnation: Incarnation,
        reign: Revision,
    ) -> Result<ObjectRef, Refusal> {
        if reign != self.reign() {
            return Err(Refusal::Deposed {
                reign,
                current: self.reign(),
            });
        }
        let mut node = self.nodes.want(id)?.clone();
        let mut lease = self.want_lease(id)?.clone();
        let found = match lease.state {
            LeaseState::Lapsed => Some("has lapsed already"),
            LeaseState::Held if lease.incarnation != incarnation => Some("is another one by now"),
            LeaseState::Held => None,
        };
        if let Some(found) = found {
            let name = node.meta.name;
            return Err(Refusal::LeaseState { name, found });
        }
        lease.state = LeaseState::Lapsed;
        self.put_lease(context, lease);
        node.state = NodeState::Lost;
        let message = format!("the lease of node {} has lapsed", node.meta.name);
        self.put_node(context, node);
        let owned = self.guests_on(id);
        let owned = owned.filter(|guest| guest.ownership.runners().any(|(node, _)| node == id));
        let guests: Vec<_> = owned.cloned().collect();
        for mut guest in guests {
            guest.observed.state = ObservedState::Unknown;
            guest.observed.at = context.now;
            self.put_guest(context, guest);
        }
        self.happened(context, ObjectRef::Node(id), EventKind::NodeLost, message);
        Ok(ObjectRef::Lease(id))
    }

    fn want_lease(&self, id: NodeId) -> Result<&Lease, Refusal> {
        self.leases.get(&id).ok_or(Refusal::NotFound {
            object: ObjectRef::Lease(id),
        })
    }

    fn put_lease(&mut self, context: &Context<'_>, mut lease: Lease) {
        lease.meta.revision = context.revision;
        self.index.tell(lease.node, context.revision);
        self.changed(context, ObjectRef::Lease(lease.node));
        self.leases.insert(lease.node, lease);
    }

    fn update_node(&mut self, context: &Context<'_>, node: Node, what: &str) -> ObjectRef {
        let object = ObjectRef::Node(node.id);
        let message = format!("node {} {what}", node.meta.name);
        self.put_node(context, node);
        self.happened(context, object, EventKind::Updated, message);
        object
    }

    fn cordon(
        &mut self,
        context: &Context<'_>,
        id: NodeId,
        reason: &str,
    ) -> Result<ObjectRef, Refusal> {
        let mut node = self.nodes.want(id)?.clone();
        check::text("reason", reason)?;
        if let Scheduling::Draining { operation } = node.scheduling {
            return Err(Refusal::InUse {
                object: ObjectRef::Node(id),
                user: ObjectRef::Operation(operation).to_string(),
            });
        }
        node.scheduling = Scheduling::Cordoned {
            reason: reason.into(),
        };
        node.meta.generation = node.meta.generation.next();
        Ok(self.update_node(context, node, "is cordoned"))
    }

    fn uncordon(&mut self, context: &Context<'_>, id: NodeId) -> Result<ObjectRef, Refusal> {
        let mut node = self.nodes.want(id)?.clone();
        if let Scheduling::Draining { operation } = node.scheduling {
            self.end_operation(
                context,
                operation,
                OperationState::Aborted {
                    at: context.now,
                    reason: "the node was uncordoned".into(),
                },
            );
        }
        node.scheduling = Scheduling::Enabled;
        node.meta.generation = node.meta.generation.next();
        Ok(self.update_node(context, node, "takes guests again"))
    }

    fn drain(
        &mut self,
        context: &Context<'_>,
        id: NodeId,
        operation: OperationId,
    ) -> Result<ObjectRef, Refusal> {
        let mut node = self.nodes.want(id)?.clone();
        if let Scheduling::Draining { operation } = node.scheduling {
            return Err(Refusal::InUse {
                object: ObjectRef::Node(id),
                user: ObjectRef::Operation(operation).to_string(),
            });
        }
        let object = ObjectRef::Operation(operation);
        if self.operations.contains_key(&operation) {
            return Err(Refusal::Exists { object });
        }
        if self.running_operations() >= limits::MAX_RUNNING_OPERATIONS {
            return Err(Refusal::Limit {
                what: "operations under way",
                max: limits::MAX_RUNNING_OPERATIONS,
            });
        }
        let name = format!("drain-{}", node.meta.name);
        let message = format!("node {} is being emptied", node.meta.name);
        node.scheduling = Scheduling::Draining { operation };
        node.meta.generation = node.meta.generation.next();
        self.put_node(context, node);
        let drain = Operation {
            id: operation,
            meta: Meta {
                name,
                created: context.now,
                ..Meta::default()
            },
            kind: OperationKind::Drain { node: id },
            state: OperationState::Running,
            blockers: Vec::new(),
        };
        self.put_operation(context, drain);
        self.happened(context, object, EventKind::Operation, message);
        self.end_drains(context, &[id]);
        Ok(object)
    }

    /// Ends the drain of a node without guests, if there is one.
    pub(super) fn end_drain_of_empty(&mut self, context: &Context<'_>, id: NodeId) {
        let Some(mut node) = self.nodes.find(id).cloned() else {
            return;
        };
        let Scheduling::Draining { operation } = node.scheduling else {
            return;
        };
        node.scheduling = Scheduling::Cordoned {
            reason: "drained".into(),
        };
        node.meta.generation = node.meta.generation.next();
        self.put_node(context, node);
        self.end_operation(context, operation, OperationState::Done { at: context.now });
    }

    fn remove_node(
        &mut self,
        context: &Context<'_>,
        id: NodeId,
        force: bool,
    ) -> Result<ObjectRef, Refusal> {
        let mut node = self.nodes.want(id)?.clone();
        let object = ObjectRef::Node(id);
        let residents: Vec<_> = self.guests_on(id).cloned().collect();
        if let (Some(guest), false) = (residents.first(), force) {
            return Err(Refusal::InUse {
                object,
                user: format!("guest {}", guest.meta.name),
            });
        }
        if !residents.is_empty() && node.state == NodeState::Ready {
            return Err(Refusal::NodeState {
                name: node.meta.name,
                state: node.state,
                fix: "drain it, or stop it and wait for its lease to lapse",
            });
        }
        for guest in &residents {
            // The target may run it already: only the target can tell, or its lease.
            if let Owner::Moving(handoff) = guest.ownership.owner
                && handoff.source == id
                && handoff.window == Window::Open
            {
                return Err(Refusal::InUse {
                    object,
                    user: format!("migration {}", handoff.migration),
                });
            }
        }
        if !force && let Some(volume) = self.volumes.iter().find(|v| v.node == Some(id)) {
            return Err(Refusal::InUse {
                object,
                user: format!("volume {}", volume.meta.name),
            });
        }
        if let Scheduling::Draining { operation } = node.scheduling {
            let reason = "the node was removed".into();
            let state = OperationState::Aborted {
                at: context.now,
                reason,
            };
            self.end_operation(context, operation, state);
            node.scheduling = Scheduling::Enabled;
            self.put_node(context, node.clone());
        }
        for guest in residents {
            self.release_from_removed(context, guest, id);
        }
        self.leases.remove(&id);
        self.deleted(context, ObjectRef::Lease(id));
        self.nodes.remove(id);
        self.index.inventory.remove_node(id);
        self.index.told.remove(&id);
        self.deleted(context, object);
        let message = format!("node {} was removed", node.meta.name);
        self.happened(context, object, EventKind::Deleted, message);
        Ok(object)
    }
}
