//! One of each message of a migration.

use godwit_proto::frame;
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::{
    Accept, DigestMode, FromSource, FromTarget, LIMITS, Mode, Offer, OfferedDevice, PageRun,
    ResumeTimes, Retained, RoundTotals, RunDigest, SwitchKind,
};
use godwit_proto::record::Record;

use super::{Sample, coded_error, guest_spec, memory_layout, one_frame, vcpu};

pub(super) fn samples() -> Vec<Sample> {
    let modes = [Mode::PreCopy, Mode::PostCopy, Mode::Hybrid, Mode::Local];
    let mut source: Vec<FromSource> = modes
        .map(|mode| FromSource::Offer(Box::new(offer(mode))))
        .into();
    let run = PageRun { first: 7, count: 9 };
    let epoch = Epoch::new(4);
    source.extend([
        FromSource::RoundBegin {
            round: 2,
            pages: 17,
        },
        FromSource::RoundEnd {
            round: 2,
            totals: RoundTotals {
                batches: vec![3, 4],
                pages: 17,
                bytes: 1 << 33,
            },
        },
        FromSource::Switch {
            kind: SwitchKind::LastRound(3),
        },
        FromSource::Switch {
            kind: SwitchKind::PostCopy,
        },
        FromSource::Switch {
            kind: SwitchKind::Local,
        },
        FromSource::Missing {
            runs: vec![
                run,
                PageRun {
                    first: 20,
                    count: 1,
                },
            ],
            last: true,
        },
        FromSource::Stale {
            runs: vec![run],
            last: true,
        },
        FromSource::State {
            bytes: b"state".to_vec(),
        },
        FromSource::Digests {
            runs: vec![RunDigest {
                run,
                digest: 0x0123_4567_89ab_cdef,
            }],
            last: false,
        },
        FromSource::Relinquish { epoch },
        FromSource::PushDone,
        FromSource::Recover {
            migration: MigrationId::from_bytes([1; 16]),
            epoch,
        },
        FromSource::Abort(coded_error()),
        FromSource::Ping { nonce: 5 },
        FromSource::Pong { nonce: 6 },
    ]);
    let target = [
        FromTarget::Accept(Accept {
            retained: true,
            post_copy: true,
        }),
        FromTarget::Refuse(vec![coded_error(), coded_error()]),
        FromTarget::RoundAck { round: 2 },
        FromTarget::GaveUp,
        FromTarget::Ready,
        FromTarget::Resumed(ResumeTimes {
            restore_ns: 800_000,
            resume_ns: 120_000,
        }),
        FromTarget::NotStarted {
            epoch,
            error: coded_error(),
        },
        FromTarget::PageRequest(run),
        FromTarget::Received {
            first: 64,
            words: vec![u64::MAX, 0b101],
            last: true,
        },
        FromTarget::Complete,
        FromTarget::Abort(coded_error()),
        FromTarget::Cancel,
        FromTarget::Ping { nonce: 5 },
        FromTarget::Pong { nonce: 6 },
        FromTarget::FirstFrame {
            after_resume_ns: Some(2_500_000),
        },
        FromTarget::FirstFrame {
            after_resume_ns: None,
        },
    ];
    let source = source.into_iter().map(from_source);
    source.chain(target.into_iter().map(from_target)).collect()
}

fn offer(mode: Mode) -> Offer {
    Offer {
        migration: MigrationId::from_bytes([1; 16]),
        guest: GuestId::from_bytes([2; 16]),
        name: "web-1".into(),
        epoch: Epoch::new(4),
        spec: guest_spec().encode().unwrap(),
        layout: memory_layout().encode().unwrap(),
        pages: 1 << 20,
        cpuid: vcpu().cpuid,
        devices: vec![OfferedDevice {
            slot: 3,
            device_type: 2,
            id: "root".into(),
        }],
        mode,
        digests: if mode == Mode::PreCopy {
            DigestMode::Switch
        } else {
            DigestMode::Off
        },
        streams: 4,
        retained: (mode == Mode::Hybrid).then_some(Retained {
            migration: MigrationId::from_bytes([3; 16]),
            digest_seed: 5,
        }),
        local: (mode == Mode::Local).then(|| "/run/godwit/web-1.sock".into()),
    }
}

fn from_source(value: FromSource) -> Sample {
    Sample {
        name: format!("from-source-{}.v1", source_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &LIMITS).map_err(|error| error.to_string())?;
            let found = FromSource::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}

fn from_target(value: FromTarget) -> Sample {
    Sample {
        name: format!("from-target-{}.v1", target_name(&value)),
        bytes: value.to_frame(1).unwrap(),
        is_sample: Box::new(move |bytes| {
            let frame = one_frame(bytes, &LIMITS).map_err(|error| error.to_string())?;
            let found = FromTarget::from_frame(&frame).map_err(|error| error.to_string())?;
            Ok(found == value)
        }),
        payload_at: Some(frame::HEADER_BYTES),
    }
}

/// Without a wildcard: a new message has to be given a name, and then a sample.
fn source_name(message: &FromSource) -> &'static str {
    match message {
        FromSource::Offer(offer) => match offer.mode {
            Mode::PreCopy => "offer-pre-copy",
            Mode::PostCopy => "offer-post-copy",
            Mode::Hybrid => "offer-hybrid",
            Mode::Local => "offer-local",
        },
        FromSource::RoundBegin { .. } => "round-begin",
        FromSource::RoundEnd { .. } => "round-end",
        FromSource::Switch { kind } => match kind {
            SwitchKind::LastRound(_) => "switch-last-round",
            SwitchKind::PostCopy => "switch-post-copy",
            SwitchKind::Local => "switch-local",
        },
        FromSource::Stale { .. } => "stale",
        FromSource::Missing { .. } => "missing",
        FromSource::State { .. } => "state",
        FromSource::Digests { .. } => "digests",
        FromSource::Relinquish { .. } => "relinquish",
        FromSource::PushDone => "push-done",
        FromSource::Recover { .. } => "recover",
        FromSource::Abort(_) => "abort",
        FromSource::Ping { .. } => "ping",
        FromSource::Pong { .. } => "pong",
    }
}

fn target_name(message: &FromTarget) -> &'static str {
    match message {
        FromTarget::Accept(_) => "accept",
        FromTarget::Refuse(_) => "refuse",
        FromTarget::RoundAck { .. } => "round-ack",
        FromTarget::GaveUp => "gave-up",
        FromTarget::Ready => "ready",
        FromTarget::Resumed(_) => "resumed",
        FromTarget::NotStarted { .. } => "not-started",
        FromTarget::PageRequest(_) => "page-request",
        FromTarget::Received { .. } => "received",
        FromTarget::Complete => "complete",
        FromTarget::Abort(_) => "abort",
        FromTarget::Cancel => "cancel",
        FromTarget::Ping { .. } => "ping",
        FromTarget::Pong { .. } => "pong",
        FromTarget::FirstFrame {
            after_resume_ns: Some(_),
        } => "first-frame",
        FromTarget::FirstFrame {
            after_resume_ns: None,
        } => "first-frame-none",
    }
}
