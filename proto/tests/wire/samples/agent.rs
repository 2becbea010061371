//! One of each record between a node and the leader.

use godwit_proto::cluster::{
    CpuFeatures, CpuLevel, DesiredGuest, DesiredState, GuestMachine, Heartbeat, HeartbeatAnswer,
    LeaseAnswer, Ledger, MachineCpu, MachineDisk, MachineNet, Move, ObservedState, Pledge, Role,
    RunIntent, Window,
};
use godwit_proto::guest::{BootSpec, HugePages, Kernel};
use godwit_proto::id::{
    Epoch, Generation, GuestId, Incarnation, MigrationId, NodeId, Revision, VolumeId,
};

use super::{Sample, coded_error, record};

const NODE: NodeId = NodeId::from_bytes([0x11; 16]);
const OTHER: NodeId = NodeId::from_bytes([0x12; 16]);
const GUEST: GuestId = GuestId::from_bytes([0x21; 16]);
const MIGRATION: MigrationId = MigrationId::from_bytes([0x31; 16]);
const REVISION: Revision = Revision::new(0x1234);

pub(super) fn records() -> Vec<Sample> {
    let renewed = LeaseAnswer::Renewed {
        incarnation: Incarnation::new(4),
        valid_for_ms: 9_876,
    };
    vec![
        record(
            "heartbeat",
            Heartbeat {
                node: NODE,
                sequence: 77,
                incarnation: Incarnation::new(4),
                seen: REVISION,
            },
        ),
        record("heartbeat-answer-renewed", answer(renewed, Some(desired()))),
        record(
            "heartbeat-answer-not-held",
            answer(LeaseAnswer::NotHeld, None),
        ),
        record(
            "heartbeat-answer-unconfirmed",
            answer(LeaseAnswer::Unconfirmed, None),
        ),
        record(
            "heartbeat-answer-not-member",
            answer(LeaseAnswer::NotMember, None),
        ),
        record(
            "ledger",
            Ledger {
                seen: REVISION,
                pledges: vec![Pledge {
                    guest: GUEST,
                    begun: Epoch::new(7),
                    spent: Epoch::new(6),
                }],
            },
        ),
    ]
}

fn answer(lease: LeaseAnswer, desired: Option<DesiredState>) -> HeartbeatAnswer {
    HeartbeatAnswer {
        sequence: 77,
        lease,
        renew_ms: 2_000,
        desired,
        informed: vec![MIGRATION],
    }
}

/// A guest in each role, with each kind of processor.
fn desired() -> DesiredState {
    let features = CpuFeatures {
        vendor: "GenuineIntel".into(),
        signature: 0x0003_06c3,
        physical_bits: 46,
        features: vec!["avx".into()],
        components: Vec::new(),
    };
    DesiredState {
        node: NODE,
        revision: REVISION,
        incarnation: Some(Incarnation::new(4)),
        guests: vec![
            guest(1, Role::Owner, MachineCpu::Host),
            guest(2, Role::Source(a_move()), MachineCpu::Level(CpuLevel::V3)),
            guest(3, Role::Target(a_move()), MachineCpu::Features(features)),
        ],
    }
}

fn a_move() -> Move {
    Move {
        migration: MIGRATION,
        peer: OTHER,
        peer_epoch: Epoch::new(9),
        window: Window::Open,
        token: Some("godwit1_AA".into()),
    }
}

fn guest(number: u8, role: Role, cpu: MachineCpu) -> DesiredGuest {
    DesiredGuest {
        id: GuestId::from_bytes([number; 16]),
        name: format!("web-{number}"),
        generation: Generation::new(3),
        epoch: Epoch::new(8),
        revives: Some(Epoch::new(6)),
        role,
        intent: RunIntent::Running,
        leased: true,
        lease_pool: Some("pools/fast".into()),
        observed: ObservedState::Failed(coded_error()),
        observed_generation: Generation::new(2),
        machine: GuestMachine {
            vcpus: 4,
            memory_bytes: 8 << 30,
            huge_pages: HugePages::Transparent,
            cpu,
            boot: BootSpec {
                kernel: Kernel::File("vmlinuz".into()),
                initrd: None,
                cmdline: Some("console=ttyS0".into()),
            },
            disks: vec![MachineDisk {
                id: "root".into(),
                volume: VolumeId::from_bytes([0x51; 16]),
                pool: "pools/fast".into(),
                shared: true,
                size_bytes: 10 << 30,
                read_only: false,
            }],
            nets: vec![MachineNet {
                id: "lan".into(),
                bridge: "br0".into(),
                mac: [0x52, 0x54, 0, 1, 2, 3],
            }],
            rng: true,
        },
    }
}
