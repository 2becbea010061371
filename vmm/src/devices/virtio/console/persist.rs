//! Save and restore: the window size and the input that the driver has not got.

use godwit_proto::record::{Record, RecordError};
use godwit_proto::state::console::ConsoleState;

use super::device::WindowSize;
use super::inbox::CAPACITY;

/// Why a saved console was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsoleRestoreError {
    #[error("cannot read its record")]
    Record(#[source] RecordError),
    #[error("it has {found} bytes of input, at most {CAPACITY} are kept")]
    Input { found: usize },
}

pub(super) fn save(size: WindowSize, input: Vec<u8>) -> Vec<u8> {
    let state = ConsoleState {
        columns: size.columns,
        rows: size.rows,
        input,
    };
    state
        .encode()
        .expect("64 KiB are far below the limit of a record")
}

pub(super) fn restore(state: &[u8]) -> Result<(WindowSize, Vec<u8>), ConsoleRestoreError> {
    let state = ConsoleState::decode(state).map_err(ConsoleRestoreError::Record)?;
    if state.input.len() > CAPACITY {
        return Err(ConsoleRestoreError::Input {
            found: state.input.len(),
        });
    }
    let size = WindowSize {
        columns: state.columns,
        rows: state.rows,
    };
    Ok((size, state.input))
}
