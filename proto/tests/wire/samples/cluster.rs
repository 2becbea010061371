//! One of each record of the control plane, once per variant.

use godwit_proto::cluster::{
    AbortCause, Applied, Blocker, Capacity, Change, ClusterCommand, Command, CpuBaseline,
    CpuChoice, CpuFeatures, CpuLevel, Desired, DiskLease, DiskOwner, DiskRequest, DoneRequest,
    Entry, EntryHeader, Event, EventKind, FailoverPolicy, Guest, GuestCommand, GuestReport,
    GuestTemplate, Handoff, Labels, Lease, LeaseProfile, LeaseState, Meta, Migration,
    MigrationCommand, MigrationPhase, MigrationReason, Network, NetworkAttachment, NewGuest, Node,
    NodeCommand, NodeCpu, NodeReport, NodeState, ObjectRef, Observed, ObservedState, Operation,
    OperationKind, OperationState, Overcommit, Owner, Ownership, PlacementRule, Pool, PoolKind,
    Reign, ResourceCommand, Response, RuleKind, RunIntent, Scheduling, Scope, Settings,
    StateHeader, Strategy, Strength, Volume, VolumeAttachment, Window, XsaveComponent,
};
use godwit_proto::guest::{BootSpec, HugePages, Kernel};
use godwit_proto::id::{
    BaselineId, Epoch, Generation, GuestId, Incarnation, MigrationId, NetworkId, NodeId,
    OperationId, PoolId, RequestId, Revision, RuleId, Timestamp, VolumeId,
};

use super::{Sample, coded_error, record};

const NODE: NodeId = NodeId::from_bytes([0x11; 16]);
const OTHER: NodeId = NodeId::from_bytes([0x12; 16]);
const GUEST: GuestId = GuestId::from_bytes([0x21; 16]);
const MIGRATION: MigrationId = MigrationId::from_bytes([0x31; 16]);
const POOL: PoolId = PoolId::from_bytes([0x41; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([0x51; 16]);
const NETWORK: NetworkId = NetworkId::from_bytes([0x61; 16]);
const RULE: RuleId = RuleId::from_bytes([0x71; 16]);
const OPERATION: OperationId = OperationId::from_bytes([0x81; 16]);
const REVISION: Revision = Revision::new(0x1234);
const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_123);

pub(super) fn records() -> Vec<Sample> {
    let mut samples = objects();
    samples.extend(ownerships().map(|(name, owner)| record(name, guest(owner))));
    let commands = node_commands();
    samples.extend(commands.map(|(name, command)| record(name, command)));
    let commands = guest_commands();
    samples.extend(commands.map(|(name, command)| record(name, command)));
    let commands = migration_commands();
    samples.extend(commands.map(|(name, command)| record(name, command)));
    let commands = resource_commands();
    samples.extend(commands.map(|(name, command)| record(name, command)));
    let commands = cluster_commands();
    samples.extend(commands.map(|(name, command)| record(name, command)));
    samples
}

/// A whole entry of the log.
pub(super) fn entry() -> Sample {
    let entry = Entry {
        header: header(),
        command: Command::Node(NodeCommand::Uncordon { node: NODE }),
    };
    Sample {
        name: "cluster-entry.v1".into(),
        bytes: entry.encode().unwrap(),
        is_sample: Box::new(move |bytes| match Entry::decode(bytes) {
            Ok(found) => Ok(found == entry),
            Err(error) => Err(error.to_string()),
        }),
        payload_at: None,
    }
}

fn header() -> EntryHeader {
    EntryHeader {
        now: NOW,
        actor: "ann".into(),
        request: Some(RequestId::from_bytes([0x91; 16])),
    }
}

fn meta(name: &str) -> Meta {
    Meta {
        name: name.into(),
        labels: labels(),
        revision: REVISION,
        generation: Generation::new(3),
        created: NOW,
    }
}

fn labels() -> Labels {
    [("disk", "ssd"), ("zone", "a")].into_iter().collect()
}

fn cpu() -> NodeCpu {
    NodeCpu {
        features: CpuFeatures {
            vendor: "GenuineIntel".into(),
            signature: 0x0003_06c3,
            physical_bits: 46,
            features: vec!["avx".into(), "sse2".into(), "xsave".into()],
            components: vec![XsaveComponent {
                number: 2,
                size: 256,
                offset: 576,
                flags: 0,
                needed_by: vec!["avx".into()],
            }],
        },
        level: Some(CpuLevel::V3),
    }
}

fn capacity() -> Capacity {
    Capacity {
        memory_bytes: 64 << 30,
        reserved_bytes: 2 << 30,
        cpus: 32,
    }
}

fn node(state: NodeState, scheduling: Scheduling) -> Node {
    Node {
        id: NODE,
        meta: meta("host-1"),
        address: "10.0.0.1:7000".into(),
        certificate: [0xab; 32],
        capacity: capacity(),
        cpu: cpu(),
        failure_domain: "rack-1".into(),
        pools: vec![POOL],
        networks: vec![NETWORK],
        state,
        scheduling,
    }
}

fn template() -> GuestTemplate {
    GuestTemplate {
        vcpus: 4,
        memory_bytes: 8 << 30,
        huge_pages: HugePages::Transparent,
        cpu: CpuChoice::Cluster,
        boot: BootSpec {
            kernel: Kernel::File("vmlinuz".into()),
            initrd: None,
            cmdline: Some("console=ttyS0".into()),
        },
        volumes: vec![VolumeAttachment {
            id: "root".into(),
            volume: VOLUME,
            read_only: false,
        }],
        networks: vec![NetworkAttachment {
            id: "lan".into(),
            network: NETWORK,
            mac: [0x52, 0x54, 0, 1, 2, 3],
        }],
        rng: true,
        node_selector: labels(),
    }
}

fn guest(owner: Owner) -> Guest {
    Guest {
        id: GUEST,
        meta: meta("web-1"),
        template: template(),
        failover: FailoverPolicy::Restart { priority: 200 },
        leased_from: Generation::new(1),
        intent: RunIntent::Running,
        baseline: Some(BaselineId::new(2)),
        ownership: Ownership {
            highest: Epoch::new(8),
            owner,
            revives: Some(Epoch::new(6)),
            lingers: true,
        },
        observed: Observed {
            state: ObservedState::Failed(coded_error()),
            generation: Generation::new(2),
            at: NOW,
            dirty_pages_per_second: Some(900),
        },
    }
}

fn ownerships() -> impl Iterator<Item = (&'static str, Owner)> {
    let handoff = |window| {
        Owner::Moving(Handoff {
            migration: MIGRATION,
            source: NODE,
            epoch: Epoch::new(7),
            target: OTHER,
            successor: Epoch::new(8),
            window,
        })
    };
    let epoch = Epoch::new(8);
    [
        ("guest-stopped", Owner::Nobody),
        ("guest-running", Owner::Node { node: NODE, epoch }),
        ("guest-moving", handoff(Window::Closed)),
        ("guest-moving-open", handoff(Window::Open)),
    ]
    .into_iter()
}

fn migration(phase: MigrationPhase, reason: MigrationReason) -> Migration {
    Migration {
        id: MIGRATION,
        meta: meta("web-1-8"),
        guest: GUEST,
        source: NODE,
        epoch: Epoch::new(7),
        target: OTHER,
        successor: Epoch::new(8),
        target_certificate: [0xcd; 32],
        token: Some("godwit1_AA".into()),
        reason,
        phase,
        receipt: Some("{}".into()),
    }
}

fn operation(state: OperationState) -> Operation {
    Operation {
        id: OPERATION,
        meta: meta("drain-host-1"),
        kind: OperationKind::Drain { node: NODE },
        state,
        blockers: vec![blocker()],
    }
}

fn blocker() -> Blocker {
    Blocker {
        guest: GUEST,
        error: coded_error(),
    }
}

fn settings(strategy: Strategy) -> Settings {
    Settings {
        meta: meta("lab"),
        strategy,
        baseline: Some(BaselineId::new(2)),
        lease: LeaseProfile::FAST,
        ..Settings::default()
    }
}

fn rule(kind: RuleKind, strength: Strength) -> PlacementRule {
    PlacementRule {
        id: RULE,
        meta: meta("web-apart"),
        guests: labels(),
        kind,
        strength,
    }
}

fn lease(state: LeaseState) -> Lease {
    Lease {
        node: NODE,
        meta: meta("host-1"),
        profile: LeaseProfile::DEFAULT,
        incarnation: Incarnation::new(4),
        state,
    }
}

fn applied() -> Applied {
    Applied {
        revision: REVISION,
        object: ObjectRef::Guest(GUEST),
    }
}

fn objects() -> Vec<Sample> {
    let draining = Scheduling::Draining {
        operation: OPERATION,
    };
    let cordoned = Scheduling::Cordoned {
        reason: "new disks".into(),
    };
    let aborted = MigrationPhase::Aborted {
        at: NOW,
        error: coded_error(),
    };
    let given_up = OperationState::Aborted {
        at: NOW,
        reason: "not today".into(),
    };
    let disk_owner = |number| DiskOwner {
        node: NODE,
        epoch: Epoch::new(number),
    };
    let mut samples = vec![
        record("cluster-entry", header()),
        record("node-ready", node(NodeState::Ready, Scheduling::Enabled)),
        record("node-joining", node(NodeState::Joining, cordoned)),
        record("node-lost", node(NodeState::Lost, draining)),
        record(
            "migration-prepared",
            migration(MigrationPhase::Prepared, MigrationReason::Asked),
        ),
        record(
            "migration-open",
            migration(
                MigrationPhase::WindowOpen,
                MigrationReason::Drain(OPERATION),
            ),
        ),
        record(
            "migration-completed",
            migration(
                MigrationPhase::Completed { at: NOW },
                MigrationReason::Rebalance,
            ),
        ),
        record(
            "migration-aborted",
            migration(aborted, MigrationReason::Asked),
        ),
        record(
            "volume",
            Volume {
                id: VOLUME,
                meta: meta("web-1-root"),
                pool: POOL,
                node: Some(NODE),
                size_bytes: 10 << 30,
                attached: Some(GUEST),
            },
        ),
        record(
            "network",
            Network {
                id: NETWORK,
                meta: meta("lan"),
                bridge: "br0".into(),
            },
        ),
        record(
            "placement-rule-node",
            rule(
                RuleKind::NodeAffinity { nodes: labels() },
                Strength::Required,
            ),
        ),
        record(
            "placement-rule-together",
            rule(
                RuleKind::Affinity(Scope::FailureDomain),
                Strength::Preferred { weight: 10 },
            ),
        ),
        record(
            "placement-rule-apart",
            rule(RuleKind::AntiAffinity(Scope::Node), Strength::Required),
        ),
        record("lease-held", lease(LeaseState::Held)),
        record("lease-lapsed", lease(LeaseState::Lapsed)),
        record("operation-running", operation(OperationState::Running)),
        record("operation-paused", operation(OperationState::Paused)),
        record(
            "operation-done",
            operation(OperationState::Done { at: NOW }),
        ),
        record("operation-aborted", operation(given_up)),
        record(
            "event",
            Event {
                revision: REVISION,
                at: NOW,
                object: ObjectRef::Lease(NODE),
                kind: EventKind::NodeLost,
                actor: "leader".into(),
                message: "the lease of node host-1 has lapsed".into(),
            },
        ),
        record(
            "cpu-baseline",
            CpuBaseline {
                id: BaselineId::new(2),
                features: cpu().features,
            },
        ),
        record(
            "cluster-state",
            StateHeader {
                revision: REVISION,
                now: NOW,
                last_baseline: BaselineId::new(2),
                oldest_change: Revision::new(9),
                reign: Some(Reign {
                    node: NODE,
                    since: REVISION,
                }),
                objects: 77,
            },
        ),
        record(
            "done-request",
            DoneRequest {
                id: RequestId::from_bytes([0x91; 16]),
                digest: 0x0123_4567_89ab_cdef,
                applied: applied(),
            },
        ),
        record(
            "change",
            Change {
                revision: REVISION,
                object: ObjectRef::Baseline(BaselineId::new(2)),
                deleted: true,
            },
        ),
        record("response-applied", Response::Applied(applied())),
        record("response-refused", Response::Refused(coded_error())),
        record(
            "disk-lease",
            DiskLease {
                guest: GUEST,
                owner: disk_owner(7),
                counter: 99,
                successor: Some(disk_owner(8)),
                released: true,
            },
        ),
        record(
            "disk-request",
            DiskRequest {
                guest: GUEST,
                by: disk_owner(9),
            },
        ),
    ];
    let pools = [
        ("pool-local", PoolKind::Local),
        ("pool-shared", PoolKind::Shared),
    ];
    samples.extend(pools.map(|(name, kind)| {
        let pool = Pool {
            id: POOL,
            meta: meta("fast"),
            kind,
            path: "pools/fast".into(),
        };
        record(name, pool)
    }));
    let strategies = [
        ("settings-pack", Strategy::Pack),
        ("settings-spread", Strategy::Spread),
        ("settings-balanced", Strategy::Balanced),
    ];
    samples.extend(strategies.map(|(name, strategy)| record(name, settings(strategy))));
    samples
}

fn node_commands() -> impl Iterator<Item = (&'static str, NodeCommand)> {
    let report = Box::new(NodeReport {
        id: NODE,
        name: "host-1".into(),
        labels: labels(),
        address: "10.0.0.1:7000".into(),
        certificate: [0xab; 32],
        capacity: capacity(),
        cpu: cpu(),
        failure_domain: String::new(),
        pools: vec![POOL],
        networks: vec![NETWORK],
    });
    let commands = [
        NodeCommand::Join {
            report,
            lower_baseline: true,
        },
        NodeCommand::GrantLease { node: NODE },
        NodeCommand::LapseLease {
            node: NODE,
            incarnation: Incarnation::new(4),
            reign: REVISION,
        },
        NodeCommand::SetLabels {
            node: NODE,
            labels: labels(),
            expected: Some(REVISION),
        },
        NodeCommand::Cordon {
            node: NODE,
            reason: "new disks".into(),
        },
        NodeCommand::Uncordon { node: NODE },
        NodeCommand::Drain {
            node: NODE,
            operation: OPERATION,
        },
        NodeCommand::Remove {
            node: NODE,
            force: true,
        },
    ];
    // Without a wildcard, here and below: a new command has to be given a name, and then a sample.
    let name = |command: &NodeCommand| match command {
        NodeCommand::Join { .. } => "node-command-join",
        NodeCommand::GrantLease { .. } => "node-command-grant-lease",
        NodeCommand::LapseLease { .. } => "node-command-lapse-lease",
        NodeCommand::SetLabels { .. } => "node-command-set-labels",
        NodeCommand::Cordon { .. } => "node-command-cordon",
        NodeCommand::Uncordon { .. } => "node-command-uncordon",
        NodeCommand::Drain { .. } => "node-command-drain",
        NodeCommand::Remove { .. } => "node-command-remove",
    };
    commands.into_iter().map(move |c| (name(&c), c))
}

fn guest_commands() -> impl Iterator<Item = (&'static str, GuestCommand)> {
    let (guest, expected) = (GUEST, Some(REVISION));
    let commands = [
        GuestCommand::Create(Box::new(NewGuest {
            id: GUEST,
            name: "web-1".into(),
            labels: labels(),
            template: template(),
            failover: FailoverPolicy::Never,
        })),
        GuestCommand::Update {
            guest,
            template: GuestTemplate {
                cpu: CpuChoice::Level(CpuLevel::V2),
                ..template()
            },
            expected,
        },
        GuestCommand::SetPolicy {
            guest,
            labels: labels(),
            failover: FailoverPolicy::Restart { priority: 1 },
            expected: None,
        },
        GuestCommand::Start {
            guest,
            node: NODE,
            expected,
        },
        GuestCommand::Stop { guest, expected },
        GuestCommand::Report(GuestReport {
            guest,
            node: NODE,
            epoch: Epoch::new(7),
            state: ObservedState::Running,
            generation: Generation::new(3),
            dirty_pages_per_second: None,
        }),
        GuestCommand::FailOver { guest, node: OTHER },
        GuestCommand::Delete { guest, expected },
    ];
    let name = |command: &GuestCommand| match command {
        GuestCommand::Create(_) => "guest-command-create",
        GuestCommand::Update { .. } => "guest-command-update",
        GuestCommand::SetPolicy { .. } => "guest-command-set-policy",
        GuestCommand::Start { .. } => "guest-command-start",
        GuestCommand::Stop { .. } => "guest-command-stop",
        GuestCommand::Report(_) => "guest-command-report",
        GuestCommand::FailOver { .. } => "guest-command-fail-over",
        GuestCommand::Delete { .. } => "guest-command-delete",
    };
    commands.into_iter().map(move |c| (name(&c), c))
}

fn migration_commands() -> impl Iterator<Item = (&'static str, MigrationCommand)> {
    let migration = MIGRATION;
    let commands = [
        MigrationCommand::Prepare {
            migration,
            guest: GUEST,
            target: OTHER,
            reason: MigrationReason::Asked,
            expected: Some(REVISION),
        },
        MigrationCommand::TargetReady {
            migration,
            token: "godwit1_AA".into(),
        },
        MigrationCommand::OpenWindow { migration },
        MigrationCommand::Complete {
            migration,
            epoch: Epoch::new(8),
            receipt: Some("{}".into()),
        },
        MigrationCommand::Abort {
            migration,
            cause: AbortCause::TargetNeverRan,
            error: coded_error(),
        },
        MigrationCommand::NoteReceipt {
            migration,
            receipt: "{}".into(),
        },
    ];
    let name = |command: &MigrationCommand| match command {
        MigrationCommand::Prepare { .. } => "migration-command-prepare",
        MigrationCommand::TargetReady { .. } => "migration-command-target-ready",
        MigrationCommand::OpenWindow { .. } => "migration-command-open-window",
        MigrationCommand::Complete { .. } => "migration-command-complete",
        MigrationCommand::Abort { .. } => "migration-command-abort",
        MigrationCommand::NoteReceipt { .. } => "migration-command-note-receipt",
    };
    commands.into_iter().map(move |c| (name(&c), c))
}

fn resource_commands() -> impl Iterator<Item = (&'static str, ResourceCommand)> {
    let commands = [
        ResourceCommand::CreatePool {
            id: POOL,
            name: "fast".into(),
            kind: PoolKind::Shared,
            path: "pools/fast".into(),
        },
        ResourceCommand::DeletePool { id: POOL },
        ResourceCommand::CreateVolume {
            id: VOLUME,
            name: "web-1-root".into(),
            pool: POOL,
            node: None,
            size_bytes: 10 << 30,
        },
        ResourceCommand::DeleteVolume { id: VOLUME },
        ResourceCommand::CreateNetwork {
            id: NETWORK,
            name: "lan".into(),
            bridge: "br0".into(),
        },
        ResourceCommand::DeleteNetwork { id: NETWORK },
        ResourceCommand::CreateRule {
            id: RULE,
            name: "web-apart".into(),
            guests: labels(),
            kind: RuleKind::AntiAffinity(Scope::FailureDomain),
            strength: Strength::Preferred { weight: 100 },
        },
        ResourceCommand::DeleteRule { id: RULE },
    ];
    let name = |command: &ResourceCommand| match command {
        ResourceCommand::CreatePool { .. } => "resource-command-create-pool",
        ResourceCommand::DeletePool { .. } => "resource-command-delete-pool",
        ResourceCommand::CreateVolume { .. } => "resource-command-create-volume",
        ResourceCommand::DeleteVolume { .. } => "resource-command-delete-volume",
        ResourceCommand::CreateNetwork { .. } => "resource-command-create-network",
        ResourceCommand::DeleteNetwork { .. } => "resource-command-delete-network",
        ResourceCommand::CreateRule { .. } => "resource-command-create-rule",
        ResourceCommand::DeleteRule { .. } => "resource-command-delete-rule",
    };
    commands.into_iter().map(move |c| (name(&c), c))
}

fn cluster_commands() -> impl Iterator<Item = (&'static str, ClusterCommand)> {
    let operation = OPERATION;
    let commands = [
        ClusterCommand::Configure {
            settings: Desired {
                name: "lab".into(),
                overcommit: Overcommit {
                    cpu_permille: 2_000,
                    memory_permille: 1_100,
                },
                strategy: Strategy::Balanced,
                migrations_per_node: 3,
                migrations_per_cluster: 9,
                lease: LeaseProfile::FAST,
            },
            expected: Some(REVISION),
        },
        ClusterCommand::RaiseBaseline,
        ClusterCommand::PauseOperation { operation },
        ClusterCommand::ResumeOperation { operation },
        ClusterCommand::AbortOperation {
            operation,
            reason: "not today".into(),
        },
        ClusterCommand::ReportBlockers {
            operation,
            blockers: vec![blocker()],
        },
        ClusterCommand::Lead { node: NODE },
    ];
    let name = |command: &ClusterCommand| match command {
        ClusterCommand::Configure { .. } => "cluster-command-configure",
        ClusterCommand::RaiseBaseline => "cluster-command-raise-baseline",
        ClusterCommand::PauseOperation { .. } => "cluster-command-pause-operation",
        ClusterCommand::ResumeOperation { .. } => "cluster-command-resume-operation",
        ClusterCommand::AbortOperation { .. } => "cluster-command-abort-operation",
        ClusterCommand::ReportBlockers { .. } => "cluster-command-report-blockers",
        ClusterCommand::Lead { .. } => "cluster-command-lead",
    };
    commands.into_iter().map(move |c| (name(&c), c))
}
