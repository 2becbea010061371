//! The virtio console's own state.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// What a virtio console holds besides its rings (virtio 1.2, section 5.3).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleState {
    /// Width shown to the driver, characters; 0 is unknown.
    pub columns: u16,
    /// Height shown to the driver, characters; 0 is unknown.
    pub rows: u16,
    /// Read from the backend and not yet given to the driver, oldest first; at most 64 KiB.
    pub input: Vec<u8>,
}
record!(ConsoleState, Kind::VirtioConsole, version = 1);
