//! The source's side.

mod after;
mod api;
mod core;
mod machine;
mod push;
mod stale;
mod survey;
mod switch;

pub use api::{Command, Event, Request, RoundKind, RoundSent, Step};
pub use machine::Source;
pub use push::{MAX_REQUEST_PAGES, PUSH_PAGES, PushPlan};
