//! One replica, and several, from their beginning to their end.

use std::time::Duration;

use godwit_proto::cluster::Response;
use tokio::task::JoinSet;

use super::hub::{
    Hub, LONG, entry, eventually, is_applied, member, networks, node, refused_entry, role_where,
};
use crate::raft::{InitializeError, OpenError, ProposeError, ReadError, Replica};
use crate::state::State;
use crate::store::StoreError;

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_commits_and_is_read_at_once() {
    let hub = Hub::new();
    hub.begin().await;
    let replica = hub.replica(1);
    let mut changes = replica.changes();
    let committed = replica.propose(entry(1)).await.unwrap();
    assert!(is_applied(&committed), "{committed:?}");
    replica.linearize().await.unwrap();
    assert_eq!(networks(&replica), ["net-1"]);
    assert_eq!(replica.with_state(State::revision), committed.revision);
    let told = changes.wait_for(|revision| *revision == committed.revision);
    tokio::time::timeout(LONG, told).await.unwrap().unwrap();
    let role = role_where(&replica, |role| role.confirmed_at.is_some()).await;
    assert!(role.am_leader && role.voters == [node(1)].into());
    assert_eq!(role.leader, Some(member(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_refuses_is_committed_and_answered_with_the_reason() {
    let hub = Hub::new();
    hub.begin().await;
    let replica = hub.replica(1);
    let committed = replica.propose(refused_entry()).await.unwrap();
    assert!(
        matches!(committed.response, Response::Refused(_)),
        "{committed:?}"
    );
    let before = replica.propose(entry(1)).await.unwrap();
    let again = replica.propose(entry(1)).await.unwrap();
    assert_eq!(
        before.response, again.response,
        "the same request is done once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_begun_once_and_by_its_own_node() {
    let hub = Hub::new();
    let replica = hub.open(1).await;
    let other = replica.initialize(member(2)).await;
    assert!(matches!(other, Err(InitializeError::OtherNode(id)) if id == node(2)));
    let nobody = replica.propose(entry(1)).await;
    assert!(matches!(
        nobody,
        Err(ProposeError::NotLeader { leader: None })
    ));
    replica.initialize(member(1)).await.unwrap();
    let again = replica.initialize(member(1)).await;
    assert!(matches!(again, Err(InitializeError::Exists)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_and_gets_what_was_committed() {
    let hub = Hub::of_three().await;
    let leader = hub.leader().await;
    let role = leader.role().borrow().clone();
    leader.propose(entry(1)).await.unwrap();
    for number in hub
        .numbers()
        .into_iter()
        .filter(|n| Some(node(*n)) != role.leader.as_ref().map(|l| l.id))
    {
        let follower = hub.replica(number);
        role_where(&follower, |role| role.leader.is_some()).await;
        let Err(ProposeError::NotLeader {
            leader: Some(named),
        }) = follower.propose(entry(2)).await
        else {
            panic!("a follower took a proposal, or named nobody");
        };
        assert_eq!(Some(&named), role.leader.as_ref());
        let read = follower.linearize().await;
        assert!(
            matches!(read, Err(ReadError::NotLeader { leader: Some(_) })),
            "{read:?}"
        );
        eventually(async || (networks(&follower) == ["net-1"]).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_there_when_all_start_again() {
    let hub = Hub::of_three().await;
    let leader = hub.leader().await;
    let mut proposals = JoinSet::new();
    for number in 0..200 {
        let leader = leader.clone();
        proposals.spawn(async move { leader.propose(entry(number)).await.unwrap() });
    }
    assert!(proposals.join_all().await.iter().all(is_applied));
    for number in [1, 2, 3] {
        hub.stop(number).await;
    }
    for number in [1, 2, 3] {
        hub.open(number).await;
    }
    let leader = hub.leader().await;
    assert_eq!(networks(&leader).len(), 200);
    for number in [1, 2, 3] {
        hub.caught_up(number).await;
        assert_eq!(networks(&hub.replica(number)).len(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_gets_a_snapshot_and_the_log_stays_short() {
    let mut hub = Hub::new();
    hub.limits.snapshot_entries = 50;
    hub.limits.kept_entries = 5;
    hub.begin().await;
    for number in 0..400 {
        hub.propose(number).await;
    }
    let leader = hub.leader().await;
    role_where(&leader, |role| role.snapshot > Some(300)).await;
    hub.join(2).await;
    let follower = hub.replica(2);
    assert_eq!(networks(&follower).len(), 400);
    assert!(
        follower.role().borrow().snapshot > Some(300),
        "it came by entries alone"
    );
    // And what it got is on its disk.
    hub.stop(2).await;
    let follower = hub.open(2).await;
    assert!(networks(&follower).len() > 300);
    hub.caught_up(2).await;
    assert_eq!(networks(&follower).len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_log_harms_nobody() {
    let hub = Hub::of_three().await;
    hub.propose(1).await;
    let leader = hub.leader().await;
    let is_follower = |role: &crate::raft::Role| !role.am_leader;
    let mut followers = hub.numbers();
    followers.retain(|number| is_follower(&hub.replica(*number).role().borrow()));
    let wiped = followers[0];
    role_where(&leader, |role| {
        role.progress.values().all(|index| *index == role.last_log)
    })
    .await;
    hub.stop(wiped).await;
    hub.wipe(wiped);
    let replica = hub.open(wiped).await;
    for number in 2..20 {
        leader.propose(entry(number)).await.unwrap();
    }
    assert!(leader.role().borrow().am_leader);
    assert!(
        networks(&replica).is_empty(),
        "it was taken back without a word"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bytes_make_a_snapshot_too() {
    let mut hub = Hub::new();
    hub.limits.snapshot_bytes = 10_000;
    hub.begin().await;
    for number in 0..200 {
        hub.propose(number).await;
    }
    role_where(&hub.replica(1), |role| role.snapshot.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_shut_down_says_so_and_gives_its_store_free() {
    let hub = Hub::new();
    hub.begin().await;
    let replica = hub.replica(1);
    let in_use = Replica::open(hub.config(1), std::sync::Arc::new(NoLink)).await;
    let Err(OpenError::Store(error)) = in_use else {
        panic!("two replicas have one store");
    };
    assert!(matches!(*error, StoreError::InUse { .. }), "{error}");
    hub.stop(1).await;
    let late = replica.propose(entry(1)).await;
    assert!(matches!(late, Err(ProposeError::Shutdown)), "{late:?}");
    let late = replica.linearize().await;
    assert!(matches!(late, Err(ReadError::Stopped(_))), "{late:?}");
    assert!(replica.role().borrow().stopped.is_some());
    hub.open(1).await;
    hub.propose(2).await;
}

struct NoLink;

impl crate::raft::PeerLink for NoLink {
    fn call(
        &self,
        _: &crate::raft::Member,
        _: Vec<u8>,
        _: Duration,
    ) -> crate::raft::BoxFuture<'static, Result<Vec<u8>, crate::raft::LinkError>> {
        Box::pin(async { Err(crate::raft::LinkError::Unreachable("nobody".into())) })
    }
}
