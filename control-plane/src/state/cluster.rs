//! Commands about the cluster as a whole.

use godwit_proto::cluster::{
    Blocker, ClusterCommand, Desired, EventKind, ObjectRef, Operation, OperationKind,
    OperationState, Reign, Scheduling, Settings, limits,
};
use godwit_proto::id::{NodeId, OperationId, Revision};

use super::migration::check_error;
use super::{Context, Refusal, State, check};

impl State {
    pub(super) fn apply_cluster(
        &mut self,
        context: &Context<'_>,
        command: &ClusterCommand,
    ) -> Result<ObjectRef, Refusal> {
        match command {
            ClusterCommand::Configure { settings, expected } => {
                self.configure(context, settings, *expected)
            }
            ClusterCommand::RaiseBaseline => self.raise_baseline(context),
            ClusterCommand::PauseOperation { operation } => {
                self.set_operation(context, *operation, OperationState::Paused)
            }
            ClusterCommand::ResumeOperation { operation } => {
                self.set_operation(context, *operation, OperationState::Running)
            }
            ClusterCommand::AbortOperation { operation, reason } => {
                self.abort_operation(context, *operation, reason)
            }
            ClusterCommand::ReportBlockers {
                operation,
                blockers,
            } => self.report_blockers(context, *operation, blockers),
            ClusterCommand::Lead { node } => Ok(self.lead(context, *node)),
        }
    }

    fn lead(&mut self, context: &Context<'_>, node: NodeId) -> ObjectRef {
        self.reign = Some(Reign {
            node,
            since: context.revision,
        });
        let object = ObjectRef::Node(node);
        let name = self.nodes.find(node).map(|node| node.meta.name.clone());
        // The first leader leads before it is a member.
        let name = name.unwrap_or_else(|| node.to_string());
        let message = format!("node {name} leads the cluster");
        self.happened(context, object, EventKind::Elected, message);
        object
    }

    fn configure(
        &mut self,
        context: &Context<'_>,
        desired: &Desired,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let object = ObjectRef::Settings;
        let found = self.settings.meta.revision;
        if let Some(expected) = expected.filter(|expected| *expected < found) {
            return Err(Refusal::Conflict {
                object,
                expected,
                found,
            });
        }
        let mut meta = self.settings.meta.clone();
        meta.name.clone_from(&desired.name);
        meta.revision = context.revision;
        meta.generation = meta.generation.next();
        let settings = Settings {
            meta,
            overcommit: desired.overcommit,
            strategy: desired.strategy,
            migrations_per_node: desired.migrations_per_node,
            migrations_per_cluster: desired.migrations_per_cluster,
            lease: desired.lease,
            baseline: self.settings.baseline,
        };
        check::settings(&settings)?;
        self.index.inventory.configure(&settings, self.nodes.iter());
        self.settings = settings;
        self.changed(context, object);
        let message = "the cluster's settings were changed".into();
        self.happened(context, object, EventKind::Updated, message);
        Ok(object)
    }

    fn raise_baseline(&mut self, context: &Context<'_>) -> Result<ObjectRef, Refusal> {
        let features: Vec<_> = self.nodes.iter().map(|node| &node.cpu.features).collect();
        let Some((first, rest)) = features.split_first() else {
            return Err(Refusal::invalid(
                "CPU baseline",
                "is that of the members: there is none",
            ));
        };
        // Members of several vendors were refused when they joined.
        let common = rest
            .iter()
            .try_fold((*first).clone(), |common, theirs| common.common(theirs));
        let Some(common) = common else {
            return Err(Refusal::invalid(
                "CPU baseline",
                "is not common to several vendors",
            ));
        };
        let id = self.intern(context, &common)?;
        self.settings.baseline = Some(id);
        self.settings.meta.revision = context.revision;
        self.changed(context, ObjectRef::Settings);
        let message = "new guests are promised what the members have in common now".into();
        self.happened(context, ObjectRef::Settings, EventKind::Updated, message);
        Ok(ObjectRef::Settings)
    }

    fn want_operation(&self, id: OperationId) -> Result<&Operation, Refusal> {
        let object = ObjectRef::Operation(id);
        match self.operations.get(&id) {
            None => Err(Refusal::NotFound { object }),
            Some(operation) if operation.state.is_finished() => Err(Refusal::OperationEnded),
            Some(operation) => Ok(operation),
        }
    }

    fn set_operation(
        &mut self,
        context: &Context<'_>,
        id: OperationId,
        state: OperationState,
    ) -> Result<ObjectRef, Refusal> {
        let mut operation = self.want_operation(id)?.clone();
        let verb = match state {
            OperationState::Paused => "is paused",
            _ => "goes on",
        };
        operation.state = state;
        operation.meta.generation = operation.meta.generation.next();
        let message = format!("{} {verb}", operation.meta.name);
        self.put_operation(context, operation);
        let object = ObjectRef::Operation(id);
        self.happened(context, object, EventKind::Operation, message);
        Ok(object)
    }

    fn abort_operation(
        &mut self,
        context: &Context<'_>,
        id: OperationId,
        reason: &str,
    ) -> Result<ObjectRef, Refusal> {
        check::text("reason", reason)?;
        let OperationKind::Drain { node } = self.want_operation(id)?.kind;
        let state = OperationState::Aborted {
            at: context.now,
            reason: reason.into(),
        };
        self.end_operation(context, id, state);
        if let Some(mut node) = self.nodes.find(node).cloned() {
            node.scheduling = Scheduling::Cordoned {
                reason: "its drain was aborted".into(),
            };
            node.meta.generation = node.meta.generation.next();
            self.put_node(context, node);
        }
        Ok(ObjectRef::Operation(id))
    }

    /// Ends an operation that has not ended.
    pub(super) fn end_operation(
        &mut self,
        context: &Context<'_>,
        id: OperationId,
        state: OperationState,
    ) {
        let Ok(operation) = self.want_operation(id) else {
            return;
        };
        let mut operation = operation.clone();
        let verb = match &state {
            OperationState::Aborted { .. } => "was aborted",
            _ => "is done",
        };
        operation.state = state;
        operation.blockers = Vec::new();
        let message = format!("{} {verb}", operation.meta.name);
        self.put_operation(context, operation);
        let object = ObjectRef::Operation(id);
        self.happened(context, object, EventKind::Operation, message);
    }

    fn report_blockers(
        &mut self,
        context: &Context<'_>,
        id: OperationId,
        blockers: &[Blocker],
    ) -> Result<ObjectRef, Refusal> {
        let mut operation = self.want_operation(id)?.clone();
        if blockers.len() > limits::MAX_BLOCKERS {
            let max = limits::MAX_BLOCKERS;
            return Err(Refusal::invalid(
                "blockers",
                format!("must be at most {max}"),
            ));
        }
        for blocker in blockers {
            self.guests.want(blocker.guest)?;
            check_error(&blocker.error)?;
        }
        operation.blockers = blockers.to_vec();
        self.put_operation(context, operation);
        Ok(ObjectRef::Operation(id))
    }
}
