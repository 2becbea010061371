//! Revisions, generations, epochs, incarnations and the state's time never fall, whatever happens.

use std::collections::BTreeMap;

use godwit_proto::cluster::ObjectRef;

use crate::state::State;

pub(super) fn check(before: &State, after: &State) -> Vec<String> {
    let numbers = numbers(after);
    let fell = self::numbers(before)
        .into_iter()
        .filter_map(|(key, earlier)| {
            let later = numbers.get(&key)?;
            (*later < earlier).then(|| format!("{} of {} from {earlier} to {later}", key.1, key.0))
        });
    let mut wrong: Vec<String> = fell.collect();
    let (earlier, later) = (before.revision(), after.revision());
    if later != earlier && later != earlier.next() {
        wrong.push(format!(
            "one entry took the revision from {earlier} to {later}"
        ));
    }
    if after.now() < before.now() {
        wrong.push("the time went back".into());
    }
    wrong
}

/// Every number that is counted on.
fn numbers(state: &State) -> BTreeMap<(ObjectRef, &'static str), u64> {
    let mut numbers = BTreeMap::new();
    let mut meta = |object: ObjectRef, meta: &godwit_proto::cluster::Meta| {
        numbers.insert((object, "revision"), meta.revision.get());
        numbers.insert((object, "generation"), meta.generation.get());
    };
    meta(ObjectRef::Settings, &state.settings().meta);
    state
        .nodes()
        .for_each(|node| meta(ObjectRef::Node(node.id), &node.meta));
    state
        .guests()
        .for_each(|guest| meta(ObjectRef::Guest(guest.id), &guest.meta));
    state
        .volumes()
        .for_each(|volume| meta(ObjectRef::Volume(volume.id), &volume.meta));
    state
        .leases()
        .for_each(|lease| meta(ObjectRef::Lease(lease.node), &lease.meta));
    for guest in state.guests() {
        let object = ObjectRef::Guest(guest.id);
        numbers.insert((object, "epoch"), guest.ownership.highest.get());
    }
    for lease in state.leases() {
        let object = ObjectRef::Lease(lease.node);
        numbers.insert((object, "incarnation"), lease.incarnation.get());
    }
    numbers
}
