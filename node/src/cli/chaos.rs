//! What `godwit migrate` and `godwit receive` offer to those who test migrations.

use std::fmt::Write;

use godwit_migration::fault::{Fault, OnError, Side, Step};

/// The heading in the help.
pub(super) const HEADING: &str = "Chaos testing";

/// The help of `--inject` at `side`.
pub(super) fn inject_help(side: Side) -> String {
    let mut help = format!(
        "Have the migration fail at a step of the {side}; may be repeated\n\n\
         STEP is the first time that the step is taken, STEP@N the Nth. FAULT is one of\n  {}\n\
         with TIME as in 500ms or 2s. `error`, `disk-full` and `out-of-memory` fail the step, `cancel` is the user's, `delay` \
         holds this side up before it, `cut` drops all traffic unsaid, as a dead network does, and \
         `kill` is SIGKILL. A fault strikes once. Steps:\n",
        Fault::FORMS.join("  ")
    );
    for step in Step::ALL.iter().filter(|step| step.side() == side) {
        let never = match step.on_error() {
            OnError::Never => "   (does not fail)",
            _ => "",
        };
        // Writing to a string does not fail.
        let _ = write!(help, "\n  {step}{never}");
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_step_of_its_side_and_none_of_the_other() {
        let [source, target] = [Side::Source, Side::Target].map(inject_help);
        for step in Step::ALL {
            let line = format!("\n  {step}");
            assert_eq!(
                source.contains(&line),
                step.side() == Side::Source,
                "{step}"
            );
            assert_eq!(
                target.contains(&line),
                step.side() == Side::Target,
                "{step}"
            );
        }
    }
}
