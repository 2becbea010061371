//! Guests on their way to a node: what they are made of, and the node they go to.

use godwit_control_plane::scheduler::{Demand, Purpose, Scheduler, explain};
use godwit_control_plane::state::State;
use godwit_proto::api::{CreateGuest, NewDisk, NewNetworkCard, labels};
use godwit_proto::cluster::{
    Guest, GuestTemplate, NetworkAttachment, NewGuest, Owner, VolumeAttachment,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{GuestId, NodeId};

use super::{find, random};

/// The node that a guest goes to: the one that is named, or the best one. A named one is checked when
/// the command is applied.
pub(super) fn node(
    state: &State,
    guest: &Guest,
    purpose: Purpose,
    named: Option<&str>,
) -> Result<NodeId, CodedError> {
    if let Some(name) = named {
        return find::node(state, name).map(|node| node.id);
    }
    let inventory = state.inventory();
    let demand = Demand::new(state, inventory, guest, purpose);
    let chosen = Scheduler::new().choose(inventory, &demand);
    chosen.ok_or_else(|| {
        let explanation = explain(state, inventory, guest, purpose);
        explanation.to_error().unwrap_or_else(|| {
            let message = format!("no node can take guest {}", guest.meta.name);
            CodedError::new(ErrorCode::Unschedulable, message)
        })
    })
}

/// Why a guest is looked a node for, as things are with it now.
pub(super) const fn purpose(guest: &Guest) -> Purpose {
    match guest.ownership.owner {
        Owner::Nobody => Purpose::Start,
        Owner::Node { .. } | Owner::Moving(_) => Purpose::Move,
    }
}

/// What a request for a guest asks for, with what it names found.
pub(super) fn new_guest(
    state: &State,
    request: &CreateGuest,
    id: GuestId,
) -> Result<NewGuest, CodedError> {
    let boot = &request.boot;
    for (field, path) in [("kernel", &boot.kernel), ("initrd", &boot.initrd)] {
        absolute(&format!("boot.{field}"), path.as_deref())?;
    }
    let disks = (0..).zip(&request.disks);
    let cards = (0..).zip(&request.networks);
    Ok(NewGuest {
        id,
        name: request.name.clone(),
        labels: labels(&request.labels),
        template: GuestTemplate {
            vcpus: request.vcpus,
            memory_bytes: request.memory_bytes,
            huge_pages: request.huge_pages.into(),
            cpu: request.cpu.into(),
            boot: boot.clone().into(),
            volumes: disks
                .map(|(index, disk)| disk_of(state, index, disk))
                .collect::<Result<_, _>>()?,
            networks: cards
                .map(|(index, card)| card_of(state, index, card))
                .collect::<Result<_, _>>()?,
            rng: request.rng,
            node_selector: labels(&request.node_selector),
        },
        failover: request.failover.into(),
    })
}

/// Refuses a path that would mean something else on each node.
pub(super) fn absolute(field: &str, path: Option<&str>) -> Result<(), CodedError> {
    match path {
        Some(path) if !path.starts_with('/') => {
            let message = format!("{field} must be an absolute path");
            Err(CodedError::new(ErrorCode::RequestInvalid, message))
        }
        _ => Ok(()),
    }
}

fn disk_of(state: &State, index: u32, disk: &NewDisk) -> Result<VolumeAttachment, CodedError> {
    Ok(VolumeAttachment {
        id: disk.id.clone().unwrap_or_else(|| format!("disk{index}")),
        volume: find::volume(state, &disk.volume)?.id,
        read_only: disk.read_only,
    })
}

fn card_of(
    state: &State,
    index: u32,
    card: &NewNetworkCard,
) -> Result<NetworkAttachment, CodedError> {
    let network = find::network(state, &card.network)?.id;
    let mac = match &card.mac {
        Some(text) => parse_mac(text).ok_or_else(|| {
            let message = format!("networks[{index}].mac must be as in 52:54:00:12:34:56");
            CodedError::new(ErrorCode::RequestInvalid, message)
        })?,
        None => drawn_mac()?,
    };
    Ok(NetworkAttachment {
        id: card.id.clone().unwrap_or_else(|| format!("net{index}")),
        network,
        mac,
    })
}

/// An address that nobody else has, most likely: 40 random bits. The first byte is that of QEMU's
/// addresses: one device, administered locally (IEEE 802, section 8.2).
fn drawn_mac() -> Result<[u8; 6], CodedError> {
    let mut mac = random::bytes::<6>()?;
    mac[0] = 0x52;
    Ok(mac)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| match byte.len() {
        2 if byte.bytes().all(|c| c.is_ascii_hexdigit()) => u8::from_str_radix(byte, 16).ok(),
        _ => None,
    });
    bytes.collect::<Option<Vec<_>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes() {
        assert_eq!(
            parse_mac("52:54:00:aB:34:56"),
            Some([0x52, 0x54, 0, 0xab, 0x34, 0x56])
        );
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:00:12:34:56",
            "+2:54:00:12:34:56",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
        assert_eq!(drawn_mac().unwrap()[0] & 0b11, 0b10);
    }
}
