//! One fixed value for each thing that is written, from which the golden files are made.

use std::fmt::Debug;

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::{self, Frame, FrameError, FrameKind};
use godwit_proto::guest::{
    BootSpec, DiskSpec, GuestSpec, HugePages, Kernel, MemorySpec, NetSpec, SerialSpec,
};
use godwit_proto::id::{Epoch, MigrationId};
use godwit_proto::process::{
    AwaitRequest, ConsoleKind, Departure, DeviceStats, ExitReason, GuestState, GuestStats,
    HandedTap, Leaving, MandateState, NamedCounter, Parting, Proof, REQUEST_LIMITS,
    RESPONSE_LIMITS, Request, Response, SnapshotReport, Standing, VERSIONS, VcpuStats,
};
use godwit_proto::record::{Record, RecordReader, RecordWriter};
use godwit_proto::state::block::BlockState;
use godwit_proto::state::clock::ClockState;
use godwit_proto::state::console::ConsoleState;
use godwit_proto::state::irqchip::IrqchipState;
use godwit_proto::state::memory::{MemoryLayout, MemoryRange, SnapshotMemory};
use godwit_proto::state::net::NetState;
use godwit_proto::state::pci::{
    MsixEntry, MsixState, PciDeviceState, PciRootState, VirtioTransportState,
};
use godwit_proto::state::power::GedState;
use godwit_proto::state::queue::QueueState;
use godwit_proto::state::serial::SerialState;
use godwit_proto::state::vcpu::{CpuidEntry, Msr, VcpuState, Xcr};

mod agent;
mod cluster;
mod migrate;
mod peer;
mod process;
mod raft;

/// Whether bytes decode to the sample's value; an error when they do not decode at all.
type IsSample = Box<dyn Fn(&[u8]) -> Result<bool, String>>;

/// A fixed value and its bytes.
pub(crate) struct Sample {
    /// Name of the golden file, without ending.
    pub(crate) name: String,
    /// What this build writes.
    pub(crate) bytes: Vec<u8>,
    /// What this build reads.
    pub(crate) is_sample: IsSample,
    /// Where the archive begins in `bytes`; `None` where there is none, or several.
    pub(crate) payload_at: Option<usize>,
}

/// Everything with a golden file.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = records();
    samples.push(hello());
    samples.push(sequence());
    samples.extend(requests().into_iter().map(request));
    samples.extend(responses().into_iter().map(response));
    samples.extend(migrate::samples());
    samples.extend(peer::samples());
    samples.push(cluster::entry());
    samples
}

/// One of each record. Records with enums appear once per variant.
pub(crate) fn records() -> Vec<Sample> {
    let mut samples = machine_records();
    samples.extend(cluster::records());
    samples.extend(agent::records());
    samples.extend(raft::records());
    samples
}

fn machine_records() -> Vec<Sample> {
    vec![
        record("guest-spec", guest_spec()),
        record("guest-spec-minimal", minimal_guest_spec()),
        record("guest-spec-stdio", stdio_guest_spec()),
        record("memory-layout", memory_layout()),
        record("snapshot-memory", snapshot_memory()),
        record("vcpu", vcpu()),
        record("irqchip", irqchip()),
        record("clock", clock()),
        record("serial", serial()),
        record("ged", GedState { pending: 0x02 }),
        record(
            "pci-root",
            PciRootState {
                config_address: 0x8000_1810,
            },
        ),
        record("pci-device", pci_device()),
        record(
            "virtio-block",
            BlockState {
                sectors: 0x12_3456_789a,
                write_cache: true,
            },
        ),
        record(
            "virtio-net",
            NetState {
                mac: Some([0x52, 0x54, 0, 1, 2, 3]),
                queue_pairs: 4,
                active_pairs: 2,
                announce: true,
            },
        ),
        record(
            "virtio-console",
            ConsoleState {
                columns: 132,
                rows: 43,
                input: b"unread".to_vec(),
            },
        ),
    ]
}

fn record<R: Record + PartialEq + Debug + 'static>(name: &str, value: R) -> Sample {
    Sample {
        name: format!("record-{name}.v{}", R::VERSION),
        bytes: value.encode().unwrap(),
        is_sample: Box::new(move |bytes| match R::decode(bytes) {
            Ok(found) => Ok(found == value),
            Err(error) => Err(error.to_string()),
        }),
        payload_at: Some(godwit_proto::record::HEADER_BYTES),
    }
}

fn hello() -> Sample {
    Sample {
        name: "hello".into(),
        bytes: frame::encode_hello(VERSIONS),
        is_sample: Box::new(|bytes| {
            let frame = one_frame(bytes, &REQUEST_LIMITS).map_err(|error| error.to_string())?;
            Ok(frame.kind == FrameKind::Hello && frame.payload == VERSIONS.to_bytes())
        }),
        payload_at: None,
    }
}

fn sequence() -> Sample {
    let mut writer = RecordWriter::new();
    writer.push(&memory_layout()).unwrap();
    writer.push_optional(&clock()).unwrap();
    writer.push(&GedState { pending: 1 }).unwrap();
    writer.push(&GedState { pending: 2 }).unwrap();
    Sample {
        name: "sequence.v1".into(),
        bytes: writer.finish().unwrap(),
        is_sample: Box::new(|bytes| {
            let read = || {
                let mut reader = RecordReader::new(bytes)?;
                let layout = reader.one::<MemoryLayout>()?;
                let clock_read = reader.optional::<ClockState>()?;
                let power = reader.many::<GedState>()?;
                reader.finish()?;
                Ok(layout == memory_layout()
                    && clock_read == Some(clock())
                    && power == [GedState { pending: 1 }, GedState { pending: 2 }])
            };
            read().map_err(|error: godwit_proto::record::RecordError| error.to_string())
        }),
        payload_at: None,
    }
}

fn request(value: Request) -> Sample {
    Sample {
        name: format!("request-{}.v1", request_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &REQUEST_LIMITS).map_err(|error| error.to_string())?;
            let found = Request::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}

fn response(value: Response) -> Sample {
    Sample {
        name: format!("response-{}.v1", response_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &RESPONSE_LIMITS).map_err(|error| error.to_string())?;
            let found = Response::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}

pub(crate) fn one_frame(bytes: &[u8], limits: &frame::Limits) -> Result<Frame, FrameError> {
    let (frame, length) = frame::decode(bytes, limits)?;
    assert_eq!(length, bytes.len(), "a sample is one frame");
    Ok(frame.expect("a sample is of a known kind"))
}

/// Without a wildcard: a new request has to be given a name, and then a sample.
fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Create(_) => "create",
        Request::Restore { .. } => "restore",
        Request::Start => "start",
        Request::Pause => "pause",
        Request::Resume => "resume",
        Request::Save => "save",
        Request::Snapshot { .. } => "snapshot",
        Request::Stats => "stats",
        Request::AttachConsole {
            which: ConsoleKind::Serial,
        } => "attach-serial",
        Request::AttachConsole {
            which: ConsoleKind::Virtio,
        } => "attach-virtio",
        Request::PowerButton => "power-button",
        Request::Reset => "reset",
        Request::Stop => "stop",
        Request::Migrate(_) => "migrate",
        Request::MigrationProgress => "migration-progress",
        Request::CancelMigration => "cancel-migration",
        Request::HandOver => "hand-over",
        Request::InjectFaults { .. } => "inject-faults",
        Request::Mandate(_) => "mandate",
        Request::Prove(_) => "prove",
        Request::SetLeased(_) => "set-leased",
        Request::Revoke(_) => "revoke",
        Request::Standing => "standing",
        Request::Await(_) => "await",
        Request::Leave { .. } => "leave",
        Request::OpenWindow => "open-window",
        Request::Forecast { .. } => "forecast",
    }
}

fn response_name(response: &Response) -> &'static str {
    match response {
        Response::Ok => "ok",
        Response::Stats(stats) => match stats.state {
            GuestState::Created => "stats-created",
            GuestState::Running => "stats-running",
            GuestState::Paused => "stats-paused",
            GuestState::Stopped => "stats-stopped",
        },
        Response::Saved(_) => "saved",
        Response::Snapshot(_) => "snapshot",
        Response::Exited(reason) => match reason {
            ExitReason::PowerOff => "exited-power-off",
            ExitReason::Reset => "exited-reset",
            ExitReason::TripleFault { .. } => "exited-triple-fault",
            ExitReason::KvmError { .. } => "exited-kvm-error",
            ExitReason::Stopped => "exited-stopped",
            ExitReason::Failed(_) => "exited-failed",
            ExitReason::Migrated => "exited-migrated",
        },
        Response::Error(_) => "error",
        Response::Migrated { .. } => "migrated",
        Response::Migrating(_) => "migrating",
        Response::Forecast { .. } => "forecast",
        Response::HandedOver { .. } => "handed-over",
        Response::Standing(_) => "standing",
        Response::Awaiting { .. } => "awaiting",
    }
}

pub(crate) fn requests() -> Vec<Request> {
    vec![
        Request::Create(guest_spec()),
        Request::Restore {
            dir: "/var/lib/godwit/snapshots/web-1".into(),
            lazy: true,
            overrides: process::overrides(),
        },
        Request::Start,
        Request::Pause,
        Request::Resume,
        Request::Save,
        Request::Snapshot {
            dir: "/var/lib/godwit/snapshots/web-1".into(),
        },
        Request::Stats,
        Request::AttachConsole {
            which: ConsoleKind::Serial,
        },
        Request::AttachConsole {
            which: ConsoleKind::Virtio,
        },
        Request::PowerButton,
        Request::Reset,
        Request::Stop,
        Request::Migrate(process::migrate_request()),
        Request::MigrationProgress,
        Request::CancelMigration,
        Request::HandOver,
        Request::InjectFaults {
            faults: vec!["source:pause-guest=kill".into()],
        },
        Request::Mandate(process::mandate()),
        Request::Prove(Proof {
            epoch: Epoch::new(7),
            until_ns: 12_000_000_345,
        }),
        Request::SetLeased(true),
        Request::Revoke(Epoch::new(8)),
        Request::Standing,
        Request::Await(AwaitRequest {
            listen: "192.0.2.7:0".into(),
            patience_ms: 30_000,
            overrides: process::overrides(),
            overcommit: false,
        }),
        Request::Leave {
            migration: MigrationId::from_bytes([2; 16]),
            request: process::migrate_request(),
        },
        Request::OpenWindow,
        Request::Forecast {
            migrate: Box::new(process::migrate_request()),
            watch_ms: 3000,
        },
    ]
}

pub(crate) fn responses() -> Vec<Response> {
    let states = [
        GuestState::Created,
        GuestState::Running,
        GuestState::Paused,
        GuestState::Stopped,
    ];
    let mut responses = vec![
        Response::Ok,
        Response::Saved(counting(300)),
        Response::Snapshot(SnapshotReport {
            bytes_written: 123_456_789,
            pause_ns: 812_000,
            total_ns: 2_345_678_901,
        }),
        Response::Exited(ExitReason::PowerOff),
        Response::Exited(ExitReason::Reset),
        Response::Exited(ExitReason::TripleFault {
            vcpu: 1,
            registers: "rip=0xfff0".into(),
        }),
        Response::Exited(ExitReason::KvmError {
            vcpu: 0,
            message: "internal error, suberror 1".into(),
            registers: "rip=0x100000".into(),
        }),
        Response::Exited(ExitReason::Stopped),
        Response::Exited(ExitReason::Failed(coded_error())),
        Response::Error(coded_error()),
        Response::Exited(ExitReason::Migrated),
        Response::Migrated {
            moved: true,
            receipt: "{}".into(),
            table: "outcome    completed\n".into(),
        },
        Response::Migrating(Some("{}".into())),
        Response::HandedOver {
            taps: vec![HandedTap {
                id: "lan".into(),
                queues: 2,
            }],
            left_by: Some(MigrationId::from_bytes([7; 16])),
        },
        Response::Standing(Standing {
            mandate: Some(process::mandate()),
            state: MandateState::Running,
            departure: Some(Departure {
                migration: MigrationId::from_bytes([2; 16]),
                stage: Leaving::Ended {
                    parting: Parting::NeverRan(coded_error()),
                    receipt: "{}".into(),
                },
            }),
        }),
        Response::Awaiting {
            address: "192.0.2.7:40001".into(),
            token: "godwit1_token".into(),
        },
        Response::Forecast {
            forecast: "{}".into(),
            table: "mode       hybrid\n".into(),
        },
    ];
    responses.extend(states.map(|state| Response::Stats(stats(state))));
    responses
}

fn stats(state: GuestState) -> GuestStats {
    let counter = |name: &str, value| NamedCounter {
        name: name.into(),
        value,
    };
    GuestStats {
        state,
        memory_bytes: 1 << 30,
        resident_bytes: 300 << 20,
        dirty_pages: (state == GuestState::Running).then_some(4711),
        uptime_ns: 60_000_000_123,
        vcpus: vec![VcpuStats { exits: 1000 }, VcpuStats { exits: 2000 }],
        devices: vec![DeviceStats {
            id: "root".into(),
            counters: vec![
                counter("read_bytes", 1 << 20),
                counter("write_bytes", 2 << 20),
            ],
        }],
    }
}

pub(crate) fn coded_error() -> CodedError {
    let mut error = CodedError::new(ErrorCode::Disk, "cannot open disk \"root\"")
        .with_fix("stop the guest that uses it");
    error.causes = vec!["/srv/root.img is locked".into(), "os error 11".into()];
    error
}

pub(crate) fn guest_spec() -> GuestSpec {
    GuestSpec {
        name: "web-1".into(),
        vcpus: 4,
        memory: MemorySpec {
            size_bytes: 4 << 30,
            huge_pages: HugePages::Huge2M,
        },
        cpu_profile: "x86-64-v3".into(),
        boot: BootSpec {
            kernel: Kernel::File("/boot/vmlinuz".into()),
            initrd: Some("/boot/initrd.img".into()),
            cmdline: Some("console=ttyS0 root=/dev/vda1".into()),
        },
        serial: SerialSpec::File("/var/log/web-1.log".into()),
        disks: vec![
            DiskSpec {
                id: "root".into(),
                path: "/srv/root.img".into(),
                read_only: false,
                discard: true,
                direct: false,
            },
            DiskSpec {
                id: "seed".into(),
                path: "/srv/seed.img".into(),
                read_only: true,
                discard: false,
                direct: true,
            },
        ],
        nets: vec![NetSpec {
            id: "lan".into(),
            tap: "tap0".into(),
            mac: Some([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]),
            queue_pairs: 2,
            offload: true,
        }],
        rng: true,
        console: Some(SerialSpec::Socket("/run/godwit/web-1.console".into())),
    }
}

fn minimal_guest_spec() -> GuestSpec {
    GuestSpec {
        name: String::new(),
        vcpus: 1,
        memory: MemorySpec {
            size_bytes: 16 << 20,
            huge_pages: HugePages::None,
        },
        cpu_profile: "host".into(),
        boot: BootSpec {
            kernel: Kernel::BuiltIn,
            initrd: None,
            cmdline: None,
        },
        serial: SerialSpec::Null,
        disks: vec![],
        nets: vec![],
        rng: false,
        console: None,
    }
}

fn stdio_guest_spec() -> GuestSpec {
    let mut spec = minimal_guest_spec();
    spec.serial = SerialSpec::Stdio;
    spec.memory.huge_pages = HugePages::Transparent;
    spec
}

pub(crate) fn memory_layout() -> MemoryLayout {
    MemoryLayout {
        size_bytes: 4 << 30,
        page_size: 4096,
        ranges: vec![
            MemoryRange {
                start: 0,
                len: 3 << 30,
            },
            MemoryRange {
                start: 4 << 30,
                len: 1 << 30,
            },
        ],
    }
}

fn snapshot_memory() -> SnapshotMemory {
    SnapshotMemory {
        chunk_bytes: 2 << 20,
        digests: vec![0x0123_4567_89ab_cdef, 0, u64::MAX],
        file_bytes: 5 << 20,
    }
}

pub(crate) fn vcpu() -> VcpuState {
    VcpuState {
        index: 3,
        mp_state: 0,
        regs: counting_array(),
        sregs: counting_array(),
        xcrs: vec![Xcr { index: 0, value: 7 }],
        xsave: counting(4096),
        debug_regs: counting_array(),
        lapic: counting_array(),
        msrs: vec![
            Msr {
                index: 0x10,
                value: 0x1234_5678_9abc,
            },
            Msr {
                index: 0xc000_0080,
                value: 0xd01,
            },
        ],
        events: counting_array(),
        tsc_khz: 2_400_000,
        cpuid: vec![CpuidEntry {
            function: 7,
            index: 1,
            flags: 1,
            eax: 0x10,
            ebx: 0x20,
            ecx: 0x30,
            edx: 0x40,
        }],
    }
}

fn irqchip() -> IrqchipState {
    IrqchipState {
        pic_master: counting_array(),
        pic_slave: [0x11; 512],
        ioapic: [0x22; 512],
        pit2: Some(counting_array()),
    }
}

fn clock() -> ClockState {
    ClockState {
        clock_ns: 60_000_000_123,
        flags: 0b1110,
        realtime_ns: 1_750_000_000_000_000_000,
        host_tsc: 0x1_2345_6789,
    }
}

fn serial() -> SerialState {
    SerialState {
        baud_divisor_low: 0x0c,
        baud_divisor_high: 0,
        interrupt_enable: 1,
        interrupt_identification: 1,
        line_control: 3,
        line_status: 0x61,
        modem_control: 8,
        modem_status: 0xb0,
        scratch: 0x5a,
        in_buffer: b"ls\n".to_vec(),
    }
}

pub(crate) fn pci_device() -> PciDeviceState {
    let queue = QueueState {
        max_size: 256,
        size: 128,
        ready: true,
        desc_table: 0x10_0000,
        avail_ring: 0x11_0000,
        used_ring: 0x12_0000,
        next_avail: 65535,
        next_used: 65533,
        event_idx_enabled: true,
    };
    PciDeviceState {
        slot: 4,
        config: counting(256),
        msix: MsixState {
            enabled: true,
            function_masked: false,
            entries: vec![
                MsixEntry {
                    address: 0xfee0_0000,
                    data: 0x41,
                    masked: false,
                },
                MsixEntry {
                    address: 0xfee0_1000,
                    data: 0x42,
                    masked: true,
                },
            ],
            pending: vec![0b10],
        },
        transport: VirtioTransportState {
            device_type: 2,
            status: 0x0f,
            device_feature_select: 1,
            driver_feature_select: 1,
            negotiated_features: 1 << 32 | 1 << 29,
            config_generation: 2,
            config_vector: 0,
            queue_vectors: vec![1, 0xffff],
            queues: vec![
                queue,
                QueueState {
                    max_size: 64,
                    ..QueueState::default()
                },
            ],
            queue_select: 1,
            isr: 1,
        },
        device: GedState { pending: 0 }.encode().unwrap(),
    }
}

/// 0, 1, 2 ... modulo 251, so that no power of two repeats.
fn counting(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

fn counting_array<const N: usize>() -> [u8; N] {
    counting(N).try_into().unwrap()
}
