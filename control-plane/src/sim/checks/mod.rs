//! What must hold, one file each.

mod acknowledged;
mod begun_once;
mod healed;
mod memory_fits_disks;
mod never_stopped;
mod not_taken_while_it_runs;
mod one_runner;

pub(super) use begun_once::Begun;

/// What checks remember.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) begun: Begun,
}
