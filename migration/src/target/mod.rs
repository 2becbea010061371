//! The target's side.

mod machine;
mod round;
mod running;
mod switch;

pub use machine::{Command, Event, Limits, Outcome, Step, Target};
