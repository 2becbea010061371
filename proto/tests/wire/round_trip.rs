//! Any value comes back as it was sent.

use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::frame::{self, FrameDecoder, FrameKind, Limits};
use godwit_proto::guest::{
    BootSpec, DiskSpec, GuestSpec, HugePages, Kernel, MemorySpec, NetSpec, SerialSpec,
};
use godwit_proto::id::GuestId;
use godwit_proto::process::{
    DiskOverride, ExitReason, NetOverride, Overrides, Request, Response, VERSIONS,
};
use godwit_proto::record::{Record, RecordReader, RecordWriter};
use godwit_proto::state::pci::{MsixEntry, MsixState, PciDeviceState, VirtioTransportState};
use godwit_proto::state::queue::QueueState;
use godwit_proto::state::vcpu::{CpuidEntry, Msr, VcpuState, Xcr};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::samples;

fn serial_spec() -> impl Strategy<Value = SerialSpec> {
    prop_oneof![
        Just(SerialSpec::Null),
        Just(SerialSpec::Stdio),
        ".{0,40}".prop_map(SerialSpec::File),
        ".{0,40}".prop_map(SerialSpec::Socket),
    ]
}

fn huge_pages() -> impl Strategy<Value = HugePages> {
    prop_oneof![
        Just(HugePages::None),
        Just(HugePages::Transparent),
        Just(HugePages::Huge2M)
    ]
}

fn boot_spec() -> impl Strategy<Value = BootSpec> {
    let kernel = prop_oneof![Just(Kernel::BuiltIn), ".{0,40}".prop_map(Kernel::File)];
    (kernel, option::of(".{0,40}"), option::of(".{0,200}")).prop_map(|(kernel, initrd, cmdline)| {
        BootSpec {
            kernel,
            initrd,
            cmdline,
        }
    })
}

fn disk_spec() -> impl Strategy<Value = DiskSpec> {
    (".{0,20}", ".{0,40}", any::<[bool; 3]>()).prop_map(
        |(id, path, [read_only, discard, direct])| DiskSpec {
            id,
            path,
            read_only,
            discard,
            direct,
        },
    )
}

fn net_spec() -> impl Strategy<Value = NetSpec> {
    (
        ".{0,20}",
        ".{0,20}",
        any::<Option<[u8; 6]>>(),
        any::<u16>(),
        any::<bool>(),
    )
        .prop_map(|(id, tap, mac, queue_pairs, offload)| NetSpec {
            id,
            tap,
            mac,
            queue_pairs,
            offload,
        })
}

fn guest_spec() -> impl Strategy<Value = GuestSpec> {
    (
        (
            ".{0,20}",
            any::<u32>(),
            any::<u64>(),
            huge_pages(),
            ".{0,20}",
        ),
        (boot_spec(), serial_spec(), option::of(serial_spec())),
        (vec(disk_spec(), 0..4), vec(net_spec(), 0..4), any::<bool>()),
    )
        .prop_map(|(machine, (boot, serial, console), (disks, nets, rng))| {
            let (name, vcpus, size_bytes, huge_pages, cpu_profile) = machine;
            let memory = MemorySpec {
                size_bytes,
                huge_pages,
            };
            GuestSpec {
                name,
                vcpus,
                memory,
                cpu_profile,
                boot,
                serial,
                disks,
                nets,
                rng,
                console,
            }
        })
}

fn cpuid_entry() -> impl Strategy<Value = CpuidEntry> {
    any::<[u32; 7]>().prop_map(|[function, index, flags, eax, ebx, ecx, edx]| CpuidEntry {
        function,
        index,
        flags,
        eax,
        ebx,
        ecx,
        edx,
    })
}

fn vcpu_state() -> impl Strategy<Value = VcpuState> {
    let xcr = any::<(u32, u64)>().prop_map(|(index, value)| Xcr { index, value });
    let msr = any::<(u32, u64)>().prop_map(|(index, value)| Msr { index, value });
    (
        any::<(u32, u32, u32, u8)>(),
        vec(xcr, 0..4),
        vec(any::<u8>(), 0..9000),
        vec(msr, 0..100),
        vec(cpuid_entry(), 0..50),
    )
        .prop_map(
            |((index, mp_state, tsc_khz, fill), xcrs, xsave, msrs, cpuid)| VcpuState {
                index,
                mp_state,
                tsc_khz,
                lapic: [fill; 1024],
                regs: [!fill; 144],
                xcrs,
                xsave,
                msrs,
                cpuid,
                ..samples::vcpu()
            },
        )
}

fn queue_state() -> impl Strategy<Value = QueueState> {
    (any::<[u16; 4]>(), any::<[u64; 3]>(), any::<(bool, bool)>()).prop_map(
        |([max_size, size, next_avail, next_used], [desc_table, avail_ring, used_ring], flags)| {
            QueueState {
                max_size,
                size,
                ready: flags.0,
                desc_table,
                avail_ring,
                used_ring,
                next_avail,
                next_used,
                event_idx_enabled: flags.1,
            }
        },
    )
}

fn pci_device_state() -> impl Strategy<Value = PciDeviceState> {
    let entry = any::<(u64, u32, bool)>().prop_map(|(address, data, masked)| MsixEntry {
        address,
        data,
        masked,
    });
    (
        (
            any::<u8>(),
            vec(any::<u8>(), 0..300),
            vec(any::<u8>(), 0..300),
        ),
        (
            any::<(bool, bool)>(),
            vec(entry, 0..40),
            vec(any::<u64>(), 0..3),
        ),
        (
            any::<(u16, u8, u64)>(),
            vec(any::<u16>(), 0..40),
            vec(queue_state(), 0..40),
        ),
    )
        .prop_map(
            |((slot, config, device), msix, (transport, queue_vectors, queues))| {
                let ((enabled, function_masked), entries, pending) = msix;
                let (device_type, status, negotiated_features) = transport;
                PciDeviceState {
                    slot,
                    config,
                    device,
                    msix: MsixState {
                        enabled,
                        function_masked,
                        entries,
                        pending,
                    },
                    transport: VirtioTransportState {
                        device_type,
                        status,
                        negotiated_features,
                        queue_vectors,
                        queues,
                        ..samples::pci_device().transport
                    },
                }
            },
        )
}

fn overrides() -> impl Strategy<Value = Overrides> {
    let disk = (".{0,9}", ".{0,9}").prop_map(|(id, path)| DiskOverride { id, path });
    let net = (".{0,9}", ".{0,9}").prop_map(|(id, tap)| NetOverride { id, tap });
    (
        vec(disk, 0..4),
        vec(net, 0..4),
        option::of(serial_spec()),
        option::of(serial_spec()),
    )
        .prop_map(|(disks, nets, serial, console)| Overrides {
            disks,
            nets,
            serial,
            console,
        })
}

fn coded_error() -> impl Strategy<Value = CodedError> {
    let code = proptest::sample::select(ErrorCode::ALL);
    (code, ".{0,40}", vec(".{0,40}", 0..4), option::of(".{0,40}")).prop_map(
        |(code, message, causes, fix)| {
            let mut error = CodedError::new(code, message);
            error.causes = causes;
            match fix {
                Some(fix) => error.with_fix(fix),
                None => error,
            }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        guest_spec().prop_map(Request::Create),
        (".{0,40}", any::<bool>(), overrides()).prop_map(|(dir, lazy, overrides)| {
            Request::Restore {
                dir,
                lazy,
                overrides,
            }
        }),
        ".{0,40}".prop_map(|dir| Request::Snapshot { dir }),
        proptest::sample::select(samples::requests()),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        vec(any::<u8>(), 0..5000).prop_map(Response::Saved),
        coded_error().prop_map(Response::Error),
        coded_error().prop_map(|error| Response::Exited(ExitReason::Failed(error))),
        proptest::sample::select(samples::responses()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_id_is_parsed_as_it_is_shown(bytes in any::<[u8; 16]>()) {
        let id = GuestId::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn any_sequence_of_records_comes_back(
        spec in guest_spec(),
        vcpus in vec(vcpu_state(), 0..4),
        devices in vec(pci_device_state(), 0..6),
    ) {
        let mut writer = RecordWriter::new();
        devices.iter().for_each(|device| writer.push(device).unwrap());
        vcpus.iter().for_each(|vcpu| writer.push(vcpu).unwrap());
        writer.push(&spec).unwrap();
        let bytes = writer.finish().unwrap();

        let mut reader = RecordReader::new(&bytes).unwrap();
        prop_assert_eq!(reader.one::<GuestSpec>().unwrap(), spec);
        prop_assert_eq!(reader.many::<VcpuState>().unwrap(), vcpus);
        prop_assert_eq!(reader.many::<PciDeviceState>().unwrap(), devices);
        reader.finish().unwrap();
    }

    #[test]
    fn a_record_reads_the_same_at_any_alignment(spec in guest_spec(), offset in 0_usize..8) {
        let record = spec.encode().unwrap();
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(&record);
        prop_assert_eq!(GuestSpec::decode(&bytes[offset..]).unwrap(), spec);
    }

    #[test]
    fn any_message_comes_back(request in request(), response in response()) {
        let mut stream = request.to_frame(1).unwrap();
        stream.extend(response.to_frame(1).unwrap());
        let limits = godwit_proto::process::RESPONSE_LIMITS;
        let (frame, length) = frame::decode(&stream, &limits).unwrap();
        prop_assert_eq!(Request::from_frame(&frame.unwrap()).unwrap(), request);
        let (frame, _) = frame::decode(&stream[length..], &limits).unwrap();
        prop_assert_eq!(Response::from_frame(&frame.unwrap()).unwrap(), response);
    }

    #[test]
    fn any_payloads_come_back_in_any_pieces(
        payloads in vec(vec(any::<u8>(), 0..200), 0..8),
        piece in 1_usize..300,
    ) {
        let mut stream = Vec::new();
        for payload in &payloads {
            stream.extend(frame::encode(FrameKind::Response, 1, payload, 200).unwrap());
        }
        let mut decoder =
            FrameDecoder::new(Limits { versions: VERSIONS, max_payload_bytes: 200 });
        let mut received = Vec::new();
        for mut piece in stream.chunks(piece) {
            while !piece.is_empty() {
                let taken = decoder.push(piece);
                prop_assert_ne!(taken, 0);
                piece = &piece[taken..];
                while let Some(frame) = decoder.pop().unwrap() {
                    received.push(frame.payload);
                }
            }
        }
        decoder.end().unwrap();
        prop_assert_eq!(received, payloads);
    }
}
