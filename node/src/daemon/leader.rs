//! What a node does while it leads: renews leases, and proposes what the controller decides.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_control_plane::controller::Controller;
use godwit_control_plane::lease::ClockBound;
use godwit_control_plane::raft::{ProposeError, Replica};
use godwit_proto::cluster::{
    ClusterCommand, Command, Desired, Entry, EntryHeader, Heartbeat, HeartbeatAnswer, LeaseProfile,
    Response,
};
use godwit_proto::id::NodeId;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::clock::{boot_time, now_millis};
use super::config::NewCluster;

/// Who proposes what the controller decides, in the log.
const ACTOR: &str = "controller";
/// How long a leader waits before it looks again at a term in which it could not begin to reign.
const RETRY: Duration = Duration::from_millis(50);

/// The leader's part of a node; idle on all others.
pub(super) struct Leadership {
    me: NodeId,
    replica: Replica,
    reign: Mutex<Option<Reign>>,
    /// Somebody was heard, or the state has changed.
    looked: Notify,
    /// What a cluster that was never led is to be.
    new: Option<NewCluster>,
}

struct Reign {
    term: u64,
    controller: Controller,
    /// How far apart the clocks were that stop while the host sleeps and that do not.
    slept: Duration,
}

impl Leadership {
    pub(super) fn new(me: NodeId, replica: Replica, new: Option<NewCluster>) -> Arc<Self> {
        Arc::new(Self {
            me,
            replica,
            reign: Mutex::default(),
            looked: Notify::new(),
            new,
        })
    }

    /// Answers a heartbeat; `None` when this node does not lead.
    pub(super) fn heard(&self, heartbeat: &Heartbeat) -> Option<HeartbeatAnswer> {
        let mut reign = self.reign();
        let reign = reign.as_mut()?;
        self.confirm(reign);
        let now = boot_time();
        let heard = |state: &_| reign.controller.heard(now, heartbeat, state);
        let answer = self.replica.with_state(heard);
        self.looked.notify_one();
        Some(answer)
    }

    /// Nodes that do not know yet what they are to do.
    fn outdated(&self) -> Vec<NodeId> {
        let reign = self.reign();
        let Some(reign) = reign.as_ref() else {
            return Vec::new();
        };
        let outdated = |state: &_| reign.controller.outdated(state).collect();
        self.replica.with_state(outdated)
    }

    /// Leads whenever this node is elected, for as long as it lives. `wake` tells a node to ask what it
    /// is to do.
    pub(super) async fn run(self: Arc<Self>, wake: impl Fn(NodeId)) {
        let (mut role, mut changes) = (self.replica.role(), self.replica.changes());
        loop {
            let (leads, term) = {
                let role = role.borrow_and_update();
                (role.am_leader, role.term)
            };
            changes.borrow_and_update();
            if !leads {
                *self.reign() = None;
                if role.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if self.reign().as_ref().is_none_or(|reign| reign.term != term) {
                *self.reign() = None;
                if let Err(error) = self.begin(term).await {
                    tracing::info!(%error, term, "cannot begin to lead");
                    sleep(RETRY).await;
                    continue;
                }
            }
            let (commands, wait) = self.tick();
            for command in commands {
                self.propose(command).await;
            }
            self.outdated().into_iter().for_each(&wake);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.looked.notified() => {}
                changed = role.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Begins to reign: from here on no earlier leader's word counts.
    async fn begin(&self, term: u64) -> Result<(), ProposeError> {
        let lead = Command::Cluster(ClusterCommand::Lead { node: self.me });
        self.commit(lead).await?;
        let is_new = |state: &godwit_control_plane::state::State| {
            (state.nodes().next().is_none()).then(|| state.settings().clone())
        };
        if let (Some(new), Some(settings)) = (&self.new, self.replica.with_state(is_new)) {
            let settings = Desired {
                name: new.name.clone(),
                overcommit: settings.overcommit,
                strategy: settings.strategy,
                migrations_per_node: settings.migrations_per_node,
                migrations_per_cluster: settings.migrations_per_cluster,
                lease: match new.fast_leases {
                    true => LeaseProfile::FAST,
                    false => LeaseProfile::DEFAULT,
                },
            };
            let configure = ClusterCommand::Configure {
                settings,
                expected: None,
            };
            self.commit(Command::Cluster(configure)).await?;
        }
        let elected = |state: &_| Controller::elected(boot_time(), ClockBound::DEFAULT, state);
        let controller = self.replica.with_state(elected);
        tracing::info!(term, "this node leads");
        *self.reign() = Some(Reign {
            term,
            controller,
            slept: slept(),
        });
        Ok(())
    }

    /// What is to be proposed, and when to look again.
    fn tick(&self) -> (Vec<Command>, Duration) {
        let mut reign = self.reign();
        let Some(reign) = reign.as_mut() else {
            return (Vec::new(), RETRY);
        };
        self.confirm(reign);
        let now = boot_time();
        self.replica.with_state(|state| {
            let commands = reign.controller.tick(now, state);
            let wake = reign.controller.next_wake(now, state);
            (commands, wake.saturating_sub(now))
        })
    }

    /// Tells the controller when a quorum was last heard. What was heard before the host slept says
    /// nothing about now.
    fn confirm(&self, reign: &mut Reign) {
        let role = self.replica.role();
        let role = role.borrow();
        let slept = slept();
        if slept.abs_diff(reign.slept) > Duration::from_millis(50) {
            reign.slept = slept;
            return;
        }
        if !role.am_leader || role.term != reign.term {
            return;
        }
        // Who votes alone is its own majority, and nobody answers it.
        if role.voters.len() == 1 && role.voters.contains(&self.me) && !role.is_changing {
            reign.controller.confirmed(boot_time());
        } else if let Some(at) = role.confirmed_at {
            let ago = Instant::now().saturating_duration_since(at);
            reign.controller.confirmed(boot_time().saturating_sub(ago));
        }
    }

    async fn propose(&self, command: Command) {
        let shown = format!("{command:?}");
        match self.commit(command).await {
            Ok(()) => {}
            Err(error) => tracing::info!(%error, command = shown, "not proposed"),
        }
    }

    async fn commit(&self, command: Command) -> Result<(), ProposeError> {
        let entry = Entry {
            header: EntryHeader {
                now: now_millis(),
                actor: ACTOR.into(),
                request: None,
            },
            command,
        };
        let committed = self.replica.propose(entry).await?;
        if let Response::Refused(error) = committed.response {
            tracing::debug!(%error, "what the controller proposed was refused");
        }
        Ok(())
    }

    fn reign(&self) -> MutexGuard<'_, Option<Reign>> {
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long this host has slept since it was started.
fn slept() -> Duration {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(monotonic.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(monotonic.tv_nsec).unwrap_or(0);
    boot_time().saturating_sub(Duration::new(seconds, nanos))
}
