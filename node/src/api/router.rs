//! The table of routes, and what holds for all of them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State as Of};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use godwit_proto::codes::{CodedError, ErrorCode};
use tokio::time::timeout;

use super::cluster::Cluster;
use super::error::ApiError;
use super::metrics::Metrics;
use super::routes::resources::{network, pool, volume};
use super::routes::{
    cluster, console, events, guests, health, migrations, nodes, operations, resources, rules,
};
use super::service::{Api, Options};

/// The API over `cluster`.
pub fn router(cluster: Arc<dyn Cluster>, options: Options) -> Router {
    let metrics = Arc::new(Metrics::new(&cluster));
    let api = Api {
        cluster,
        metrics,
        options,
    };
    let v1 = Router::new()
        .route("/guests", get(guests::list).post(guests::create))
        .route("/guests/explain", post(guests::explain_new))
        .route("/guests/{guest}", get(guests::show).delete(guests::delete))
        .route("/guests/{guest}/start", post(guests::start))
        .route("/guests/{guest}/stop", post(guests::stop))
        .route("/guests/{guest}/explain", get(guests::explain_guest))
        .route("/guests/{guest}/migrate", post(migrations::begin))
        .route("/guests/{guest}/forecast", get(migrations::forecast))
        .route("/guests/{guest}/console", get(console::connect))
        .route("/migrations", get(migrations::list))
        .route("/migrations/{migration}", get(migrations::show))
        .route(
            "/migrations/{migration}/progress",
            get(migrations::progress),
        )
        .route("/migrations/{migration}/receipt", get(migrations::receipt))
        .route("/migrations/{migration}/cancel", post(migrations::cancel))
        .route("/pools", get(pool::list).post(resources::create_pool))
        .route("/pools/{pool}", get(pool::show).delete(pool::delete))
        .route("/volumes", get(volume::list).post(resources::create_volume))
        .route(
            "/volumes/{volume}",
            get(volume::show).delete(volume::delete),
        )
        .route(
            "/networks",
            get(network::list).post(resources::create_network),
        )
        .route(
            "/networks/{network}",
            get(network::show).delete(network::delete),
        )
        .route("/rules", get(rules::list).post(rules::create))
        .route("/rules/{rule}", get(rules::show).delete(rules::delete))
        .route("/operations", get(operations::list))
        .route("/operations/{operation}", get(operations::show))
        .route("/events", get(events::list))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{node}", get(nodes::show).delete(nodes::remove))
        .route("/nodes/{node}/drain", post(nodes::drain))
        .route("/nodes/{node}/cordon", post(nodes::cordon))
        .route("/nodes/{node}/uncordon", post(nodes::uncordon))
        .route("/nodes/{node}/labels", put(nodes::replace_labels))
        .route("/cluster", get(cluster::status))
        .route(
            "/cluster/settings",
            get(cluster::settings).patch(cluster::configure),
        );
    Router::new()
        .nest("/v1", v1)
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(show_metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(api.clone(), answer_in_time))
        .with_state(api)
}

async fn show_metrics(Of(api): Of<Api>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], api.metrics.text()).into_response()
}

async fn no_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    CodedError::new(ErrorCode::NotFound, format!("there is nothing at {path:?}")).into()
}

async fn no_method(request: Request) -> ApiError {
    let message = format!("this path takes no {}", request.method());
    let error = CodedError::new(ErrorCode::RequestInvalid, message);
    ApiError::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// Ends a request that takes too long, and counts it.
async fn answer_in_time(Of(api): Of<Api>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = method_name(request.method());
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or_else(|| "none".into(), |path| path.as_str().to_owned());
    let limit = api.options.request_time;
    let response = match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("the request was not done in {} s", limit.as_secs());
            let error = CodedError::new(ErrorCode::Busy, message).with_fix(
                "see whether it was done before asking again, or ask with the same Idempotency-Key",
            );
            ApiError::from(error).into_response()
        }
    };
    api.metrics
        .answered(method, &route, response.status(), began.elapsed());
    response
}

/// The method among those that are known, so that nobody can make metrics grow.
const fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
