//! What a network card is configured with, and the features that follow.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS,
};

use crate::kvm::tap_ioctl;

/// The most queue pairs of a card.
pub const MAX_QUEUE_PAIRS: u16 = 16;
/// Ring size offered for each direction.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Ring size offered for the control queue.
pub(super) const CONTROL_QUEUE_SIZE: u16 = 64;
/// `struct virtio_net_hdr_v1` (5.1.6), bytes: before each frame in both directions.
pub(super) const HEADER_BYTES: usize = 12;
/// Offset of `num_buffers` in it.
pub(super) const NUM_BUFFERS_OFFSET: u64 = 10;
/// The longest frame behind its header: a segment of 65535 bytes, Ethernet header, two VLAN tags.
pub(super) const MAX_FRAME_BYTES: usize = 65535 + 14 + 8;
/// `VIRTIO_NET_S_LINK_UP` (5.1.4).
pub(super) const STATUS_LINK_UP: u16 = 1;
/// `VIRTIO_NET_S_ANNOUNCE` (5.1.4).
pub(super) const STATUS_ANNOUNCE: u16 = 2;

/// One network card.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Name of the card, for logs and threads.
    pub id: String,
    /// Name of the tap on the host, 1 to 15 bytes.
    pub tap: String,
    /// The card's address; `None` lets the driver choose one, which then changes with each boot.
    pub mac: Option<[u8; 6]>,
    /// Queue pairs, 1 to [`MAX_QUEUE_PAIRS`]; more than one needs a tap made with `multi_queue`.
    pub queue_pairs: u16,
    /// Offer checksum and segmentation offload.
    pub offload: bool,
}

/// The features offered with [`NetConfig::offload`].
pub(super) const OFFLOADS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;

/// Whether `features` contains the bit of that number.
pub(super) fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// The features offered for a card.
pub(super) fn features(config: &NetConfig) -> u64 {
    let mut bits = vec![
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_GUEST_ANNOUNCE,
        VIRTIO_NET_F_MRG_RXBUF,
    ];
    if config.mac.is_some() {
        bits.push(VIRTIO_NET_F_MAC);
    }
    if config.queue_pairs > 1 {
        bits.push(VIRTIO_NET_F_MQ);
    }
    let offloads = if config.offload { OFFLOADS } else { 0 };
    bits.into_iter().fold(offloads, |all, bit| all | 1 << bit)
}

/// Whether a driver that negotiated `features` can be asked to announce itself (5.1.3.1: it takes
/// the control queue to answer), and is able to see that it is asked.
pub(super) fn can_announce(features: u64) -> bool {
    has(features, VIRTIO_NET_F_GUEST_ANNOUNCE)
        && has(features, VIRTIO_NET_F_CTRL_VQ)
        && has(features, VIRTIO_NET_F_STATUS)
}

/// What the tap may leave to a guest that negotiated `features`. Segmentation without checksums is
/// not allowed to a driver (5.1.3.1) nor by the kernel, so it is left out.
pub(super) fn offload_bits(features: u64) -> u32 {
    if !has(features, VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut bits = tap_ioctl::OFFLOAD_CSUM;
    for (feature, bit) in [
        (VIRTIO_NET_F_GUEST_TSO4, tap_ioctl::OFFLOAD_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, tap_ioctl::OFFLOAD_TSO6),
    ] {
        if has(features, feature) {
            bits |= bit;
        }
    }
    let segments = bits & (tap_ioctl::OFFLOAD_TSO4 | tap_ioctl::OFFLOAD_TSO6) != 0;
    if segments && has(features, VIRTIO_NET_F_GUEST_ECN) {
        bits |= tap_ioctl::OFFLOAD_TSO_ECN;
    }
    bits
}

/// `struct virtio_net_config` (5.1.4), little-endian, up to and without the MTU.
pub(super) fn config_space(mac: Option<[u8; 6]>, status: u16, queue_pairs: u16) -> [u8; 10] {
    let mut space = [0; 10];
    space[..6].copy_from_slice(&mac.unwrap_or_default());
    space[6..8].copy_from_slice(&status.to_le_bytes());
    space[8..].copy_from_slice(&queue_pairs.to_le_bytes());
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_is_never_enabled_without_checksums() {
        let tso = 1u64 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_ECN;
        assert_eq!(offload_bits(tso), 0);
        let csum = 1u64 << VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(offload_bits(csum), tap_ioctl::OFFLOAD_CSUM);
        assert_eq!(
            offload_bits(csum | tso),
            tap_ioctl::OFFLOAD_CSUM | tap_ioctl::OFFLOAD_TSO4 | tap_ioctl::OFFLOAD_TSO_ECN
        );
        assert_eq!(
            offload_bits(csum | 1 << VIRTIO_NET_F_GUEST_ECN),
            tap_ioctl::OFFLOAD_CSUM
        );
    }
}
