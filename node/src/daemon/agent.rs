//! The agent: makes what is so on this node what is to be.
//!
//! Two tasks share the [`Agent`](agent::Agent): one tells the leader that the node lives and learns
//! what is to be; the other acts on it. Guest processes get proofs as soon as the lease is renewed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_control_plane::agent::{Action, Agent};
use godwit_control_plane::lease::ClockBound;
use godwit_proto::cluster::{Command, LeaseAnswer, Role, Window};
use godwit_proto::codes::CodedError;
use godwit_proto::id::NodeId;
use godwit_proto::process::MigrateRequest;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::clock::boot_time;
use super::guests::Guests;
use super::ledger::LedgerFile;
use super::node::Node;

/// How often a node without a leader tries to be heard.
const UNHEARD: Duration = Duration::from_millis(200);

/// How often a node asks while a guest waits to leave.
const WORD: Duration = Duration::from_millis(20);

/// Between two looks when nothing has happened.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// This node's agent.
pub(super) struct Doer {
    agent: Mutex<Agent>,
    ledger: LedgerFile,
    pub(super) guests: Arc<Guests>,
    /// The leader has something new.
    woken: Notify,
    /// There is something new to act on.
    learned: Notify,
}

impl Doer {
    /// With what the ledger says.
    ///
    /// # Errors
    /// The ledger is damaged.
    pub(super) fn new(
        me: NodeId,
        ledger: LedgerFile,
        guests: Arc<Guests>,
    ) -> Result<Arc<Self>, CodedError> {
        let agent = Agent::new(me, ClockBound::DEFAULT, false, &ledger.load()?);
        Ok(Arc::new(Self {
            agent: Mutex::new(agent),
            ledger,
            guests,
            woken: Notify::new(),
            learned: Notify::new(),
        }))
    }

    /// The leader says that there is something new.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Tells the leader that this node lives, for as long as it does.
    pub(super) async fn beat(self: Arc<Self>, node: Arc<Node>) {
        let mut sequence = 0;
        loop {
            sequence += 1;
            let heartbeat = self.agent().heartbeat(sequence);
            let asked = boot_time();
            let answered = node.heartbeat(&heartbeat).await;
            let pause = match answered {
                Ok(answer) => {
                    let learned = self.agent().answered(asked, &answer);
                    if let Err(error) = learned {
                        tracing::warn!(%error, "a desired state is not obeyed");
                    }
                    self.prove();
                    self.learned.notify_one();
                    if answer.lease == LeaseAnswer::NotMember {
                        node.join().await;
                        UNHEARD
                    } else if answer.desired.is_some() || answer.lease == LeaseAnswer::NotHeld {
                        // It is to be told at once that this is known now.
                        Duration::from_millis(5)
                    } else if self.awaits_word() {
                        WORD
                    } else {
                        Duration::from_millis(answer.renew_ms.into())
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the leader did not hear this node");
                    UNHEARD
                }
            };
            // Told that there is something new, or time.
            let _ = timeout(pause, self.woken.notified()).await;
        }
    }

    /// Whether a guest is about to leave, and its source waits to hear that the target knows.
    fn awaits_word(&self) -> bool {
        let agent = self.agent();
        let desired = agent.desired();
        let mut guests = desired.into_iter().flat_map(|desired| &desired.guests);
        guests.any(
            |guest| matches!(&guest.role, Role::Source(moving) if moving.window == Window::Open),
        )
    }

    /// Tells every guest process until when it may run.
    fn prove(&self) {
        let agent = self.agent();
        for proof in agent.proofs() {
            self.guests.prove(proof.guest, proof.epoch, proof.until);
        }
    }

    /// Acts, for as long as the node lives.
    pub(super) async fn act(self: Arc<Self>, node: Arc<Node>) {
        let changed = self.guests.changed();
        loop {
            while self.decide(&node) {}
            let wake = self.agent().next_wake();
            let wait = wake.map_or(Duration::from_secs(1), |at| at.saturating_sub(boot_time()));
            tokio::select! {
                () = sleep(wait.clamp(LEAST_PAUSE, Duration::from_secs(1))) => {}
                () = changed.notified() => {}
                () = self.learned.notified() => {}
            }
            for (migration, receipt) in self.guests.take_receipts() {
                node.note_receipt(migration, receipt);
            }
        }
    }

    /// Decides and acts once. Whether there may be more to do at once.
    fn decide(&self, node: &Arc<Node>) -> bool {
        let found = self.guests.found();
        let actions = self.agent().decide(boot_time(), &found);
        let mut again = false;
        for action in actions {
            match action {
                Action::Record(ledger) => {
                    if let Err(error) = self.ledger.store(&ledger) {
                        // Nothing that depends on it is done.
                        tracing::error!(%error, "this node can promise nothing");
                        return false;
                    }
                    self.agent().recorded(&ledger);
                    again = true;
                }
                action => {
                    if let Err(error) = self.carry_out(node, action) {
                        tracing::error!(%error, "cannot do what is to be done");
                    }
                }
            }
        }
        if again {
            self.prove();
        }
        again
    }

    fn carry_out(&self, node: &Arc<Node>, action: Action) -> std::io::Result<()> {
        tracing::debug!(?action, "acts");
        let guests = &self.guests;
        match action {
            Action::Record(_) => {}
            Action::Start(launch) => {
                guests.start(launch)?;
                self.prove();
            }
            Action::PrepareReceive {
                migration, launch, ..
            } => {
                guests.receive(launch, migration)?;
                self.prove();
            }
            Action::Stop { guest, epoch } => guests.stop(guest, epoch),
            Action::Destroy { guest, epoch } => guests.destroy(guest, epoch),
            Action::SetLeased {
                guest,
                epoch,
                leased,
            } => guests.set_leased(guest, epoch, leased),
            Action::Revive { guest, from, epoch } => {
                guests.revive(guest, from, epoch);
                self.prove();
            }
            Action::BeginSend {
                migration,
                guest,
                epoch,
                token,
                ..
            } => {
                let request = MigrateRequest {
                    asked_by: "cluster".into(),
                    why: node.reason_of(migration),
                    ..MigrateRequest::default()
                };
                guests.send(guest, epoch, migration, token, request);
            }
            Action::AllowSwitch { migration, guest } => guests.allow_switch(guest, migration),
            Action::CancelSend { migration, guest } => guests.cancel_send(guest, migration),
            Action::Propose(command) => propose(node, command),
        }
        Ok(())
    }

    fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proposes as this node; whether it comes to anything is seen in the next desired state.
fn propose(node: &Arc<Node>, command: Command) {
    let node = node.clone();
    tokio::spawn(async move {
        let shown = format!("{command:?}");
        if let Err(error) = node.propose_as_node(command).await {
            tracing::info!(%error, command = shown, "what this node says is not committed");
        }
    });
}
