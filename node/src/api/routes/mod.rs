//! The routes, a file for each kind of object.

pub(super) mod cluster;
pub(super) mod console;
pub(super) mod events;
pub(super) mod guests;
pub(super) mod health;
pub(super) mod migrations;
pub(super) mod nodes;
pub(super) mod operations;
pub(super) mod resources;
pub(super) mod rules;
