//! How the owner of a guest changes. The diagram is in
//! [`Ownership`](godwit_proto::cluster::Ownership)'s module; every arrow is a function here or a
//! command in `guest` and `migration` that calls one.

use godwit_proto::cluster::{
    CpuChoice, EventKind, FailoverPolicy, Guest, Handoff, MigrationPhase, NodeState, ObjectRef,
    Observed, ObservedState, Owner, Ownership, PoolKind, RunIntent, Window,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{MigrationId, NodeId};

use super::{Context, Refusal, State};
use crate::scheduler::{Demand, Purpose, check};

/// A guest as it is when it is booted anew: nobody runs it, and a guest that sees all of its node's
/// processor may be given another one.
#[must_use]
pub(crate) fn as_restarted(guest: &Guest) -> Guest {
    let mut guest = guest.clone();
    guest.ownership.owner = Owner::Nobody;
    guest.ownership.revives = None;
    if guest.template.cpu == CpuChoice::Host {
        guest.baseline = None;
    }
    guest
}

impl State {
    /// Checks once more what the scheduler chose.
    pub(super) fn check_fits(
        &self,
        guest: &Guest,
        node: NodeId,
        purpose: Purpose,
    ) -> Result<(), Refusal> {
        let node = self.nodes.want(node)?;
        let demand = Demand::new(self, self.inventory(), guest, purpose);
        let rejections = check(self, self.inventory(), &demand, node);
        match rejections.is_empty() {
            true => Ok(()),
            false => Err(Refusal::DoesNotFit {
                guest: guest.meta.name.clone(),
                node: node.meta.name.clone(),
                rejections,
            }),
        }
    }

    /// Gives a guest that nobody runs to a node, under a fresh epoch.
    pub(super) fn give(
        &mut self,
        context: &Context<'_>,
        mut guest: Guest,
        node: NodeId,
    ) -> Result<(), Refusal> {
        if guest.baseline.is_none() {
            guest.baseline = match guest.template.cpu {
                CpuChoice::Cluster => self.settings.baseline,
                CpuChoice::Level(_) => None,
                CpuChoice::Host => {
                    let features = self.nodes.want(node)?.cpu.features.clone();
                    Some(self.intern(context, &features)?)
                }
            };
        }
        let epoch = guest.ownership.highest.next();
        guest.ownership = Ownership {
            highest: epoch,
            owner: Owner::Node { node, epoch },
            revives: None,
            lingers: guest.ownership.lingers,
        };
        guest.intent = RunIntent::Running;
        guest.observed = Observed {
            state: ObservedState::Starting,
            generation: guest.meta.generation,
            at: context.now,
            dirty_pages_per_second: None,
        };
        self.put_guest(context, guest);
        Ok(())
    }

    /// A guest ended, or its owner is gone for good: nobody runs it.
    pub(super) fn release(&mut self, context: &Context<'_>, guest: &Guest, state: ObservedState) {
        let mut guest = as_restarted(guest);
        guest.observed.state = state;
        guest.observed.at = context.now;
        guest.observed.dirty_pages_per_second = None;
        self.put_guest(context, guest);
    }

    /// Takes a guest off a node that is removed by force.
    pub(super) fn release_from_removed(
        &mut self,
        context: &Context<'_>,
        mut guest: Guest,
        node: NodeId,
    ) {
        let gone = CodedError::new(ErrorCode::NodeNotReady, "the node was removed");
        match guest.ownership.owner {
            Owner::Moving(handoff) => {
                self.abort_migration(context, handoff.migration, gone);
                if handoff.source == node {
                    // The window is closed, or the removal was refused.
                    self.release(context, &guest, ObservedState::Stopped);
                    return;
                }
                match handoff.window {
                    Window::Closed => take_back(&mut guest, handoff),
                    Window::Open => revive(&mut guest, handoff),
                }
                self.put_guest(context, guest);
            }
            Owner::Node { .. } | Owner::Nobody => {
                self.release(context, &guest, ObservedState::Stopped);
            }
        }
    }

    /// Whether a guest can be taken from its owner.
    ///
    /// # Errors
    /// Why not.
    pub fn check_fail_over(&self, guest: &Guest) -> Result<(), Refusal> {
        let state = |found: &str, fix| {
            Err(Refusal::GuestState {
                name: guest.meta.name.clone(),
                found: found.into(),
                fix,
            })
        };
        if guest.failover == FailoverPolicy::Never {
            return state(
                "is not started elsewhere when its node is lost",
                "remove the node by force when it is known to be down",
            );
        }
        if guest.intent == RunIntent::Stopped {
            return state("is to be stopped", "start it when it has stopped");
        }
        if guest.ownership.owner == Owner::Nobody {
            return state("runs nowhere", "start it");
        }
        if guest.observed.generation < guest.leased_from {
            return state(
                "may run without a lease: its owner never learned that it needs one",
                "remove the node by force when it is known to be down",
            );
        }
        // Both ends of an open window can prove that they own it.
        for (id, _) in guest.ownership.runners() {
            let node = self.nodes.want(id)?;
            if node.state != NodeState::Lost || self.holds_lease(id) {
                return Err(Refusal::NodeState {
                    name: node.meta.name.clone(),
                    state: node.state,
                    fix: "wait for its lease to lapse",
                });
            }
        }
        Ok(())
    }

    /// Whether a guest has a lease on a disk that several nodes reach.
    pub(super) fn has_disk_lease(&self, guest: &Guest) -> bool {
        let mut volumes = guest.template.volumes.iter();
        volumes.any(|attachment| {
            let volume = self.volume(attachment.volume);
            let pool = volume.and_then(|volume| self.pool(volume.pool));
            pool.is_some_and(|pool| pool.kind == PoolKind::Shared)
        })
    }

    /// Notes that a migration came to nothing. Who owns the guest then is the caller's to say.
    pub(super) fn abort_migration(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        error: CodedError,
    ) {
        let Some(mut migration) = self.migrations.get(&id).cloned() else {
            return;
        };
        let message = format!("migration {} was given up: {error}", migration.meta.name);
        migration.phase = MigrationPhase::Aborted {
            at: context.now,
            error,
        };
        migration.token = None;
        self.put_migration(context, migration);
        let object = ObjectRef::Migration(id);
        self.happened(context, object, EventKind::MigrationAborted, message);
    }
}

/// The source runs the guest on; the reserved epoch is never used.
pub(super) fn take_back(guest: &mut Guest, handoff: Handoff) {
    guest.ownership.owner = Owner::Node {
        node: handoff.source,
        epoch: handoff.epoch,
    };
}

/// The source, which relinquished, runs the guest again under a fresh epoch: the copy that it gave
/// up, if it still has that.
pub(super) fn revive(guest: &mut Guest, handoff: Handoff) {
    let epoch = guest.ownership.highest.next();
    guest.ownership = Ownership {
        highest: epoch,
        owner: Owner::Node {
            node: handoff.source,
            epoch,
        },
        revives: Some(handoff.epoch),
        lingers: false,
    };
    guest.observed.state = ObservedState::Starting;
}

/// Only the target can have the guest.
pub(super) fn pass_on(guest: &mut Guest, handoff: Handoff) {
    guest.ownership.owner = Owner::Node {
        node: handoff.target,
        epoch: handoff.successor,
    };
    guest.observed.state = ObservedState::Starting;
}
