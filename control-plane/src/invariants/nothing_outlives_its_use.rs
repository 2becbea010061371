//! What is in the state for the length of something is gone when that is over: the token of a migration
//! that has ended, the copy that an owner may revive.

use godwit_proto::cluster::Owner;

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for migration in state.migrations() {
        if migration.phase.is_finished() && migration.token.is_some() {
            let name = &migration.meta.name;
            wrong.push(format!("migration {name} has ended and has a token"));
        }
    }
    for guest in state.guests() {
        let Some(revives) = guest.ownership.revives else {
            continue;
        };
        let is_older =
            matches!(guest.ownership.owner, Owner::Node { epoch, .. } if revives < epoch);
        if !is_older {
            let name = &guest.meta.name;
            wrong.push(format!("guest {name} revives what is not its owner's"));
        }
    }
    wrong
}
