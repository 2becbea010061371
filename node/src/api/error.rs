//! Failures as answers.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use godwit_proto::api::Failure;
use godwit_proto::codes::{CodedError, ErrorCode};

use super::answer::json;

/// A failure, and the status that it is answered with.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    error: Box<CodedError>,
}

impl ApiError {
    /// A failure with a status that does not follow from its code.
    #[must_use]
    pub fn with_status(status: StatusCode, error: CodedError) -> Self {
        Self {
            status,
            error: Box::new(error),
        }
    }

    /// A request that is wrong in itself.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        CodedError::new(ErrorCode::RequestInvalid, message).into()
    }
}

impl From<CodedError> for ApiError {
    fn from(error: CodedError) -> Self {
        Self::with_status(status_of(error.code()), error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(error = %self.error, "a request failed");
        }
        let mut response = json(self.status, &Failure::from(&*self.error));
        if self.status == StatusCode::SERVICE_UNAVAILABLE
            || self.status == StatusCode::TOO_MANY_REQUESTS
        {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The status for a code.
///
/// 4xx: the request cannot be done as things are; 422: it is understood and there is no way to do
/// it; 429 and 503: it may be done later.
const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::RequestInvalid | ErrorCode::ConfigInvalid | ErrorCode::Usage => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists
        | ErrorCode::Conflict
        | ErrorCode::InUse
        | ErrorCode::WrongState
        | ErrorCode::StaleEpoch
        | ErrorCode::AlreadyMigrating
        | ErrorCode::LimitReached
        | ErrorCode::NodeNotReady
        | ErrorCode::Cancelled
        | ErrorCode::Console => StatusCode::CONFLICT,
        ErrorCode::Unschedulable
        | ErrorCode::KeyReused
        | ErrorCode::Refused
        | ErrorCode::CpuIncompatible
        | ErrorCode::DeviceIncompatible => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::MigrationLimit => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TokenInvalid => StatusCode::FORBIDDEN,
        ErrorCode::NoQuorum | ErrorCode::NoDaemon | ErrorCode::NoLease | ErrorCode::Busy => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::PeerProtocol
        | ErrorCode::LinkLost
        | ErrorCode::TimedOut
        | ErrorCode::Unconfirmed => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_done_later_says_when_to_ask_again() {
        for (code, status, later) in [
            (ErrorCode::NoQuorum, 503, true),
            (ErrorCode::MigrationLimit, 429, true),
            (ErrorCode::NotFound, 404, false),
            (ErrorCode::Unschedulable, 422, false),
            (ErrorCode::Other, 500, false),
        ] {
            let response = ApiError::from(CodedError::new(code, "x")).into_response();
            assert_eq!(response.status().as_u16(), status, "{code:?}");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), later);
        }
    }

    #[test]
    fn every_code_of_a_cluster_is_told_apart_from_a_fault_of_the_daemon() {
        let of_a_cluster = |code: &&ErrorCode| (60..=75).contains(&code.exit_code());
        for code in ErrorCode::ALL.iter().filter(of_a_cluster) {
            assert_ne!(
                status_of(*code),
                StatusCode::INTERNAL_SERVER_ERROR,
                "{code:?}"
            );
        }
    }
}
