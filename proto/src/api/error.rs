//! A failure.

use serde::{Deserialize, Serialize};

use crate::codes::CodedError;

/// What failed, why, and what to do about it: the body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The number in [`crate::codes`]; also the exit code of a command that ends because of it.
    pub code: u8,
    /// The code's name.
    pub name: String,
    /// What failed.
    pub message: String,
    /// Why, nearest cause first.
    pub causes: Vec<String>,
    /// What would help.
    pub fix: Option<String>,
}

impl From<&CodedError> for Failure {
    fn from(error: &CodedError) -> Self {
        Self {
            code: error.exit_code(),
            name: format!("{:?}", error.code()),
            message: error.message.clone(),
            causes: error.causes.clone(),
            fix: error.fix.clone(),
        }
    }
}

impl From<Failure> for CodedError {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(crate::codes::ErrorCode::Other, failure.message);
        error.causes = failure.causes;
        error.fix = failure.fix;
        error.with_number(failure.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::ErrorCode;

    #[test]
    fn a_failure_comes_out_as_it_went_in() {
        let mut error = CodedError::new(ErrorCode::InUse, "pool a is used").with_fix("delete it");
        error.causes.push("volume b".into());
        let failure = Failure::from(&error);
        assert_eq!((failure.code, failure.name.as_str()), (66, "InUse"));
        assert_eq!(CodedError::from(failure), error);
    }

    #[test]
    fn a_code_of_a_newer_build_is_told_on() {
        let failure = Failure {
            code: 200,
            name: "New".into(),
            message: "what".into(),
            causes: Vec::new(),
            fix: None,
        };
        assert_eq!(CodedError::from(failure).exit_code(), 200);
    }
}
