//! Parts of requests to a guest process.

use godwit_proto::guest::SerialSpec;
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::migrate::Mode;
use godwit_proto::process::{
    Compression, DiskOverride, Mandate, MigrateRequest, NetOverride, Origin, Overrides,
    TimeoutAction,
};

pub(super) fn migrate_request() -> MigrateRequest {
    MigrateRequest {
        to: "192.0.2.7:7401".into(),
        token: "a token".into(),
        downtime_limit_ms: Some(100),
        timeout_ms: None,
        local: Some("/run/godwit/web-1.sock".into()),
        bandwidth_cap: Some(125_000_000),
        streams: Some(4),
        mode: Some(Mode::Hybrid),
        timeout_action: Some(TimeoutAction::PostCopy),
        throttle_start: Some(20),
        throttle_step: Some(10),
        throttle_max: Some(90),
        compression: Some(Compression::Level(-3)),
        verify: true,
        recovery_window_ms: Some(60_000),
        retain_ms: Some(120_000),
        asked_by: "alice".into(),
        why: "maintenance".into(),
    }
}

pub(super) fn overrides() -> Overrides {
    Overrides {
        disks: vec![DiskOverride {
            id: "root".into(),
            path: "/dev/vg0/web-1".into(),
        }],
        nets: vec![NetOverride {
            id: "lan".into(),
            tap: "tap9".into(),
        }],
        serial: Some(SerialSpec::Null),
        console: None,
    }
}

pub(super) fn mandate() -> Mandate {
    Mandate {
        guest: GuestId::from_bytes([1; 16]),
        epoch: Epoch::new(7),
        leased: true,
        origin: Origin::Moved(MigrationId::from_bytes([2; 16])),
    }
}
