//! Who should vote: the next step from the voters that there are to those that there should be.
//!
//! One, three or five members vote, as many as there are that can, up to what is wanted; the rest
//! learn. An even number tolerates no more losses than the odd one below it, so it is never chosen.
//! Voters are spread over failure domains, and taken only from members that were heard of lately
//! and have the log.
//!
//! [`next_step`] gives one change; the next is asked for when that is made. A change is one joint
//! commit, so one voter takes another's place at once, and two come or go together.
//!
//! - A node learns before it votes.
//! - No change is made that leaves a majority of the new voters silent, nor one that the majority
//!   of the old cannot commit.
//! - A silent voter is replaced when another can take its place, and otherwise kept: fewer voters
//!   bear no more, unless two of five are silent.
//! - Who leads hands over before it leaves.
//!
//! Pure: who is alive, and who has the log, is the caller's to say. It removes no members: that a
//! node is gone for good is a decision of people.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use godwit_proto::id::NodeId;

/// The most voters that are of any use: each commit waits for a majority of them.
pub const MAX_VOTERS: usize = 5;

/// A node that was admitted to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What fails together with it; empty when nothing does.
    pub failure_domain: String,
    /// Whether it was heard of lately.
    pub is_alive: bool,
    /// Whether it is to go: it should not vote any more.
    pub is_leaving: bool,
    /// Whether it has the log, but for the last entries.
    pub has_log: bool,
}

/// What a step is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Every node that was admitted. A voter that is not among them is to go.
    pub nodes: &'a [Node],
    /// Who is a member of the Raft group, voters and learners.
    pub members: &'a BTreeSet<NodeId>,
    /// Who votes.
    pub voters: &'a BTreeSet<NodeId>,
    /// Who leads, and asks.
    pub leader: NodeId,
    /// Whether a change of voters is under way.
    pub is_changing: bool,
    /// How many are to vote at most; taken as the odd number below, 1 to [`MAX_VOTERS`].
    pub most: usize,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a node a member that learns.
    AddLearner(NodeId),
    /// Make exactly these the voters.
    SetVoters(BTreeSet<NodeId>),
    /// Have another voter lead, which then goes on.
    TransferLeader(NodeId),
}

/// What to do next; none when all is as it should be, or nothing can be done now.
#[must_use]
pub fn next_step(situation: &Situation<'_>) -> Option<Step> {
    if situation.is_changing {
        return None;
    }
    let wanted = situation.nodes.iter().filter(|node| can_join(node));
    let newcomer = wanted
        .map(|node| node.id)
        .filter(|id| !situation.members.contains(id))
        .min();
    if let Some(id) = newcomer {
        return Some(Step::AddLearner(id));
    }
    let board = Board::of(situation);
    if board.alive < majority(situation.voters.len()) {
        return None;
    }
    let voters = board.next_voters()?;
    if voters == *situation.voters {
        return None;
    }
    // A leader that is out hands over first, unless nobody is left to hand over to.
    let mut heirs = board.kept.intersection(&voters).copied();
    match heirs.next() {
        Some(heir) if !voters.contains(&situation.leader) => Some(Step::TransferLeader(heir)),
        _ => Some(Step::SetVoters(voters)),
    }
}

/// How many of `count` are more than half.
const fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// The odd number that is `count` or the one below.
const fn odd_below(count: usize) -> usize {
    count.saturating_sub(1) / 2 * 2 + 1
}

const fn can_join(node: &Node) -> bool {
    node.is_alive && !node.is_leaving
}

/// The voters and those that could be.
struct Board<'a> {
    leader: NodeId,
    domains: BTreeMap<NodeId, &'a str>,
    voters: &'a BTreeSet<NodeId>,
    /// Voters that are alive and stay.
    kept: BTreeSet<NodeId>,
    /// Voters that are to go.
    leaving: BTreeSet<NodeId>,
    /// Voters that stay and are silent.
    silent: BTreeSet<NodeId>,
    /// Members that could vote and do not.
    spares: BTreeSet<NodeId>,
    /// How many voters are alive, also of those that are to go.
    alive: usize,
    most: usize,
}

impl<'a> Board<'a> {
    fn of(situation: &Situation<'a>) -> Self {
        let nodes = situation.nodes;
        let those = |is_so: &dyn Fn(&Node) -> bool| -> BTreeSet<NodeId> {
            nodes
                .iter()
                .filter(|node| is_so(node))
                .map(|node| node.id)
                .collect()
        };
        let votes = |node: &Node| situation.voters.contains(&node.id);
        let kept = those(&|node| votes(node) && can_join(node));
        let silent = those(&|node| votes(node) && !node.is_alive && !node.is_leaving);
        let staying: BTreeSet<NodeId> = kept.union(&silent).copied().collect();
        Self {
            leader: situation.leader,
            domains: nodes
                .iter()
                .map(|node| (node.id, node.failure_domain.as_str()))
                .collect(),
            voters: situation.voters,
            leaving: situation.voters.difference(&staying).copied().collect(),
            kept,
            silent,
            spares: those(&|node| {
                !votes(node)
                    && can_join(node)
                    && node.has_log
                    && situation.members.contains(&node.id)
            }),
            alive: those(&|node| votes(node) && node.is_alive).len(),
            most: odd_below(situation.most.clamp(1, MAX_VOTERS)),
        }
    }

    /// Who should vote after the next change.
    fn next_voters(&self) -> Option<BTreeSet<NodeId>> {
        let count = self.voters.len();
        let usable = self.kept.len() + self.spares.len();
        if usable == 0 {
            return None;
        }
        let goal = odd_below(usable.min(self.most));
        let is_sound = count % 2 == 1 && count <= self.most;
        if is_sound && let Some(swapped) = self.replace_one() {
            return Some(swapped);
        }
        if !is_sound || !self.leaving.is_empty() || self.is_better(goal) {
            return Some(self.choose(goal));
        }
        if goal > count {
            return Some(self.grow(count + 2));
        }
        Some(self.spread_better().unwrap_or_else(|| self.voters.clone()))
    }

    /// Whether so many voters, all of them alive, bear more losses than those that there are.
    fn is_better(&self, count: usize) -> bool {
        let bears_now = self.alive.saturating_sub(majority(self.voters.len()));
        count < self.voters.len() && count - majority(count) > bears_now
    }

    /// With one that is silent, or is to go, replaced.
    fn replace_one(&self) -> Option<BTreeSet<NodeId>> {
        // Who leads goes last.
        let leaving = self.leaving.iter().filter(|id| **id != self.leader);
        let leads = self.leaving.get(&self.leader);
        let lost = *self.silent.iter().chain(leaving).chain(leads).next()?;
        let mut voters = self.voters.clone();
        voters.remove(&lost);
        let spare = self.best_spare(&voters)?;
        voters.insert(spare);
        Some(voters)
    }

    fn grow(&self, count: usize) -> BTreeSet<NodeId> {
        let mut voters = self.voters.clone();
        while voters.len() < count
            && let Some(spare) = self.best_spare(&voters)
        {
            voters.insert(spare);
        }
        voters
    }

    /// So many of those that are alive and stay: who leads, then who votes already.
    fn choose(&self, count: usize) -> BTreeSet<NodeId> {
        let mut voters = BTreeSet::new();
        for group in [&BTreeSet::from([self.leader]), &self.kept, &self.spares] {
            let usable = |id: &NodeId| self.kept.contains(id) || self.spares.contains(id);
            let mut group: BTreeSet<NodeId> = group.iter().copied().filter(usable).collect();
            while voters.len() < count
                && let Some(next) = self.best(&voters, &group)
            {
                group.remove(&next);
                voters.insert(next);
            }
        }
        voters
    }

    /// With one voter replaced, so that fewer fail together. Who leads stays.
    fn spread_better(&self) -> Option<BTreeSet<NodeId>> {
        let now = self.crowding(self.voters);
        let others = self.kept.iter().filter(|id| **id != self.leader);
        let swaps = others.filter_map(|lost| {
            let mut voters = self.voters.clone();
            voters.remove(lost);
            let spare = self.best_spare(&voters)?;
            voters.insert(spare);
            Some((self.crowding(&voters), voters))
        });
        let (crowding, voters) = swaps.min()?;
        (crowding < now).then_some(voters)
    }

    fn best_spare(&self, beside: &BTreeSet<NodeId>) -> Option<NodeId> {
        self.best(beside, &self.spares)
    }

    /// Of `group`, not in `beside` yet, the one that shares its failure domain with the fewest.
    fn best(&self, beside: &BTreeSet<NodeId>, group: &BTreeSet<NodeId>) -> Option<NodeId> {
        let free = group.difference(beside).copied();
        free.min_by_key(|id| {
            let mut voters = beside.clone();
            voters.insert(*id);
            (self.crowding(&voters), *id)
        })
    }

    /// How many pairs of these fail together.
    fn crowding(&self, voters: &BTreeSet<NodeId>) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let domains = voters.iter().filter_map(|id| self.domains.get(id));
        for domain in domains.filter(|domain| !domain.is_empty()) {
            *counts.entry(domain).or_default() += 1;
        }
        counts.values().map(|count| count * (count - 1) / 2).sum()
    }
}
