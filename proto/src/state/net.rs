//! A virtio network device.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// What a network card must carry over besides configuration space and rings.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetState {
    /// The card's address; `None` when the driver chose one by itself.
    pub mac: Option<[u8; 6]>,
    /// Queue pairs the card has.
    pub queue_pairs: u16,
    /// Queue pairs the driver uses (`VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`), 1..=`queue_pairs`.
    pub active_pairs: u16,
    /// The driver was asked to announce itself and has not answered yet.
    pub announce: bool,
}
record!(NetState, Kind::VirtioNet, version = 1);
