//! A volume is the disk of at most one guest, and both say so.

use std::collections::BTreeMap;

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut holders = BTreeMap::new();
    let mut wrong = Vec::new();
    for guest in state.guests() {
        for attachment in &guest.template.volumes {
            if let Some(other) = holders.insert(attachment.volume, guest.id) {
                wrong.push(format!(
                    "{} is of {other} and {}",
                    attachment.volume, guest.id
                ));
            }
        }
    }
    for volume in state.volumes() {
        if volume.attached != holders.get(&volume.id).copied() {
            let name = &volume.meta.name;
            wrong.push(format!("volume {name} says it is of {:?}", volume.attached));
        }
        holders.remove(&volume.id);
    }
    wrong.extend(
        holders
            .into_keys()
            .map(|volume| format!("{volume} is not there")),
    );
    wrong
}
