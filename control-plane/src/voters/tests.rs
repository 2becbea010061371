use proptest::prelude::*;

use super::*;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn ids(numbers: &[u8]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(id).collect()
}

/// A cluster in which every node is a member, alive and up to date, led by number 1.
#[derive(Clone, Debug)]
struct Cluster {
    nodes: Vec<Node>,
    members: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
    leader: NodeId,
    most: usize,
}

impl Cluster {
    /// Nodes from 1 on, each in its domain.
    fn of(domains: &[&str], voters: &[u8]) -> Self {
        let nodes: Vec<Node> = (1..)
            .zip(domains)
            .map(|(number, domain)| Node {
                id: id(number),
                failure_domain: (*domain).into(),
                is_alive: true,
                is_leaving: false,
                has_log: true,
            })
            .collect();
        Self {
            members: nodes.iter().map(|node| node.id).collect(),
            nodes,
            voters: ids(voters),
            leader: id(1),
            most: 3,
        }
    }

    fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && node.is_alive)
    }

    fn next(&self) -> Option<Step> {
        next_step(&Situation {
            nodes: &self.nodes,
            members: &self.members,
            voters: &self.voters,
            leader: self.leader,
            is_changing: false,
            most: self.most,
        })
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::AddLearner(node) => drop(self.members.insert(node)),
            Step::SetVoters(voters) => self.voters = voters,
            Step::TransferLeader(node) => self.leader = node,
        }
        if !self.voters.contains(&self.leader) {
            let mut alive = self.voters.iter().copied().filter(|id| self.is_alive(*id));
            self.leader = alive.next().expect("somebody is left to lead");
        }
    }

    /// All steps until there is none.
    fn settle(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = self.next() {
            steps.push(step.clone());
            self.take(step);
            assert!(steps.len() < 50, "it never settles: {steps:?}");
        }
        steps
    }
}

fn set(numbers: &[u8]) -> Option<Step> {
    Some(Step::SetVoters(ids(numbers)))
}

#[test]
fn a_cluster_that_grows_votes_with_one_then_three_then_five() {
    for (nodes, wanted) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
        let mut cluster = Cluster::of(&vec![""; nodes], &[1]);
        cluster.most = 5;
        cluster.settle();
        assert_eq!(cluster.voters.len(), wanted, "{nodes} nodes");
        cluster.most = 3;
        cluster.settle();
        assert_eq!(cluster.voters.len(), wanted.min(3), "{nodes} nodes");
        assert!(cluster.voters.contains(&cluster.leader));
    }
}

#[test]
fn a_node_learns_before_it_votes() {
    let mut cluster = Cluster::of(&["", "", ""], &[1]);
    cluster.members = ids(&[1]);
    cluster.node(3).has_log = false;
    assert_eq!(
        cluster.settle(),
        [Step::AddLearner(id(2)), Step::AddLearner(id(3))]
    );
    cluster.node(3).has_log = true;
    assert_eq!(cluster.settle(), [Step::SetVoters(ids(&[1, 2, 3]))]);
}

#[test]
fn voters_are_in_different_failure_domains_where_that_can_be() {
    let mut cluster = Cluster::of(&["a", "a", "a", "b", "c"], &[1]);
    cluster.settle();
    assert_eq!(cluster.voters, ids(&[1, 4, 5]));
    let mut crowded = Cluster::of(&["a", "a", "b", "c"], &[1, 2, 3]);
    assert_eq!(crowded.settle(), [Step::SetVoters(ids(&[1, 3, 4]))]);
    assert_eq!(Cluster::of(&["a", "a", "b", "b"], &[1, 2, 3]).next(), None);
}

#[test]
fn a_silent_voter_is_replaced_when_another_can_take_its_place() {
    let mut cluster = Cluster::of(&["", "", "", ""], &[1, 2, 3]);
    cluster.node(2).is_alive = false;
    assert_eq!(cluster.next(), set(&[1, 3, 4]));
    cluster.node(4).has_log = false;
    assert_eq!(cluster.next(), None);
    // One of three is silent and nobody can take its place: one voter would bear no more.
    cluster.node(4).is_alive = false;
    assert_eq!(cluster.next(), None);
}

#[test]
fn two_silent_voters_of_five_are_let_go_and_one_is_not() {
    let mut cluster = Cluster::of(&["", "", "", "", ""], &[1, 2, 3, 4, 5]);
    cluster.most = 5;
    cluster.node(5).is_alive = false;
    assert_eq!(cluster.next(), None);
    cluster.node(4).is_alive = false;
    assert_eq!(cluster.next(), set(&[1, 2, 3]));
    // Back, they vote again.
    cluster.settle();
    cluster.node(4).is_alive = true;
    assert_eq!(cluster.next(), None);
    cluster.node(5).is_alive = true;
    assert_eq!(cluster.next(), set(&[1, 2, 3, 4, 5]));
}

#[test]
fn without_a_majority_nothing_is_tried() {
    let mut cluster = Cluster::of(&["", "", "", ""], &[1, 2, 3]);
    cluster.node(2).is_alive = false;
    cluster.node(3).is_alive = false;
    assert_eq!(cluster.next(), None);
}

#[test]
fn a_leader_that_leaves_hands_over_and_is_then_replaced() {
    let mut cluster = Cluster::of(&["", "", "", ""], &[1, 2, 3]);
    cluster.node(1).is_leaving = true;
    let steps = cluster.settle();
    assert_eq!(
        steps,
        [
            Step::TransferLeader(id(2)),
            Step::SetVoters(ids(&[2, 3, 4]))
        ]
    );
    // With nobody to take its place two are left, of which one votes.
    let mut cluster = Cluster::of(&["", "", ""], &[1, 2, 3]);
    cluster.node(3).is_leaving = true;
    assert_eq!(cluster.settle(), [Step::SetVoters(ids(&[1]))]);
}

#[test]
fn the_only_voter_gives_way_to_another_and_never_to_nobody() {
    let mut cluster = Cluster::of(&["", ""], &[1]);
    cluster.node(1).is_leaving = true;
    assert_eq!(cluster.next(), set(&[2]));
    cluster.node(2).has_log = false;
    assert_eq!(cluster.next(), None);
}

#[test]
fn an_even_number_by_accident_is_mended() {
    assert_eq!(Cluster::of(&["", ""], &[1, 2]).next(), set(&[1]));
    let mut cluster = Cluster::of(&["", "", "", ""], &[1, 2, 3, 4]);
    cluster.settle();
    assert_eq!(cluster.voters, ids(&[1, 2, 3]));
    let mut cluster = Cluster::of(&["", "", ""], &[1, 2]);
    cluster.settle();
    assert_eq!(cluster.voters, ids(&[1, 2, 3]));
}

#[test]
fn while_voters_change_nothing_else_is_begun() {
    let cluster = Cluster::of(&["", "", ""], &[1]);
    let step = next_step(&Situation {
        nodes: &cluster.nodes,
        members: &cluster.members,
        voters: &cluster.voters,
        leader: cluster.leader,
        is_changing: true,
        most: 3,
    });
    assert_eq!(step, None);
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let node = (0..4_u8, any::<[bool; 4]>(), any::<bool>());
    let nodes = proptest::collection::vec(node, 1..9);
    (nodes, 0..8_usize, any::<u16>()).prop_map(|(nodes, most, voters)| {
        let mut cluster = Cluster::of(&vec![""; nodes.len()], &[]);
        cluster.most = most;
        for ((domain, [alive, leaving, behind, foreign], votes), number) in
            nodes.into_iter().zip(1..)
        {
            let node = cluster.node(number);
            node.failure_domain = ["", "a", "b", "c"][usize::from(domain)].into();
            node.is_alive = alive || number == 1;
            node.is_leaving = leaving && !behind;
            node.has_log = !behind || number == 1;
            if foreign && number != 1 && !votes {
                cluster.members.remove(&id(number));
            }
            if votes || number == 1 {
                cluster.voters.insert(id(number));
            }
        }
        // A voter that was never admitted, or is no more.
        if voters % 8 == 0 {
            cluster.voters.insert(id(99));
        }
        cluster
    })
}

/// What holds of every change of voters.
fn check_change(cluster: &Cluster, new: &BTreeSet<NodeId>) -> Result<(), TestCaseError> {
    let alive = |set: &BTreeSet<NodeId>| set.iter().filter(|id| cluster.is_alive(**id)).count();
    prop_assert!(new.len() % 2 == 1, "{} voters", new.len());
    prop_assert!(new.len() <= MAX_VOTERS);
    prop_assert!(
        alive(new) >= majority(new.len()),
        "most of {new:?} are silent"
    );
    prop_assert!(alive(&cluster.voters) >= majority(cluster.voters.len()));
    for added in new.difference(&cluster.voters) {
        let node = cluster.nodes.iter().find(|node| node.id == *added);
        let node = node.expect("a voter was admitted");
        prop_assert!(node.is_alive && node.has_log && !node.is_leaving);
        prop_assert!(cluster.members.contains(added));
    }
    // Of those that vote, live and stay, most go on; a single one that leaves is the exception.
    let stays = |id: &&NodeId| {
        let mut nodes = cluster.nodes.iter();
        nodes.any(|node| node.id == **id && can_join(node))
    };
    let staying: BTreeSet<NodeId> = cluster.voters.iter().filter(stays).copied().collect();
    let going_on = staying.intersection(new).count();
    prop_assert!(staying.is_empty() || going_on >= 1);
    if new.len() >= cluster.voters.len() {
        prop_assert!(going_on + 1 >= staying.len(), "more than one was replaced");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_step_from_anywhere_is_even_or_loses_a_majority_and_steps_come_to_an_end(
        mut cluster in cluster(),
    ) {
        let mut steps = 0;
        while let Some(step) = cluster.next() {
            match &step {
                Step::SetVoters(new) => check_change(&cluster, new)?,
                Step::TransferLeader(to) => {
                    prop_assert!(cluster.voters.contains(to) && cluster.is_alive(*to));
                    prop_assert_ne!(*to, cluster.leader);
                }
                Step::AddLearner(node) => prop_assert!(cluster.is_alive(*node)),
            }
            cluster.take(step);
            steps += 1;
            prop_assert!(steps < 40, "it never settles");
        }
    }

    #[test]
    fn where_it_ends_as_many_vote_as_can_and_are_wanted(mut cluster in cluster()) {
        cluster.settle();
        let usable: BTreeSet<NodeId> = cluster.nodes.iter()
            .filter(|node| can_join(node) && (node.has_log || cluster.voters.contains(&node.id)))
            .map(|node| node.id)
            .collect();
        let alive = cluster.voters.iter().filter(|id| cluster.is_alive(**id)).count();
        // Without a majority, or anybody to vote instead, nothing can be done.
        if alive < majority(cluster.voters.len()) || usable.is_empty() {
            return Ok(());
        }
        let goal = odd_below(usable.len().min(odd_below(cluster.most.clamp(1, MAX_VOTERS))));
        prop_assert!(cluster.voters.len() % 2 == 1);
        prop_assert!(cluster.voters.len() >= goal, "{cluster:?}");
        let leaving = |id: &&NodeId| {
            let mut nodes = cluster.nodes.iter();
            !nodes.any(|node| node.id == **id && !node.is_leaving)
        };
        prop_assert_eq!(cluster.voters.iter().find(leaving), None);
    }
}
