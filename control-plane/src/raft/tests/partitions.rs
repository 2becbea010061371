//! Links that are cut, lossy and slow, and leaders that are gone.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hub::{Hub, LONG, entry, eventually, is_applied, networks, node, role_where};
use crate::raft::{ProposeError, ReadError, Replica};

fn number_of(replica: &Replica) -> u8 {
    let leader = replica.role().borrow().leader.clone();
    leader.unwrap().id.as_bytes()[0]
}

fn others(number: u8) -> Vec<u8> {
    [1, 2, 3].into_iter().filter(|n| *n != number).collect()
}

/// All three have applied the same.
async fn agree(hub: &Hub) -> Vec<String> {
    eventually(async || {
        let [first, second, third] = [1, 2, 3].map(|n| networks(&hub.replica(n)));
        (first == second && second == third).then_some(first)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_alone_says_so_in_time_and_the_others_go_on() {
    let hub = Hub::of_three().await;
    let old = hub.leader().await;
    let number = number_of(&old);
    hub.part(&[number]);
    let asked = Instant::now();
    let lost = old.propose(entry(1)).await;
    assert!(
        matches!(lost, Err(ProposeError::NoQuorum | ProposeError::Undecided)),
        "{lost:?}"
    );
    // By now it knows, and refuses at once.
    let refused = old.propose(entry(2)).await;
    assert!(
        matches!(
            refused,
            Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })
        ),
        "{refused:?}"
    );
    let read = old.linearize().await;
    assert!(
        matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })),
        "{read:?}"
    );
    assert!(asked.elapsed() < LONG, "{:?}", asked.elapsed());
    let before = old.role().borrow().confirmed_at.unwrap();

    let new = hub.leader_among(&others(number)).await;
    new.propose(entry(3)).await.unwrap();
    assert!(new.role().borrow().confirmed_at > Some(before));
    let after = old.role().borrow().confirmed_at.unwrap_or(before);
    assert!(
        after < before + Duration::from_millis(1),
        "nobody confirmed it since"
    );
    assert!(!networks(&old).contains(&"net-3".into()));

    hub.heal();
    role_where(&old, |role| !role.am_leader).await;
    hub.caught_up(number).await;
    let found = agree(&hub).await;
    assert!(found.contains(&"net-3".into()));
    assert!(
        !found.contains(&"net-2".into()),
        "it was refused, and is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_hears_is_replaced_although_it_hears() {
    let hub = Hub::of_three().await;
    let number = number_of(&hub.leader().await);
    for other in others(number) {
        hub.cut_one_way(number, other);
    }
    let new = hub.leader_among(&others(number)).await;
    new.propose(entry(1)).await.unwrap();
    hub.heal();
    assert_eq!(agree(&hub).await, ["net-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_cut_off_does_not_depose_the_leader() {
    let hub = Hub::of_three().await;
    let leader = hub.leader().await;
    let term = leader.role().borrow().term;
    let follower = others(number_of(&leader))[0];
    hub.part(&[follower]);
    role_where(&hub.replica(follower), |role| role.term == term).await;
    // Many times longer than it waits before it would stand for election.
    tokio::time::sleep(Duration::from_secs(2)).await;
    hub.heal();
    hub.propose(1).await;
    agree(&hub).await;
    let role = leader.role().borrow().clone();
    assert_eq!((role.term, role.am_leader), (term, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_over_a_bad_network_is_done_once_everywhere() {
    let hub = std::sync::Arc::new(Hub::of_three().await);
    hub.lose(50);
    hub.delay(3);
    let mut proposals = JoinSet::new();
    for number in 0..40 {
        let hub = std::sync::Arc::clone(&hub);
        proposals.spawn(async move { hub.propose(number).await });
    }
    let done = tokio::time::timeout(2 * LONG, proposals.join_all()).await;
    assert!(done.unwrap().iter().all(is_applied));
    hub.heal();
    let mut found = agree(&hub).await;
    found.sort();
    let mut wanted: Vec<_> = (0..40).map(|number| format!("net-{number}")).collect();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_gone_another_commits_and_it_comes_back_as_a_follower() {
    let hub = Hub::of_three().await;
    for round in 0..3 {
        let old = number_of(&hub.leader().await);
        hub.propose(2 * round).await;
        hub.stop(old).await;
        hub.propose(2 * round + 1).await;
        let found = networks(&hub.leader().await).len();
        assert_eq!(found, usize::try_from(2 * round + 2).unwrap());
        hub.open(old).await;
        hub.caught_up(old).await;
    }
    assert_eq!(agree(&hub).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_committed_until_it_is_back() {
    let hub = Hub::of_three().await;
    let leader = number_of(&hub.leader().await);
    let [one, other] = others(leader)[..] else {
        panic!("three are three");
    };
    hub.stop(one).await;
    hub.stop(other).await;
    let alone = hub.replica(leader);
    let outcome = alone.propose(entry(1)).await;
    assert!(outcome.is_err(), "{outcome:?}");
    hub.open(one).await;
    hub.propose(2).await;
    hub.open(other).await;
    let found = agree(&hub).await;
    assert!(found.contains(&"net-2".into()));
    assert!(
        hub.leader()
            .await
            .role()
            .borrow()
            .voters
            .contains(&node(leader))
    );
}
