//! What is kept beside the objects, to find them fast, is what they say.

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let (kept, built) = state.describe_index();
    let odd = kept.iter().filter(|line| !built.contains(line));
    let lost = built.iter().filter(|line| !kept.contains(line));
    odd.map(|line| format!("kept, and wrong: {line}"))
        .chain(lost.map(|line| format!("not kept: {line}")))
        .collect()
}
