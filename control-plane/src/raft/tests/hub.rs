//! Replicas in one process, and a network between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use godwit_proto::cluster::{Command, Entry, EntryHeader, NodeCommand, ResourceCommand, Response};
use godwit_proto::id::{ClusterId, NetworkId, NodeId, RequestId, Timestamp};
use godwit_proto::raft::Member;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::raft::{
    BoxFuture, ChangeError, Committed, Limits, LinkError, PeerLink, ProposeError, Replica,
    ReplicaConfig, Role, Timing,
};

pub(super) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
/// Longer than anything here takes, on a machine that is busy.
pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub(super) fn member(number: u8) -> Member {
    Member {
        id: node(number),
        address: format!("node-{number}"),
    }
}

/// An entry that makes a network of this number.
pub(super) fn entry(number: u64) -> Entry {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    Entry {
        header: EntryHeader {
            now: Timestamp::from_millis(number),
            actor: "test".into(),
            request: Some(RequestId::from_bytes(id)),
        },
        command: Command::Resource(ResourceCommand::CreateNetwork {
            id: NetworkId::from_bytes(id),
            name: format!("net-{number}"),
            bridge: format!("br{number}"),
        }),
    }
}

#[derive(Default)]
struct Wires {
    replicas: Mutex<BTreeMap<NodeId, Replica>>,
    /// From whom to whom nothing comes through.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Of a thousand messages, so many are lost.
    lost_per_mille: AtomicU64,
    delay_millis: AtomicU64,
    random: AtomicU64,
}

/// Some replicas, their stores, and what is between them.
pub(super) struct Hub {
    directory: TempDir,
    wires: Arc<Wires>,
    pub(super) limits: Limits,
}

struct Link {
    wires: Arc<Wires>,
    me: NodeId,
}

impl Wires {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    fn is_lost(&self) -> bool {
        let seed = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 33) % 1000 < self.lost_per_mille.load(Ordering::Relaxed)
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_millis.load(Ordering::Relaxed))
    }
}

impl PeerLink for Link {
    fn call(
        &self,
        to: &Member,
        request: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, LinkError>> {
        let (wires, from, to) = (Arc::clone(&self.wires), self.me, to.id);
        let exchange = async move {
            sleep(wires.delay()).await;
            if wires.is_cut(from, to) || wires.is_lost() {
                std::future::pending::<()>().await;
            }
            let replica = wires.replicas.lock().unwrap().get(&to).cloned();
            let Some(replica) = replica else {
                return Err(LinkError::Unreachable("it is down".into()));
            };
            // The other end goes on also when nobody waits for its answer any more.
            let answer = tokio::spawn(async move { replica.handle(from, &request).await });
            let answer = answer.await.unwrap();
            if wires.is_cut(to, from) || wires.is_lost() {
                std::future::pending::<()>().await;
            }
            answer.map_err(|error| LinkError::Refused(error.to_string()))
        };
        Box::pin(async move {
            let answer = timeout(within, exchange).await;
            answer.unwrap_or(Err(LinkError::TimedOut(within)))
        })
    }
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            wires: Arc::default(),
            limits: Limits::default(),
        }
    }

    /// Three voters, the first of which began the cluster.
    pub(super) async fn of_three() -> Self {
        let hub = Self::new();
        hub.begin().await;
        hub.join(2).await;
        hub.join(3).await;
        hub.set_voters(&[1, 2, 3]).await;
        hub
    }

    /// One voter, number 1.
    pub(super) async fn begin(&self) {
        let replica = self.open(1).await;
        replica.initialize(member(1)).await.unwrap();
        self.leader().await;
    }

    /// A further member that does not vote yet, and has all of the log.
    pub(super) async fn join(&self, number: u8) {
        self.open(number).await;
        let leader = self.leader().await;
        leader.add_learner(member(number)).await.unwrap();
        self.caught_up(number).await;
    }

    /// Has these vote, once they have the log.
    pub(super) async fn set_voters(&self, numbers: &[u8]) {
        let voters: BTreeSet<NodeId> = numbers.iter().copied().map(node).collect();
        eventually(
            async || match self.leader().await.set_voters(voters.clone()).await {
                Ok(()) => Some(()),
                Err(ChangeError::Lagging { .. } | ChangeError::NotLeader { .. }) => None,
                Err(error) => panic!("{error}"),
            },
        )
        .await;
    }

    /// Opens a replica, also again.
    pub(super) async fn open(&self, number: u8) -> Replica {
        let link = Arc::new(Link {
            wires: Arc::clone(&self.wires),
            me: node(number),
        });
        let replica = Replica::open(self.config(number), link).await.unwrap();
        let mut replicas = self.wires.replicas.lock().unwrap();
        replicas.insert(node(number), replica.clone());
        replica
    }

    pub(super) fn config(&self, number: u8) -> ReplicaConfig {
        ReplicaConfig {
            node: node(number),
            cluster: CLUSTER,
            directory: self.directory.path().join(number.to_string()),
            timing: Timing::default(),
            limits: self.limits,
        }
    }

    /// Stops a replica; it can be opened again.
    pub(super) async fn stop(&self, number: u8) {
        let replica = self.wires.replicas.lock().unwrap().remove(&node(number));
        replica.unwrap().shutdown().await;
    }

    /// Takes all that a stopped replica had.
    pub(super) fn wipe(&self, number: u8) {
        std::fs::remove_dir_all(self.config(number).directory).unwrap();
    }

    pub(super) fn replica(&self, number: u8) -> Replica {
        let replicas = self.wires.replicas.lock().unwrap();
        replicas.get(&node(number)).unwrap().clone()
    }

    pub(super) fn numbers(&self) -> Vec<u8> {
        let replicas = self.wires.replicas.lock().unwrap();
        replicas.keys().map(|id| id.as_bytes()[0]).collect()
    }

    /// Nothing passes between these and the rest.
    pub(super) fn part(&self, some: &[u8]) {
        let (here, there): (Vec<u8>, Vec<u8>) =
            self.numbers().into_iter().partition(|n| some.contains(n));
        let mut cut = self.wires.cut.lock().unwrap();
        for (a, b) in here
            .iter()
            .flat_map(|a| there.iter().map(move |b| (*a, *b)))
        {
            cut.extend([(node(a), node(b)), (node(b), node(a))]);
        }
    }

    pub(super) fn cut_one_way(&self, from: u8, to: u8) {
        self.wires
            .cut
            .lock()
            .unwrap()
            .insert((node(from), node(to)));
    }

    pub(super) fn heal(&self) {
        self.wires.cut.lock().unwrap().clear();
        self.lose(0);
    }

    /// Loses so many of a thousand messages.
    pub(super) fn lose(&self, per_mille: u64) {
        self.wires
            .lost_per_mille
            .store(per_mille, Ordering::Relaxed);
    }

    pub(super) fn delay(&self, millis: u64) {
        self.wires.delay_millis.store(millis, Ordering::Relaxed);
    }

    /// Who leads, once a majority has confirmed it.
    pub(super) async fn leader(&self) -> Replica {
        self.leader_among(&self.numbers()).await
    }

    pub(super) async fn leader_among(&self, some: &[u8]) -> Replica {
        eventually(async || {
            for number in some {
                let replica = self.replica(*number);
                if replica.role().borrow().am_leader && replica.linearize().await.is_ok() {
                    return Some(replica);
                }
            }
            None
        })
        .await
    }

    /// Has a replica apply all that its leader has.
    pub(super) async fn caught_up(&self, number: u8) {
        let leader = self.leader().await;
        leader.linearize().await.unwrap();
        let wanted = leader.with_state(crate::state::State::revision);
        let replica = self.replica(number);
        eventually(async || {
            let found = replica.with_state(crate::state::State::revision);
            (found >= wanted && !replica.role().borrow().members.is_empty()).then_some(())
        })
        .await;
    }

    /// Proposes where it is led, and again where what became of it is not known.
    pub(super) async fn propose(&self, number: u64) -> Committed {
        let end = Instant::now() + 2 * LONG;
        while Instant::now() < end {
            for at in self.numbers() {
                match self.replica(at).propose(entry(number)).await {
                    Ok(committed) => return committed,
                    Err(ProposeError::Storage(why)) => panic!("{why}"),
                    Err(_) => {}
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody takes a proposal");
    }
}

/// Asks until there is an answer.
pub(super) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "it never came to be");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a role to be so.
pub(super) async fn role_where(replica: &Replica, is_so: impl Fn(&Role) -> bool) -> Role {
    let role = replica.role();
    eventually(async || {
        let role = role.borrow().clone();
        is_so(&role).then_some(role)
    })
    .await
}

pub(super) fn networks(replica: &Replica) -> Vec<String> {
    replica.with_state(|state| state.networks().map(|n| n.meta.name.clone()).collect())
}

pub(super) fn is_applied(committed: &Committed) -> bool {
    matches!(committed.response, Response::Applied(_))
}

/// An entry that the state refuses.
pub(super) fn refused_entry() -> Entry {
    Entry {
        command: Command::Node(NodeCommand::Uncordon { node: node(77) }),
        ..entry(u64::MAX)
    }
}
