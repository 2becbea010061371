//! Save and restore of a network card: [`NetState`].

use godwit_proto::record::{Record, RecordError};
use godwit_proto::state::net::NetState;

/// Why a saved card does not fit this one.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetRestoreError {
    #[error("cannot read its record")]
    Record(#[source] RecordError),
    #[error("the saved card has the address {saved:02x?} and this one {found:02x?}")]
    Mac {
        saved: Option<[u8; 6]>,
        found: Option<[u8; 6]>,
    },
    #[error("the saved card has {saved} queue pairs and this one {found}")]
    QueuePairs { saved: u16, found: u16 },
    #[error("{active} of {all} queue pairs cannot be in use")]
    ActivePairs { active: u16, all: u16 },
}

pub(super) fn save(state: &NetState) -> Vec<u8> {
    state.encode().expect("the record has a small fixed size")
}

/// The state in `bytes`, when it is of a card with this address and so many queue pairs.
pub(super) fn restore(
    bytes: &[u8],
    mac: Option<[u8; 6]>,
    queue_pairs: u16,
) -> Result<NetState, NetRestoreError> {
    let state = NetState::decode(bytes).map_err(NetRestoreError::Record)?;
    if state.mac != mac {
        return Err(NetRestoreError::Mac {
            saved: state.mac,
            found: mac,
        });
    }
    if state.queue_pairs != queue_pairs {
        return Err(NetRestoreError::QueuePairs {
            saved: state.queue_pairs,
            found: queue_pairs,
        });
    }
    if state.active_pairs == 0 || state.active_pairs > queue_pairs {
        return Err(NetRestoreError::ActivePairs {
            active: state.active_pairs,
            all: queue_pairs,
        });
    }
    Ok(state)
}
