//! The program as its users meet it: real processes, real guests.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod bad_input;
mod foreground;
mod migrate;
mod migrate_local;
mod migrate_modes;
mod migrate_return;
mod moving;
mod protocol;
mod reach;
mod relay;
mod support;
mod terminal;
