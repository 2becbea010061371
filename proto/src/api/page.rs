//! Lists, and what is beside every document.

use serde::{Deserialize, Serialize};

use super::is_false;

/// A part of a list, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The state's revision when it was read.
    pub revision: u64,
    /// Whether it may be older than the request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
    /// What there is.
    pub items: Vec<T>,
    /// The `after` of the request for the next part; absent in the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read<T> {
    /// The object.
    #[serde(flatten)]
    pub object: T,
    /// Whether it may be older than the request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
}

/// The answer to a change that was done: with status 200 or 201 it has the object as well, with 202
/// the node that answers has not seen it yet. What is deleted is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written<T> {
    /// The revision that the change made.
    pub revision: u64,
    /// The object's id.
    pub id: String,
    /// The object, after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<T>,
}
