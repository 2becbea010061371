//! Answers that are a JSON document.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use godwit_proto::api::{REVISION, STALE};
use godwit_proto::id::Revision;
use serde::Serialize;

/// A document.
pub(super) fn json<T: Serialize>(status: StatusCode, document: &T) -> Response {
    let text = serde_json::to_vec(document).expect("keys of these documents are text");
    raw_json(status, text)
}

/// A document that is text already.
pub(super) fn raw_json(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Says at which revision an answer was read, and whether it may be older than the request.
pub(super) fn as_of(mut response: Response, revision: Revision, stale: bool) -> Response {
    let headers = response.headers_mut();
    headers.insert(REVISION, HeaderValue::from(revision.get()));
    if stale {
        headers.insert(STALE, HeaderValue::from_static("true"));
    }
    response
}
