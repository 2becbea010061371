//! A cluster of one replica without a log: what is proposed is applied in place. Tests of the command
//! line use it as well, so it names nothing of its parent but `api`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use godwit_control_plane::state::State;
use godwit_proto::cluster::{
    AbortCause, Applied, Capacity, Command, CpuFeatures, CpuLevel, Entry, EntryHeader,
    GuestCommand, GuestReport, Labels, MigrationCommand, NodeCommand, NodeCpu, NodeReport,
    ObservedState, Owner, ResourceCommand,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{
    GuestId, MigrationId, NetworkId, NodeId, PoolId, RequestId, Revision, Timestamp,
};
use godwit_proto::process::ConsoleKind;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::watch;

use super::api::{BoxFuture, Cluster, ClusterStatus, Options, Stream};

/// A cluster that is made up.
pub(super) struct Fake {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
    /// Whether a majority is there.
    pub(super) quorum: AtomicBool,
    /// How many proposals are still overtaken by a change of the guest.
    pub(super) overtaken: AtomicU32,
    /// How many proposals were made.
    pub(super) proposed: AtomicU32,
    /// Whether what is committed is applied here.
    pub(super) applies: AtomicBool,
}

/// Times that a test can wait for.
pub(super) fn options() -> Options {
    Options {
        request_time: Duration::from_secs(20),
        apply_time: Duration::from_millis(200),
        heartbeat: Duration::from_millis(50),
    }
}

pub(super) fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number + 1; 16])
}

impl Fake {
    /// Nodes of 8 GiB and 8 processors that hold a lease, a shared pool `shared`, a local pool
    /// `local` and a network `lan`.
    pub(super) fn with_nodes(names: &[&str]) -> Self {
        let mut state = State::new("test");
        let (shared, local) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]));
        let lan = NetworkId::from_bytes([1; 16]);
        for (id, name, kind) in [
            (shared, "shared", godwit_proto::cluster::PoolKind::Shared),
            (local, "local", godwit_proto::cluster::PoolKind::Local),
        ] {
            let pool = ResourceCommand::CreatePool {
                id,
                name: name.into(),
                kind,
                path: format!("/pools/{name}"),
            };
            apply(&mut state, Command::Resource(pool), None).unwrap();
        }
        let network = ResourceCommand::CreateNetwork {
            id: lan,
            name: "lan".into(),
            bridge: "br0".into(),
        };
        apply(&mut state, Command::Resource(network), None).unwrap();
        for (number, name) in (0..).zip(names) {
            let mut report = report(number, name);
            report.pools = vec![shared, local];
            report.networks = vec![lan];
            let join = NodeCommand::Join {
                report: Box::new(report),
                lower_baseline: false,
            };
            apply(&mut state, Command::Node(join), None).unwrap();
            let node = node_id(number);
            apply(
                &mut state,
                Command::Node(NodeCommand::GrantLease { node }),
                None,
            )
            .unwrap();
        }
        Self {
            revision: watch::Sender::new(state.revision()),
            state: Mutex::new(state),
            quorum: AtomicBool::new(true),
            overtaken: AtomicU32::new(0),
            proposed: AtomicU32::new(0),
            applies: AtomicBool::new(true),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Applies a command as the rest of the cluster would.
    pub(super) fn apply(&self, command: Command) -> Result<Applied, CodedError> {
        let applied = apply(&mut self.state(), command, None);
        self.tell();
        applied
    }

    /// Lets whoever owns a guest tell what it does.
    pub(super) fn report(&self, name: &str, state: ObservedState) {
        let report = {
            let known = self.state();
            let guest = known.guest_named(name).unwrap();
            let (node, epoch) = guest.ownership.runners().next().unwrap();
            GuestReport {
                guest: guest.id,
                node,
                epoch,
                state,
                generation: guest.meta.generation,
                dirty_pages_per_second: Some(100),
            }
        };
        self.apply(Command::Guest(GuestCommand::Report(report)))
            .unwrap();
    }

    /// Lets the lease of a node lapse.
    pub(super) fn lose(&self, number: u8) {
        let node = node_id(number);
        let (incarnation, reign) = {
            let state = self.state();
            (state.lease(node).unwrap().incarnation, state.reign())
        };
        let lapse = NodeCommand::LapseLease {
            node,
            incarnation,
            reign,
        };
        self.apply(Command::Node(lapse)).unwrap();
    }

    /// Lets a migration come to its end.
    pub(super) fn complete(&self, migration: MigrationId, receipt: &str) {
        let epoch = self.state().migration(migration).unwrap().successor;
        for command in [
            MigrationCommand::OpenWindow { migration },
            MigrationCommand::Complete {
                migration,
                epoch,
                receipt: Some(receipt.into()),
            },
        ] {
            self.apply(Command::Migration(command)).unwrap();
        }
    }

    fn tell(&self) {
        if self.applies.load(Ordering::SeqCst) {
            self.revision.send_replace(self.state().revision());
        }
    }

    fn has_quorum(&self) -> Result<(), CodedError> {
        match self.quorum.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(CodedError::new(
                ErrorCode::NoQuorum,
                "1 of 3 voters can be reached",
            )),
        }
    }

    /// Somebody changes the guest between a decision and its proposal.
    fn overtake(&self, command: &Command) {
        let guest = match command {
            Command::Guest(
                GuestCommand::Start { guest, .. } | GuestCommand::Stop { guest, .. },
            ) => *guest,
            _ => return,
        };
        let left = self.overtaken.load(Ordering::SeqCst);
        if left > 0 {
            self.overtaken.store(left - 1, Ordering::SeqCst);
            let policy = {
                let state = self.state();
                let guest = state.guest(guest).unwrap();
                GuestCommand::SetPolicy {
                    guest: guest.id,
                    labels: [("left", left.to_string())].into_iter().collect::<Labels>(),
                    failover: guest.failover,
                    expected: None,
                }
            };
            self.apply(Command::Guest(policy)).unwrap();
        }
    }
}

fn apply(
    state: &mut State,
    command: Command,
    request: Option<(String, Option<RequestId>)>,
) -> Result<Applied, CodedError> {
    let (actor, request) = request.unwrap_or_else(|| ("test".into(), None));
    let now = state.now().as_millis() + 1;
    let entry = Entry {
        header: EntryHeader {
            now: Timestamp::from_millis(now),
            actor,
            request,
        },
        command,
    };
    // As it would come out of a log.
    let entry = Entry::decode(&entry.encode().unwrap()).unwrap();
    state.apply(&entry).into_result()
}

fn report(number: u8, name: &str) -> NodeReport {
    NodeReport {
        id: node_id(number),
        name: name.into(),
        labels: [("zone", name)].into_iter().collect(),
        address: format!("{name}:7400"),
        certificate: [number; 32],
        capacity: Capacity {
            memory_bytes: 8 << 30,
            reserved_bytes: 0,
            cpus: 8,
        },
        cpu: NodeCpu {
            features: CpuFeatures {
                vendor: "GenuineIntel".into(),
                signature: 0x0005_0654,
                physical_bits: 46,
                features: vec!["sse2".into()],
                components: Vec::new(),
            },
            level: Some(CpuLevel::V2),
        },
        failure_domain: String::new(),
        pools: Vec::new(),
        networks: Vec::new(),
    }
}

impl Cluster for Fake {
    fn propose(
        &self,
        command: Command,
        actor: String,
        request: Option<RequestId>,
    ) -> BoxFuture<'_, Result<Applied, CodedError>> {
        Box::pin(async move {
            self.has_quorum()?;
            // Others run between a decision and what becomes of it.
            tokio::task::yield_now().await;
            self.proposed.fetch_add(1, Ordering::SeqCst);
            self.overtake(&command);
            let applied = apply(&mut self.state(), command, Some((actor, request)));
            self.tell();
            applied
        })
    }

    fn linearize(&self) -> BoxFuture<'_, Result<(), CodedError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.has_quorum()
        })
    }

    fn read(&self, reader: &mut dyn FnMut(&State)) {
        reader(&self.state());
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn status(&self) -> ClusterStatus {
        let quorum = self.quorum.load(Ordering::SeqCst);
        ClusterStatus {
            node: node_id(0),
            name: "a".into(),
            version: "0.1.0".into(),
            leader: quorum.then(|| node_id(0)),
            term: 3,
            voters: vec![node_id(0)],
            learners: vec![node_id(1)],
            revision: *self.revision.borrow(),
            quorum,
        }
    }

    fn progress(&self, _: MigrationId) -> BoxFuture<'_, Result<Option<String>, CodedError>> {
        let text = r#"{"phase":"copying","round":2,"remaining_pages":256}"#;
        Box::pin(async move { Ok(Some(text.into())) })
    }

    fn cancel_migration(&self, migration: MigrationId) -> BoxFuture<'_, Result<(), CodedError>> {
        Box::pin(async move {
            let abort = MigrationCommand::Abort {
                migration,
                cause: AbortCause::SourceKept,
                error: CodedError::new(ErrorCode::Cancelled, "somebody cancelled it"),
            };
            self.apply(Command::Migration(abort)).map(drop)
        })
    }

    fn forecast(
        &self,
        _: GuestId,
        target: Option<NodeId>,
    ) -> BoxFuture<'_, Result<String, CodedError>> {
        let target = target.map_or_else(|| "null".into(), |id| format!("\"{id}\""));
        Box::pin(async move { Ok(format!(r#"{{"converges":true,"target":{target}}}"#)) })
    }

    /// One that says what it is, and then says again what it is told, until it is told to leave.
    fn console(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> BoxFuture<'_, Result<Box<dyn Stream>, CodedError>> {
        Box::pin(async move {
            let runs = matches!(
                self.state().guest(guest).unwrap().ownership.owner,
                Owner::Node { .. }
            );
            if !runs {
                return Err(CodedError::new(
                    ErrorCode::WrongState,
                    "the guest does not run",
                ));
            }
            let (here, mut there) = duplex(4096);
            tokio::spawn(async move {
                let greeting = format!("{which:?} console\r\n");
                let _ = there.write_all(greeting.as_bytes()).await;
                let mut chunk = [0; 256];
                while let Ok(length @ 1..) = there.read(&mut chunk).await {
                    let said = &chunk[..length];
                    if said.contains(&b'q') || there.write_all(said).await.is_err() {
                        break;
                    }
                }
            });
            Ok(Box::new(here) as Box<dyn Stream>)
        })
    }

    fn register_metrics(&self, registry: &mut Registry) {
        let gauge = prometheus_client::metrics::gauge::ConstGauge::new(7);
        registry.register("of_the_daemon", "A metric of the daemon", gauge);
    }
}
