//! Commands about guests.

use godwit_proto::cluster::{
    CpuChoice, EventKind, FailoverPolicy, Guest, GuestCommand, GuestReport, GuestTemplate, Labels,
    Meta, NewGuest, ObjectRef, Observed, ObservedState, Owner, Ownership, RunIntent, Window,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{Generation, GuestId, NodeId, Revision};

use super::ownership::as_restarted;
use super::{Context, Refusal, State, check};
use crate::scheduler::Purpose;

impl State {
    /// The guest that a request would make, to ask the scheduler about it before it is made.
    #[must_use]
    pub fn preview(&self, new: &NewGuest) -> Guest {
        Guest {
            id: new.id,
            meta: Meta {
                name: new.name.clone(),
                labels: new.labels.clone(),
                generation: Generation::new(1),
                ..Meta::default()
            },
            template: new.template.clone(),
            failover: new.failover,
            leased_from: Generation::new(1),
            intent: RunIntent::Stopped,
            baseline: self.promised(new.template.cpu),
            ownership: Ownership::NEW,
            observed: Observed {
                state: ObservedState::Stopped,
                generation: Generation::new(0),
                at: self.now,
                dirty_pages_per_second: None,
            },
        }
    }

    /// What a guest that is made now is promised before it is first started.
    fn promised(&self, cpu: CpuChoice) -> Option<godwit_proto::id::BaselineId> {
        self.settings.baseline.filter(|_| cpu == CpuChoice::Cluster)
    }

    pub(super) fn apply_guest(
        &mut self,
        context: &Context<'_>,
        command: &GuestCommand,
    ) -> Result<ObjectRef, Refusal> {
        match command {
            GuestCommand::Create(new) => self.create_guest(context, new),
            GuestCommand::Update {
                guest,
                template,
                expected,
            } => self.update_guest(context, *guest, template, *expected),
            GuestCommand::SetPolicy {
                guest,
                labels,
                failover,
                expected,
            } => self.set_policy(context, *guest, labels, *failover, *expected),
            GuestCommand::Start {
                guest,
                node,
                expected,
            } => self.start(context, *guest, *node, *expected),
            GuestCommand::Stop { guest, expected } => self.stop(context, *guest, *expected),
            GuestCommand::Report(report) => self.report(context, report),
            GuestCommand::FailOver { guest, node } => self.fail_over(context, *guest, *node),
            GuestCommand::Delete { guest, expected } => {
                self.delete_guest(context, *guest, *expected)
            }
        }
    }

    fn create_guest(
        &mut self,
        context: &Context<'_>,
        new: &NewGuest,
    ) -> Result<ObjectRef, Refusal> {
        check::name("guest name", &new.name)?;
        check::labels("labels", &new.labels)?;
        self.guests.check_new(new.id, &new.name)?;
        self.check_template(new.id, &new.template, new.failover)?;
        let mut guest = self.preview(new);
        guest.meta.created = context.now;
        guest.observed.at = context.now;
        self.attach(context, &guest);
        self.put_guest(context, guest);
        let object = ObjectRef::Guest(new.id);
        let message = format!("guest {} was made", new.name);
        self.happened(context, object, EventKind::Created, message);
        Ok(object)
    }

    /// What a template says, against what there is.
    fn check_template(
        &self,
        guest: GuestId,
        template: &GuestTemplate,
        failover: FailoverPolicy,
    ) -> Result<(), Refusal> {
        check::template(template)?;
        let mut home: Option<NodeId> = None;
        for (index, attachment) in template.volumes.iter().enumerate() {
            let volume = self.volumes.want(attachment.volume)?;
            let name = &volume.meta.name;
            let earlier = &template.volumes[..index];
            if earlier.iter().any(|other| other.volume == volume.id) {
                return Err(Refusal::invalid("volumes", format!("name {name} twice")));
            }
            if let Some(holder) = volume.attached.filter(|holder| *holder != guest) {
                return Err(Refusal::InUse {
                    object: ObjectRef::Volume(volume.id),
                    user: ObjectRef::Guest(holder).to_string(),
                });
            }
            let Some(node) = volume.node else {
                continue;
            };
            if home.is_some_and(|home| home != node) {
                return Err(Refusal::invalid(
                    "volumes",
                    format!("must be reachable from one node: {name} is on the disks of another"),
                ));
            }
            home = Some(node);
            if failover != FailoverPolicy::Never {
                return Err(Refusal::invalid(
                    "failover",
                    format!(
                        "is not possible with volume {name}, which is on the disks of one node; \
                         use a shared pool, or no failover"
                    ),
                ));
            }
        }
        for attachment in &template.networks {
            self.networks.want(attachment.network)?;
        }
        Ok(())
    }

    fn attach(&mut self, context: &Context<'_>, guest: &Guest) {
        for attachment in &guest.template.volumes {
            self.set_attached(context, attachment.volume, Some(guest.id));
        }
    }

    fn detach(&mut self, context: &Context<'_>, guest: &Guest) {
        for attachment in &guest.template.volumes {
            self.set_attached(context, attachment.volume, None);
        }
    }

    /// The guest, if nobody may run it.
    fn want_stopped(
        &self,
        id: GuestId,
        expected: Option<Revision>,
        fix: &'static str,
    ) -> Result<Guest, Refusal> {
        let guest = self.guests.want_at(id, expected)?;
        match guest.ownership.hosts().next() {
            None => Ok(guest.clone()),
            Some(node) => {
                let node = self.nodes.find(node);
                let node = node.map_or("a node that is gone", |node| &node.meta.name);
                Err(Refusal::GuestState {
                    name: guest.meta.name.clone(),
                    found: format!("belongs to node {node}"),
                    fix,
                })
            }
        }
    }

    fn update_guest(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        template: &GuestTemplate,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let mut guest = self.want_stopped(id, expected, "stop it first")?;
        check_gone(&guest)?;
        self.check_template(id, template, guest.failover)?;
        self.detach(context, &guest);
        guest.template = template.clone();
        guest.baseline = self.promised(template.cpu);
        guest.meta.generation = guest.meta.generation.next();
        self.attach(context, &guest);
        let message = format!("guest {} is made of something else", guest.meta.name);
        self.put_guest(context, guest);
        let object = ObjectRef::Guest(id);
        self.happened(context, object, EventKind::Updated, message);
        Ok(object)
    }

    fn set_policy(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        labels: &Labels,
        failover: FailoverPolicy,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let mut guest = self.guests.want_at(id, expected)?.clone();
        check::labels("labels", labels)?;
        self.check_template(id, &guest.template, failover)?;
        let needed = guest.failover != FailoverPolicy::Never;
        let needs = failover != FailoverPolicy::Never;
        if needed != needs && matches!(guest.ownership.owner, Owner::Moving(_)) {
            // The target would not know.
            return Err(Refusal::GuestState {
                name: guest.meta.name,
                found: "is being moved".into(),
                fix: "wait for the migration to end",
            });
        }
        guest.meta.generation = guest.meta.generation.next();
        if needs && !needed {
            guest.leased_from = guest.meta.generation;
        }
        guest.meta.labels = labels.clone();
        guest.failover = failover;
        let message = format!(
            "guest {} has other labels or another policy",
            guest.meta.name
        );
        self.put_guest(context, guest);
        let object = ObjectRef::Guest(id);
        self.happened(context, object, EventKind::Updated, message);
        Ok(object)
    }

    fn start(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        node: NodeId,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let mut guest = self.want_stopped(id, expected, "it is started already")?;
        self.check_fits(&guest, node, Purpose::Start)?;
        if guest.intent == RunIntent::Stopped {
            guest.meta.generation = guest.meta.generation.next();
        }
        let message = format!(
            "guest {} is started on {}",
            guest.meta.name,
            self.name_of(node)
        );
        self.give(context, guest, node)?;
        let object = ObjectRef::Guest(id);
        self.happened(context, object, EventKind::Started, message);
        Ok(object)
    }

    fn stop(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let mut guest = self.guests.want_at(id, expected)?.clone();
        let object = ObjectRef::Guest(id);
        if guest.intent == RunIntent::Stopped {
            return Err(Refusal::GuestState {
                name: guest.meta.name,
                found: "is stopped, or being stopped".into(),
                fix: "",
            });
        }
        guest.intent = RunIntent::Stopped;
        guest.meta.generation = guest.meta.generation.next();
        let message = format!("guest {} is to be stopped", guest.meta.name);
        self.put_guest(context, guest);
        self.happened(context, object, EventKind::Updated, message);
        Ok(object)
    }

    fn report(
        &mut self,
        context: &Context<'_>,
        report: &GuestReport,
    ) -> Result<ObjectRef, Refusal> {
        let mut guest = self.guests.want(report.guest)?.clone();
        let owns = |runner| runner == (report.node, report.epoch);
        if !guest.ownership.runners().any(owns) {
            return Err(Refusal::StaleEpoch {
                name: guest.meta.name,
                current: guest.ownership.highest,
                found: report.epoch,
            });
        }
        if report.generation > guest.meta.generation {
            return Err(Refusal::invalid("generation", "was never asked for"));
        }
        let object = ObjectRef::Guest(guest.id);
        guest.observed.generation = guest.observed.generation.max(report.generation);
        match &report.state {
            ObservedState::Starting | ObservedState::Unknown => Err(Refusal::invalid(
                "state",
                "is nothing that an owner can see",
            )),
            ObservedState::Running | ObservedState::Paused => {
                // Who runs it holds every lease that it needs.
                guest.ownership.lingers &= report.state != ObservedState::Running;
                guest.observed.state = report.state.clone();
                guest.observed.at = context.now;
                guest.observed.dirty_pages_per_second = report.dirty_pages_per_second;
                self.put_guest(context, guest);
                Ok(object)
            }
            ObservedState::Stopped => {
                // Whether it was told to, or powered itself off: it stays off.
                guest.intent = RunIntent::Stopped;
                let message = format!("guest {} has stopped", guest.meta.name);
                self.ended(context, &guest, report, EventKind::Stopped, message)?;
                Ok(object)
            }
            ObservedState::Failed(error) => {
                let message = format!("guest {} failed: {error}", guest.meta.name);
                self.ended(context, &guest, report, EventKind::Failed, message)?;
                Ok(object)
            }
        }
    }

    fn ended(
        &mut self,
        context: &Context<'_>,
        guest: &Guest,
        report: &GuestReport,
        kind: EventKind,
        message: String,
    ) -> Result<(), Refusal> {
        let object = ObjectRef::Guest(guest.id);
        if let Owner::Moving(handoff) = guest.ownership.owner {
            if handoff.window == Window::Open {
                return Err(Refusal::GuestState {
                    name: guest.meta.name.clone(),
                    found: "may be handed over at any moment".into(),
                    fix: "complete or abort the migration first",
                });
            }
            let error = CodedError::new(ErrorCode::WrongState, "the guest ended");
            self.abort_migration(context, handoff.migration, error);
        }
        self.release(context, guest, report.state.clone());
        self.happened(context, object, kind, message);
        Ok(())
    }

    fn fail_over(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        node: NodeId,
    ) -> Result<ObjectRef, Refusal> {
        let guest = self.guests.want(id)?;
        self.check_fail_over(guest)?;
        let mut restarted = as_restarted(guest);
        restarted.ownership.lingers |= self.has_disk_lease(guest);
        let owner = guest.ownership.owner;
        self.check_fits(&restarted, node, Purpose::Start)?;
        let message = format!(
            "guest {} was taken from a lost node and is started on {}",
            restarted.meta.name,
            self.name_of(node)
        );
        self.give(context, restarted, node)?;
        if let Owner::Moving(handoff) = owner {
            let error = CodedError::new(ErrorCode::NodeNotReady, "its node was lost");
            self.abort_migration(context, handoff.migration, error);
        }
        let object = ObjectRef::Guest(id);
        self.happened(context, object, EventKind::FailedOver, message);
        Ok(object)
    }

    fn delete_guest(
        &mut self,
        context: &Context<'_>,
        id: GuestId,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let guest = self.want_stopped(id, expected, "stop it first")?;
        check_gone(&guest)?;
        self.detach(context, &guest);
        self.remove_guest(context, id);
        let object = ObjectRef::Guest(id);
        let message = format!("guest {} was deleted", guest.meta.name);
        self.happened(context, object, EventKind::Deleted, message);
        Ok(object)
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        let node = self.nodes.find(node);
        node.map_or_else(String::new, |node| format!("node {}", node.meta.name))
    }
}

/// Refuses to let go of the disks of a guest that may still run where it was taken from.
fn check_gone(guest: &Guest) -> Result<(), Refusal> {
    match guest.ownership.lingers {
        false => Ok(()),
        true => Err(Refusal::GuestState {
            name: guest.meta.name.clone(),
            found: "may still run on the lost node that it was taken from".into(),
            fix: "start it: it runs when that one has let go of its disk",
        }),
    }
}
