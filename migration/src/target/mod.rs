//! The target's side.

mod absent;
mod api;
mod machine;
mod round;
mod running;
mod stale;
mod switch;

pub use api::{Command, Event, Limits, Outcome, Step};
pub use machine::Target;
