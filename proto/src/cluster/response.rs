//! What became of an entry.

use rkyv::{Archive, Deserialize, Serialize};

use super::ObjectRef;
use crate::codes::CodedError;
use crate::id::Revision;
use crate::record;
use crate::record::Kind;

/// What became of an entry. A refused one changed nothing.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// It was done.
    Applied(Applied),
    /// It was not: why, and what would help.
    Refused(CodedError),
}
record!(Response, Kind::ClusterResponse, version = 1);

/// What was done.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The state's revision after it; that of the first time when the request was sent twice.
    pub revision: Revision,
    /// The object that was made or changed.
    pub object: ObjectRef,
}

impl Response {
    /// What was done, or why not.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn into_result(self) -> Result<Applied, CodedError> {
        match self {
            Self::Applied(applied) => Ok(applied),
            Self::Refused(error) => Err(error),
        }
    }
}
