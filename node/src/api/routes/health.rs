//! Whether this node lives, and whether it can serve.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json as document;

use super::super::answer::json;
use super::super::service::Api;

/// The process answers.
pub(in super::super) async fn live() -> Response {
    json(StatusCode::OK, &document!({"live": true}))
}

/// The node has a leader, and a majority of the voters is there as far as it knows: it can read and
/// write.
pub(in super::super) async fn ready(Of(api): Of<Api>) -> Response {
    let status = api.cluster.status();
    let ready = status.leader.is_some() && status.quorum;
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let document = document!({
        "ready": ready,
        "leader": status.leader.is_some(),
        "quorum": status.quorum,
    });
    json(code, &document)
}
