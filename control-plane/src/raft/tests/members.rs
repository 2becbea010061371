//! Members that come, vote, hand over and go.

use super::hub::{Hub, entry, eventually, member, networks, node, role_where};
use crate::raft::{ChangeError, Member, ProposeError, Role};

#[tokio::test(flavor = "multi_thread")]
async fn a_member_learns_first_and_then_votes() {
    let hub = Hub::new();
    hub.begin().await;
    hub.propose(1).await;
    hub.join(2).await;
    let leader = hub.leader().await;
    let role = role_where(&leader, |role| role.learners.contains(&node(2))).await;
    assert_eq!(role.voters, [node(1)].into());
    assert_eq!(networks(&hub.replica(2)), ["net-1"]);
    // A learner's absence is nobody's loss.
    hub.stop(2).await;
    leader.propose(entry(2)).await.unwrap();
    hub.open(2).await;
    hub.join(3).await;
    hub.set_voters(&[1, 2, 3]).await;
    let is_done = |role: &Role| role.voters.len() == 3 && !role.is_changing;
    let role = role_where(&hub.replica(3), is_done).await;
    assert!(role.learners.is_empty());
    // And two of three are enough.
    hub.stop(1).await;
    hub.propose(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_unknown_or_lacks_the_log_cannot_vote() {
    let hub = Hub::new();
    hub.begin().await;
    let leader = hub.leader().await;
    let unknown = leader.set_voters([node(1), node(2)].into()).await;
    assert!(
        matches!(unknown, Err(ChangeError::NotMember(id)) if id == node(2)),
        "{unknown:?}"
    );
    // Known, and never reached.
    leader.add_learner(member(2)).await.unwrap();
    let lagging = leader.set_voters([node(1), node(2)].into()).await;
    assert!(
        matches!(lagging, Err(ChangeError::Lagging { .. })),
        "{lagging:?}"
    );
    let nobody = leader.set_voters([].into()).await;
    assert!(matches!(nobody, Err(ChangeError::LastVoter)), "{nobody:?}");
    assert_eq!(leader.role().borrow().voters, [node(1)].into());
    leader.propose(entry(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_removed_and_the_last_voter_is_not() {
    let hub = Hub::of_three().await;
    hub.join(4).await;
    let leader = hub.leader().await;
    leader.remove(node(4)).await.unwrap();
    let gone = leader.remove(node(4)).await;
    assert!(matches!(gone, Err(ChangeError::NotMember(_))), "{gone:?}");
    hub.stop(4).await;

    let role = leader.role().borrow().clone();
    let me = role.leader.unwrap().id;
    for other in role.voters.iter().filter(|id| **id != me) {
        leader.remove(*other).await.unwrap();
        hub.stop(other.as_bytes()[0]).await;
    }
    leader.propose(entry(1)).await.unwrap();
    let role = role_where(&leader, |role| role.members.len() == 1).await;
    assert_eq!(role.voters, [me].into());
    let last = leader.remove(me).await;
    assert!(matches!(last, Err(ChangeError::LastVoter)), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_leaves_the_lead_to_another() {
    let hub = Hub::of_three().await;
    let old = hub.leader().await;
    let me = old.role().borrow().leader.clone().unwrap().id;
    old.remove(me).await.unwrap();
    role_where(&old, |role| !role.am_leader).await;
    let rest: Vec<u8> = hub
        .numbers()
        .into_iter()
        .filter(|n| node(*n) != me)
        .collect();
    let new = hub.leader_among(&rest).await;
    new.propose(entry(1)).await.unwrap();
    assert!(!new.role().borrow().voters.contains(&me));
    let refused = old.propose(entry(2)).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_to_whom_it_is_meant_for() {
    let hub = Hub::of_three().await;
    for number in [2, 3, 1, 2] {
        let leader = hub.leader().await;
        leader.transfer_leader(node(number)).await.unwrap();
        hub.leader_among(&[number]).await;
    }
    let leader = hub.replica(2);
    let nobody = leader.transfer_leader(node(9)).await;
    assert!(
        matches!(nobody, Err(ChangeError::NotMember(_))),
        "{nobody:?}"
    );
    let follower = hub.replica(1).transfer_leader(node(3)).await;
    assert!(
        matches!(follower, Err(ChangeError::NotLeader { .. })),
        "{follower:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_move_to_another_address() {
    let hub = Hub::of_three().await;
    let leader = hub.leader().await;
    let moved = Member {
        address: "elsewhere".into(),
        ..member(2)
    };
    leader.add_learner(moved.clone()).await.unwrap();
    for number in [1, 2, 3] {
        let replica = hub.replica(number);
        eventually(async || {
            let role = replica.role().borrow().clone();
            (role.members.contains(&moved) && role.voters.len() == 3).then_some(())
        })
        .await;
    }
}
