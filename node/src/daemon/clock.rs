//! The daemon's clocks.

use std::time::{Duration, SystemTime};

use godwit_proto::id::Timestamp;

pub(super) use crate::guest_process::mandate::boot_time;

/// The time of day, for display.
pub(super) fn now_millis() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = now.unwrap_or(Duration::ZERO).as_millis();
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
