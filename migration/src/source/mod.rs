//! The source's side.

mod after;
mod core;
mod machine;
mod push;
mod switch;

pub use machine::{Command, Event, Request, RoundSent, Source, Step};
pub use push::{MAX_REQUEST_PAGES, PUSH_PAGES, PushPlan};
