//! What holds of every state, and of every step from one to the next; one file each.
//!
//! Tests hold them against random commands. They are public so that a simulation, or somebody who
//! distrusts a cluster, can hold them against any state; each answers with what is wrong, in words.

mod bounded;
mod drains_end;
mod fresh_epochs;
mod index_follows;
mod leases_match;
mod nothing_outlives_its_use;
mod numbers_grow;
mod one_handoff;
mod taken_only_when_lapsed;
mod volumes_have_one_guest;

use crate::state::State;

/// Something that must not be so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// The invariant.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

type OfState = fn(&State) -> Vec<String>;
type OfStep = fn(&State, &State) -> Vec<String>;

const OF_STATE: [(&str, OfState); 7] = [
    ("memory is bounded", bounded::check),
    ("a drain ends when its node is empty", drains_end::check),
    ("indexes follow from the state", index_follows::check),
    (
        "a node is ready while it holds its lease",
        leases_match::check,
    ),
    ("nothing outlives its use", nothing_outlives_its_use::check),
    ("a guest has at most one handoff", one_handoff::check),
    (
        "a volume has at most one guest",
        volumes_have_one_guest::check,
    ),
];

const OF_STEP: [(&str, OfStep); 3] = [
    (
        "whoever comes to run a guest has a fresh epoch",
        fresh_epochs::check,
    ),
    ("numbers only grow", numbers_grow::check),
    (
        "a guest is taken only from those whose lease has lapsed",
        taken_only_when_lapsed::check,
    ),
];

/// What is wrong with a state; nothing, always.
#[must_use]
pub fn check(state: &State) -> Vec<Violation> {
    let of = |(invariant, check): &(&'static str, OfState)| {
        let invariant = *invariant;
        let found = check(state).into_iter();
        found.map(move |what| Violation { invariant, what })
    };
    OF_STATE.iter().flat_map(of).collect()
}

/// What is wrong with the step that one entry made; nothing, always.
#[must_use]
pub fn check_step(before: &State, after: &State) -> Vec<Violation> {
    let of = |(invariant, check): &(&'static str, OfStep)| {
        let invariant = *invariant;
        let found = check(before, after).into_iter();
        found.map(move |what| Violation { invariant, what })
    };
    OF_STEP.iter().flat_map(of).collect()
}
