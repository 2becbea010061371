//! Commands about migrations.

use godwit_proto::cluster::{
    AbortCause, EventKind, FailoverPolicy, Handoff, Meta, Migration, MigrationCommand,
    MigrationPhase, MigrationReason, NodeState, ObjectRef, ObservedState, Owner, RunIntent, Window,
    limits,
};
use godwit_proto::codes::CodedError;
use godwit_proto::id::{Epoch, GuestId, MigrationId, NodeId, Revision};

use super::ownership::{pass_on, revive, take_back};
use super::{Context, Refusal, State, check};
use crate::scheduler::Purpose;

impl State {
    pub(super) fn apply_migration(
        &mut self,
        context: &Context<'_>,
        command: &MigrationCommand,
    ) -> Result<ObjectRef, Refusal> {
        match command {
            MigrationCommand::Prepare {
                migration,
                guest,
                target,
                reason,
                expected,
            } => self.prepare(context, *migration, *guest, *target, reason, *expected),
            MigrationCommand::TargetReady { migration, token } => {
                self.target_ready(context, *migration, token)
            }
            MigrationCommand::OpenWindow { migration } => self.open_window(context, *migration),
            MigrationCommand::NoteReceipt { migration, receipt } => {
                self.note_receipt(context, *migration, receipt)
            }
            MigrationCommand::Complete {
                migration,
                epoch,
                receipt,
            } => self.complete(context, *migration, *epoch, receipt.as_deref()),
            MigrationCommand::Abort {
                migration,
                cause,
                error,
            } => self.abort(context, *migration, *cause, error),
        }
    }

    fn prepare(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        guest: GuestId,
        target: NodeId,
        reason: &MigrationReason,
        expected: Option<Revision>,
    ) -> Result<ObjectRef, Refusal> {
        let object = ObjectRef::Migration(id);
        if self.migrations.contains_key(&id) {
            return Err(Refusal::Exists { object });
        }
        let mut guest = self.guests.want_at(guest, expected)?.clone();
        let refuse = |found: &str, fix| {
            Err(Refusal::GuestState {
                name: guest.meta.name.clone(),
                found: found.into(),
                fix,
            })
        };
        let (source, epoch) = match guest.ownership.owner {
            Owner::Node { node, epoch } => (node, epoch),
            Owner::Nobody => return refuse("runs nowhere", "start it on the node instead"),
            Owner::Moving(_) => {
                return refuse("is being moved already", "wait for the migration to end");
            }
        };
        if guest.intent == RunIntent::Stopped {
            return refuse("is being stopped", "");
        }
        let moves = matches!(
            guest.observed.state,
            ObservedState::Running | ObservedState::Paused
        );
        if !moves {
            return refuse("is not known to run", "wait until its node reports it");
        }
        self.want_ready(source)?;
        self.check_migration_limits(source)?;
        self.check_fits(&guest, target, Purpose::Move)?;
        let successor = guest.ownership.highest.next();
        let target_node = self.nodes.want(target)?;
        let migration = Migration {
            id,
            meta: Meta {
                name: format!("{}-{successor}", guest.meta.name),
                created: context.now,
                ..Meta::default()
            },
            guest: guest.id,
            source,
            epoch,
            target,
            successor,
            target_certificate: target_node.certificate,
            token: None,
            reason: reason.clone(),
            phase: MigrationPhase::Prepared,
            receipt: None,
        };
        let message = format!(
            "guest {} moves from {} to {}",
            guest.meta.name,
            self.name_of(source),
            self.name_of(target)
        );
        guest.ownership.highest = successor;
        guest.ownership.revives = None;
        guest.ownership.owner = Owner::Moving(Handoff {
            migration: id,
            source,
            epoch,
            target,
            successor,
            window: Window::Closed,
        });
        self.put_guest(context, guest);
        self.put_migration(context, migration);
        self.happened(context, object, EventKind::MigrationPrepared, message);
        Ok(object)
    }

    fn check_migration_limits(&self, source: NodeId) -> Result<(), Refusal> {
        let inventory = self.inventory();
        let (here, everywhere) = (inventory.migrations_of(source), inventory.migrations());
        if here >= self.settings.migrations_per_node {
            return Err(Refusal::TooManyMigrations {
                count: here,
                place: format!("at {}", self.name_of(source)),
            });
        }
        if everywhere >= self.settings.migrations_per_cluster {
            return Err(Refusal::TooManyMigrations {
                count: everywhere,
                place: "in the cluster".into(),
            });
        }
        Ok(())
    }

    fn want_ready(&self, id: NodeId) -> Result<(), Refusal> {
        let node = self.nodes.want(id)?;
        match node.state {
            NodeState::Ready => Ok(()),
            state => Err(Refusal::NodeState {
                name: node.meta.name.clone(),
                state,
                fix: "wait until it is back",
            }),
        }
    }

    /// A migration that has not ended, and its guest's handoff.
    fn want_moving(&self, id: MigrationId) -> Result<(&Migration, Handoff), Refusal> {
        let object = ObjectRef::Migration(id);
        let migration = self
            .migrations
            .get(&id)
            .ok_or(Refusal::NotFound { object })?;
        if migration.phase.is_finished() {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase.clone(),
            });
        }
        match self.guests.want(migration.guest)?.ownership.owner {
            Owner::Moving(handoff) if handoff.migration == id => Ok((migration, handoff)),
            _ => Err(Refusal::NotFound { object }),
        }
    }

    fn target_ready(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        token: &str,
    ) -> Result<ObjectRef, Refusal> {
        let (migration, handoff) = self.want_moving(id)?;
        if handoff.window == Window::Open {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase.clone(),
            });
        }
        check::filled("token", token)?;
        if migration.token.is_some() {
            return Err(Refusal::invalid("token", "was told already"));
        }
        let mut migration = migration.clone();
        migration.token = Some(token.into());
        self.put_migration(context, migration);
        Ok(ObjectRef::Migration(id))
    }

    fn open_window(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
    ) -> Result<ObjectRef, Refusal> {
        let (migration, mut handoff) = self.want_moving(id)?;
        if handoff.window == Window::Open {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase.clone(),
            });
        }
        let mut migration = migration.clone();
        let mut guest = self.guests.want(migration.guest)?.clone();
        if guest.intent == RunIntent::Stopped {
            return Err(Refusal::GuestState {
                name: guest.meta.name,
                found: "is being stopped".into(),
                fix: "abort the migration",
            });
        }
        // A lost end could not prove that it owns the guest. One that needs no proof may go on.
        self.nodes.want(handoff.source)?;
        self.nodes.want(handoff.target)?;
        if guest.failover != FailoverPolicy::Never {
            self.want_ready(handoff.source)?;
            self.want_ready(handoff.target)?;
        }
        handoff.window = Window::Open;
        guest.ownership.owner = Owner::Moving(handoff);
        migration.phase = MigrationPhase::WindowOpen;
        let message = format!("guest {} may be handed over", guest.meta.name);
        self.put_guest(context, guest);
        self.put_migration(context, migration);
        let object = ObjectRef::Migration(id);
        self.happened(context, object, EventKind::MigrationWindowOpen, message);
        Ok(object)
    }

    fn complete(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        epoch: Epoch,
        receipt: Option<&str>,
    ) -> Result<ObjectRef, Refusal> {
        let (migration, handoff) = self.want_moving(id)?;
        let mut migration = migration.clone();
        let mut guest = self.guests.want(migration.guest)?.clone();
        if epoch != handoff.successor {
            return Err(Refusal::StaleEpoch {
                name: guest.meta.name,
                current: handoff.successor,
                found: epoch,
            });
        }
        if handoff.window == Window::Closed {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase,
            });
        }
        if let Some(receipt) = receipt {
            check::longest("receipt", receipt, limits::MAX_RECEIPT_BYTES)?;
        }
        guest.ownership.owner = Owner::Node {
            node: handoff.target,
            epoch,
        };
        guest.observed.state = ObservedState::Running;
        guest.observed.at = context.now;
        migration.phase = MigrationPhase::Completed { at: context.now };
        migration.receipt = receipt.map(Into::into);
        migration.token = None;
        let message = format!(
            "guest {} runs on {}",
            guest.meta.name,
            self.name_of(handoff.target)
        );
        self.put_guest(context, guest);
        self.put_migration(context, migration);
        let object = ObjectRef::Migration(id);
        self.happened(context, object, EventKind::MigrationCompleted, message);
        Ok(object)
    }

    /// The source knows more of a migration than who had it committed: the first word counts.
    fn note_receipt(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        receipt: &str,
    ) -> Result<ObjectRef, Refusal> {
        check::longest("receipt", receipt, limits::MAX_RECEIPT_BYTES)?;
        let object = ObjectRef::Migration(id);
        let found = self.migrations.get(&id);
        let mut migration = found.ok_or(Refusal::NotFound { object })?.clone();
        if !migration.phase.is_finished() || migration.receipt.is_some() {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase,
            });
        }
        migration.receipt = Some(receipt.to_owned());
        self.put_migration(context, migration);
        Ok(object)
    }

    fn abort(
        &mut self,
        context: &Context<'_>,
        id: MigrationId,
        cause: AbortCause,
        error: &CodedError,
    ) -> Result<ObjectRef, Refusal> {
        let (migration, handoff) = self.want_moving(id)?;
        let possible = match (cause, handoff.window) {
            (AbortCause::NotOpened, Window::Closed) | (AbortCause::SourceKept, _) => true,
            (
                AbortCause::TargetNeverRan | AbortCause::TargetGone | AbortCause::SourceGone,
                window,
            ) => window == Window::Open,
            (AbortCause::NotOpened, Window::Open) => false,
        };
        if !possible {
            return Err(Refusal::MigrationPhase {
                phase: migration.phase.clone(),
            });
        }
        check_error(error)?;
        let mut guest = self.guests.want(migration.guest)?.clone();
        match cause {
            AbortCause::NotOpened | AbortCause::SourceKept => take_back(&mut guest, handoff),
            AbortCause::TargetNeverRan => revive(&mut guest, handoff),
            AbortCause::TargetGone => {
                take_back(&mut guest, handoff);
                // Whether the source still runs it is the source's to tell.
                guest.observed.state = ObservedState::Starting;
            }
            AbortCause::SourceGone => pass_on(&mut guest, handoff),
        }
        self.put_guest(context, guest);
        self.abort_migration(context, id, error.clone());
        Ok(ObjectRef::Migration(id))
    }
}

/// An error that comes from a node: told on, so bounded.
pub(super) fn check_error(error: &CodedError) -> Result<(), Refusal> {
    let max = limits::MAX_TEXT_BYTES;
    check::longest("error message", &error.message, max)?;
    if error.causes.len() > 16 {
        return Err(Refusal::invalid("error", "has too many causes"));
    }
    let texts = error.causes.iter().chain(&error.fix);
    texts
        .into_iter()
        .try_for_each(|text| check::longest("error", text, max))
}
