//! Save and restore of a disk: [`BlockState`].

use godwit_proto::record::{Record, RecordError};
use godwit_proto::state::block::BlockState;

/// Why a saved disk does not fit this one.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockRestoreError {
    #[error("cannot read its record")]
    Record(#[source] RecordError),
    #[error(
        "the saved disk has {saved} sectors and this one {found}; attach the disk the guest was saved with"
    )]
    Capacity { saved: u64, found: u64 },
}

pub(super) fn save(sectors: u64, write_cache: bool) -> Vec<u8> {
    let state = BlockState {
        sectors,
        write_cache,
    };
    state.encode().expect("the record has a small fixed size")
}

/// Whether the write cache is on, when the record is of a disk of `sectors` sectors.
pub(super) fn restore(bytes: &[u8], sectors: u64) -> Result<bool, BlockRestoreError> {
    let state = BlockState::decode(bytes).map_err(BlockRestoreError::Record)?;
    if state.sectors != sectors {
        return Err(BlockRestoreError::Capacity {
            saved: state.sectors,
            found: sectors,
        });
    }
    Ok(state.write_cache)
}
