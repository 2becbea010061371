//! The rules of the house, held by tests: which crate may use which, what lies where, how sources
//! and documents are written.
//!
//! Each check is a function from text to a list of violations. It is applied to the repository, and
//! to made-up input that it must refuse, so that no check can pass by doing nothing.

#![allow(clippy::unwrap_used)] // all of it is tests

mod arrows;
mod code;
mod documents;
mod layout;
mod licences;
mod sources;
mod specs;
mod tree;

/// What is wrong, one line each.
type Violations = Vec<String>;

/// Fails with every violation at once.
#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}
