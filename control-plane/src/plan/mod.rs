//! Plans: what to do about a lost node, a node to be emptied, a node that has too much. Pure functions
//! of the state; what they answer is a list of steps, each of which becomes a command.
//!
//! A plan sees its own steps: each guest is placed with those before it where the plan put them. It
//! was made at a revision, and each command is checked again when it is committed; so a plan that is
//! out of date loses steps, and never does harm. Whoever carries a plan out makes another one after a
//! while instead of trying harder.

mod drain;
mod failover;
mod rebalance;
mod restart;
#[cfg(test)]
mod tests;

use godwit_proto::cluster::{Blocker, Guest, Handoff, Owner, Window};
use godwit_proto::id::{GuestId, MigrationId, NodeId, Revision};

use crate::scheduler::{Demand, Inventory, Purpose, Scheduler, explain};
use crate::state::State;

pub use drain::{drain, drain_except};
pub use failover::fail_over;
pub use rebalance::rebalance;
pub use restart::restart;

/// The most steps of one plan.
pub const MAX_STEPS: usize = 256;

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The state it was made of.
    pub revision: Revision,
    /// Where guests go.
    pub steps: Vec<Step>,
    /// Guests that go nowhere now, and why; the first few.
    pub blocked: Vec<Blocker>,
    /// Guests that are neither a step nor blocked: their turn comes with a later plan.
    pub waiting: usize,
}

/// Where a guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The guest.
    pub guest: GuestId,
    /// Its revision when this was decided.
    pub expected: Revision,
    /// The node.
    pub node: NodeId,
}

/// A plan under way.
struct Draft<'a> {
    state: &'a State,
    /// As it is once the steps are done.
    inventory: Inventory,
    scheduler: Scheduler,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(state: &'a State) -> Self {
        Self {
            state,
            inventory: state.inventory().clone(),
            scheduler: Scheduler::new(),
            plan: Plan {
                revision: state.revision(),
                steps: Vec::new(),
                blocked: Vec::new(),
                waiting: 0,
            },
        }
    }

    fn is_full(&self) -> bool {
        self.plan.steps.len() >= MAX_STEPS
    }

    /// Places a guest that is booted: `guest` as it is now, `restarted` as it is then.
    fn boot(&mut self, guest: &Guest, restarted: &Guest) -> bool {
        let demand = Demand::new(self.state, &self.inventory, restarted, Purpose::Start);
        let Some(node) = self.scheduler.choose(&self.inventory, &demand) else {
            self.block(guest, restarted, Purpose::Start);
            return false;
        };
        self.inventory.remove_guest(guest);
        let mut placed = restarted.clone();
        let epoch = placed.ownership.highest.next();
        placed.ownership.owner = Owner::Node { node, epoch };
        self.inventory.add_guest(&placed);
        self.step(guest, node);
        true
    }

    /// The node that a running guest would move to.
    fn target(&mut self, guest: &Guest) -> Option<NodeId> {
        let demand = Demand::new(self.state, &self.inventory, guest, Purpose::Move);
        self.scheduler.choose(&self.inventory, &demand)
    }

    /// Whether one more migration from `source` may begin.
    fn may_migrate_from(&self, source: NodeId) -> bool {
        let settings = self.state.settings();
        self.inventory.migrations_of(source) < settings.migrations_per_node
            && self.inventory.migrations() < settings.migrations_per_cluster
    }

    /// Moves a running guest.
    fn migrate(&mut self, guest: &Guest, target: NodeId) {
        let Owner::Node { node, epoch } = guest.ownership.owner else {
            return;
        };
        self.inventory.remove_guest(guest);
        let mut moving = guest.clone();
        moving.ownership.owner = Owner::Moving(Handoff {
            migration: MigrationId::from_bytes([0; 16]),
            source: node,
            epoch,
            target,
            successor: guest.ownership.highest.next(),
            window: Window::Closed,
        });
        self.inventory.add_guest(&moving);
        self.step(guest, target);
    }

    fn step(&mut self, guest: &Guest, node: NodeId) {
        self.plan.steps.push(Step {
            guest: guest.id,
            expected: guest.meta.revision,
            node,
        });
    }

    /// Notes why a guest goes nowhere, for the first few.
    fn block(&mut self, guest: &Guest, as_asked: &Guest, purpose: Purpose) {
        if self.plan.blocked.len() == godwit_proto::cluster::limits::MAX_BLOCKERS {
            self.plan.waiting += 1;
            return;
        }
        let explanation = explain(self.state, &self.inventory, as_asked, purpose);
        match explanation.to_error() {
            Some(error) => self.plan.blocked.push(Blocker {
                guest: guest.id,
                error,
            }),
            None => self.plan.waiting += 1,
        }
    }
}
