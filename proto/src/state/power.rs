//! The generic event device: power button.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// The ACPI generic event device (ACPI 6.5, section 5.6.9).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GedState {
    /// Events raised and not yet read by the guest, one bit each.
    pub pending: u8,
}
record!(GedState, Kind::Ged, version = 1);
