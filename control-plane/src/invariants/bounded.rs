//! Memory is bounded: nothing is remembered beyond its limit.

use godwit_proto::cluster::{OperationState, limits};

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let finished = state.migrations().filter(|m| m.phase.is_finished()).count();
    let (changes, requests) = state.remembered();
    let ended = |state: &OperationState| state.is_finished();
    let operations = state.operations().filter(|o| ended(&o.state)).count();
    [
        ("nodes", state.nodes().len(), limits::MAX_NODES),
        ("guests", state.guests().len(), limits::MAX_GUESTS),
        ("volumes", state.volumes().len(), limits::MAX_VOLUMES),
        ("pools", state.pools().len(), limits::MAX_POOLS),
        ("networks", state.networks().len(), limits::MAX_NETWORKS),
        ("rules", state.rules().len(), limits::MAX_RULES),
        ("baselines", state.baselines().len(), limits::MAX_BASELINES),
        (
            "finished migrations",
            finished,
            limits::MAX_FINISHED_MIGRATIONS,
        ),
        (
            "finished operations",
            operations,
            limits::MAX_FINISHED_OPERATIONS,
        ),
        ("events", state.events().len(), limits::MAX_EVENTS),
        ("changes", changes, limits::MAX_CHANGES),
        ("requests", requests, limits::MAX_REQUESTS),
    ]
    .into_iter()
    .filter(|(_, found, max)| found > max)
    .map(|(what, found, max)| format!("{found} {what}, at most {max}"))
    .collect()
}
