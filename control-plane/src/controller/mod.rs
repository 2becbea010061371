//! What the leader does.
//!
//! ```text
//! heartbeats, rounds that a quorum answered, the state ──> Controller ──> commands to propose
//!                                                              └────────> answers: lease, desired state
//! ```
//!
//! A [`Controller`] is made anew at each election, from the state alone, and dropped with the reign: it
//! holds nothing that its successor needs. What it remembers is when it heard of whom, what it has
//! proposed and not seen take effect, and since when it waits before it tries something again.
//!
//! It proposes, and nothing more: each command is checked by [`State::apply`], so one that is out of
//! date does no harm. One kind follows from what only this leader knows, that a lease has lapsed, and
//! so carries its reign (CLU-05).
//!
//! It refuses to be clever about time: a lease is lapsed when [`LeaseTable`] says so and never
//! because of anything else. It moves no guest on its own accord but away from a node that is being
//! emptied, and stops none.
//!
//! The rules are in `docs/spec/cluster.md`.

mod desired;
mod drains;
mod in_flight;
mod migrations;
mod patience;
mod restarts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use godwit_proto::cluster::{
    Command, DesiredState, Heartbeat, HeartbeatAnswer, LeaseAnswer, LeaseProfile, LeaseState,
    NodeCommand, Owner, Window,
};
use godwit_proto::id::{GuestId, Incarnation, MigrationId, NodeId, OperationId, Revision};

use crate::lease::{ClockBound, LeaseTable, RenewError};
use crate::plan;
use crate::state::State;
use in_flight::{InFlight, Subject};
use patience::Patience;

pub use desired::desired;

/// The most commands of one [`Controller::tick`].
pub const MAX_COMMANDS: usize = 256;

/// What a leader does from its election to the next one.
#[derive(Clone, Debug)]
pub struct Controller {
    /// When its reign began.
    reign: Revision,
    table: LeaseTable,
    /// Members that it heard of.
    heard: BTreeMap<NodeId, Heard>,
    in_flight: InFlight,
    /// The state that it acted on last.
    acted_on: Option<Revision>,
    /// Not to plan before.
    plan_again: Duration,
    /// Guests that are to run and belong to nobody, as of `read`.
    unowned: BTreeSet<GuestId>,
    read: Option<Revision>,
    restarts: Patience<GuestId>,
    moves: Patience<GuestId>,
    /// Since when migrations wait for their target to be ready.
    unready: BTreeMap<MigrationId, Duration>,
    /// When each drain's blockers were last told.
    blockers_told: BTreeMap<OperationId, Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Duration,
    /// The desired state that the node had.
    seen: Revision,
}

impl Controller {
    /// That of a leader which was elected, and whose reign has begun: `state` is the one that
    /// [`Lead`](godwit_proto::cluster::ClusterCommand::Lead) led to, or a later one. `now` is this
    /// machine's monotonic clock, here as everywhere.
    #[must_use]
    pub fn elected(now: Duration, bound: ClockBound, state: &State) -> Self {
        Self {
            reign: state.reign(),
            table: LeaseTable::elected(now, bound, held(state)),
            heard: BTreeMap::new(),
            in_flight: InFlight::default(),
            acted_on: None,
            plan_again: now,
            unowned: BTreeSet::new(),
            read: None,
            restarts: Patience::new(restarts::FIRST, restarts::LONGEST),
            moves: Patience::new(drains::FIRST, drains::LONGEST),
            unready: BTreeMap::new(),
            blockers_told: BTreeMap::new(),
        }
    }

    /// Whether its reign goes on, as far as the state says.
    #[must_use]
    pub fn reigns(&self, state: &State) -> bool {
        state.reign() == self.reign
    }

    /// A quorum answered a round that began at `began`, in the term of this election: nobody else
    /// was elected before that.
    pub fn confirmed(&mut self, began: Duration) {
        self.table.confirmed(began);
    }

    /// A node told that it lives. The answer renews its lease, or refuses to, and tells it what to do
    /// if it does not know that yet.
    pub fn heard(
        &mut self,
        now: Duration,
        heartbeat: &Heartbeat,
        state: &State,
    ) -> HeartbeatAnswer {
        let id = heartbeat.node;
        let mut answer = HeartbeatAnswer {
            sequence: heartbeat.sequence,
            lease: LeaseAnswer::NotMember,
            renew_ms: state.settings().lease.renew_ms,
            desired: None,
            informed: Vec::new(),
        };
        let Some(lease) = state.lease(id) else {
            return answer;
        };
        let seen = heartbeat.seen;
        self.heard.insert(id, Heard { at: now, seen });
        answer.lease = self.renew(now, heartbeat, state);
        answer.renew_ms = lease.profile.renew_ms;
        answer.desired = self.push(id, state);
        answer.informed = self.informed(id, state);
        answer
    }

    fn renew(&mut self, now: Duration, heartbeat: &Heartbeat, state: &State) -> LeaseAnswer {
        if !self.reigns(state) {
            return LeaseAnswer::Unconfirmed;
        }
        let (node, incarnation) = (heartbeat.node, heartbeat.incarnation);
        let committed = state.lease(node);
        let committed = committed.filter(|lease| lease.state == LeaseState::Held);
        match committed {
            Some(lease) if lease.incarnation == incarnation => {
                if !self.table.counts(node, incarnation) {
                    let profile = lease.profile;
                    self.table.granted(node, incarnation, profile, now);
                }
            }
            _ => return LeaseAnswer::NotHeld,
        }
        match self.table.renew(node, incarnation, now) {
            Ok(grant) => LeaseAnswer::Renewed {
                incarnation,
                valid_for_ms: u32::try_from(grant.valid_for.as_millis()).unwrap_or(u32::MAX),
            },
            Err(RenewError::NotHeld { .. }) => LeaseAnswer::NotHeld,
            Err(RenewError::Unconfirmed { .. }) => LeaseAnswer::Unconfirmed,
        }
    }

    /// What a node is to do, if it has not told that it knows: to be sent to it unasked, as soon as
    /// the state has changed.
    #[must_use]
    pub fn push(&self, node: NodeId, state: &State) -> Option<DesiredState> {
        let heard = self.heard.get(&node)?;
        let current = heard.seen > Revision::new(0) && heard.seen >= state.told_at(node);
        (!current).then(|| desired(state, node))
    }

    /// Nodes that do not know yet what they are to do, of those that were heard of.
    pub fn outdated(&self, state: &State) -> impl Iterator<Item = NodeId> {
        let heard = self.heard.iter();
        let outdated = heard.filter(|(node, heard)| heard.seen < state.told_at(**node));
        outdated.map(|(node, _)| *node)
    }

    /// Migrations away from `node` whose targets know that the window is open.
    fn informed(&self, node: NodeId, state: &State) -> Vec<MigrationId> {
        let informed = state.guests_on(node).filter_map(|guest| {
            let Owner::Moving(handoff) = guest.ownership.owner else {
                return None;
            };
            let opened = state.migration(handoff.migration)?.meta.revision;
            let target = self.heard.get(&handoff.target)?;
            let knows = handoff.window == Window::Open && target.seen >= opened;
            (handoff.source == node && knows).then_some(handoff.migration)
        });
        informed.collect()
    }

    /// Looks at what there is to do; to be called when the state has changed, after heartbeats, and
    /// at [`Controller::next_wake`]. Answers what to propose, in this order, in this leader's term and
    /// on this node: never through another leader.
    pub fn tick(&mut self, now: Duration, state: &State) -> Vec<Command> {
        if !self.reigns(state) {
            return Vec::new();
        }
        self.in_flight.settle(now, state);
        let mut commands = Vec::new();
        let is_news = self.acted_on != Some(state.revision());
        if is_news {
            self.table.follow(now, held(state));
        }
        self.lapse(now, state, &mut commands);
        self.grant(now, state, &mut commands);
        if (is_news || self.is_due(now)) && now >= self.plan_again {
            self.plan_again = now + PLAN_EVERY;
            self.acted_on = Some(state.revision());
            self.in_flight.looked();
            self.heard.retain(|node, _| state.node(*node).is_some());
            self.read_changes(state);
            self.end_migrations(now, state, &mut commands);
            self.fail_over(now, state, &mut commands);
            self.restart(now, state, &mut commands);
            self.drain(now, state, &mut commands);
        }
        commands
    }

    /// When to call [`Controller::tick`] next, if nothing happens before.
    #[must_use]
    pub fn next_wake(&self, now: Duration, state: &State) -> Duration {
        let is_news = self.acted_on != Some(state.revision());
        // What is past is in flight, or refused by a limit: it is looked at again after a while.
        let lapse = self.table.deadline();
        let lapse = lapse.map(|at| if at > now { at } else { now + in_flight::RETRY });
        let deadlines = [
            lapse,
            self.in_flight.deadline(),
            self.restarts.deadline(now),
            self.moves.deadline(now),
            self.unready_deadline(now),
            is_news.then_some(self.plan_again),
        ];
        let first = deadlines.into_iter().flatten().min();
        let longest = now + IDLE;
        first.map_or(longest, |first| first.min(longest).max(now))
    }

    /// Whether something that was waited for is due, or was given its time.
    fn is_due(&self, now: Duration) -> bool {
        // Cheap enough to be asked at each heartbeat: nothing here looks at guests.
        let waited = [&self.restarts, &self.moves];
        waited.iter().any(|patience| patience.is_any_due(now))
            || self.in_flight.expired()
            || self
                .unready_deadline(Duration::ZERO)
                .is_some_and(|at| now >= at)
    }

    /// Adds a command, unless one about the same thing is under way or there are enough.
    fn propose(
        &mut self,
        subject: Subject,
        command: Command,
        now: Duration,
        state: &State,
        commands: &mut Vec<Command>,
    ) {
        if commands.len() < MAX_COMMANDS && self.in_flight.begin(subject, now, state) {
            commands.push(command);
        }
    }

    /// Leases that have run out.
    fn lapse(&mut self, now: Duration, state: &State, commands: &mut Vec<Command>) {
        for (node, incarnation) in self.table.lapsed(now) {
            let lapse = NodeCommand::LapseLease {
                node,
                incarnation,
                reign: self.reign,
            };
            let subject = Subject::Lease(node);
            self.propose(subject, Command::Node(lapse), now, state, commands);
        }
    }

    /// Members that live and hold no lease.
    fn grant(&mut self, now: Duration, state: &State, commands: &mut Vec<Command>) {
        let alive = |heard: &Heard, profile: LeaseProfile| {
            now < heard.at + Duration::from_millis(profile.duration_ms.into())
        };
        let without: Vec<NodeId> = state
            .leases()
            .filter(|lease| lease.state == LeaseState::Lapsed)
            .filter(|lease| {
                let heard = self.heard.get(&lease.node);
                heard.is_some_and(|heard| alive(heard, lease.profile))
            })
            .map(|lease| lease.node)
            .collect();
        for node in without {
            let grant = Command::Node(NodeCommand::GrantLease { node });
            self.propose(Subject::Lease(node), grant, now, state, commands);
        }
    }

    /// Guests of nodes whose lease has lapsed.
    fn fail_over(&mut self, now: Duration, state: &State, commands: &mut Vec<Command>) {
        let mut lost = state.nodes().filter(|node| !state.holds_lease(node.id));
        if !lost.any(|node| state.guests_on(node.id).next().is_some()) {
            return;
        }
        for step in plan::fail_over(state).steps {
            let subject = Subject::Guest(step.guest);
            let command = Command::Guest(step.to_fail_over());
            self.propose(subject, command, now, state, commands);
        }
    }
}

/// Plans look at every guest and node: in a stream of changes they are made this often.
const PLAN_EVERY: Duration = Duration::from_millis(20);
/// How long it sleeps when there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(5);

/// The leases that are committed as held.
fn held(state: &State) -> impl Iterator<Item = (NodeId, Incarnation, LeaseProfile)> {
    let held = state
        .leases()
        .filter(|lease| lease.state == LeaseState::Held);
    held.map(|lease| (lease.node, lease.incarnation, lease.profile))
}
