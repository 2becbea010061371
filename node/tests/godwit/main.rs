//! The program as its users meet it: real processes, real guests.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod bad_input;
mod bench;
mod cluster;
mod commands;
mod demo;
mod foreground;
mod hostile_sources;
mod hostile_targets;
mod migrate;
mod migrate_busy;
mod migrate_faults;
mod migrate_forecast;
mod migrate_limits;
mod migrate_local;
mod migrate_modes;
mod migrate_return;
mod migrate_throttle;
mod moving;
mod owned;
mod peer;
mod protocol;
mod reach;
mod relay;
mod support;
mod terminal;
