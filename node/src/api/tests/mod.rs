//! The router over a cluster that is made up: a state, and nobody else.

mod bad_input;
mod fake;
mod guests;
mod members;
mod reads;
mod resources;
mod served;
mod under_way;
mod watching;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;

use super::router;
use crate::api;
use fake::Fake;

/// An answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn code(&self) -> u64 {
        self.body["code"].as_u64().unwrap_or(0)
    }

    /// What went wrong, all of it.
    fn error(&self) -> String {
        self.body.to_string()
    }

    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    #[track_caller]
    fn refused(self, status: u16, code: u64) -> Self {
        assert_eq!(
            (self.status.as_u16(), self.code()),
            (status, code),
            "{self:?}"
        );
        self
    }
}

/// A router over a made-up cluster.
#[derive(Clone)]
struct World {
    fake: Arc<Fake>,
    router: Router,
}

impl World {
    /// Two nodes, `a` and `b`, of 8 GiB and 8 processors.
    fn new() -> Self {
        Self::over(Fake::with_nodes(&["a", "b"]))
    }

    fn over(fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let router = router(fake.clone(), fake::options());
        Self { fake, router }
    }

    async fn send(&self, request: Request) -> Answer {
        let service = TowerToHyperService::new(self.router.clone());
        let response = hyper::service::Service::call(&service, request)
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes);
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with_key(path, body, None).await
    }

    async fn post_with_key(&self, path: &str, body: Value, key: Option<&str>) -> Answer {
        self.with_body("POST", path, &body.to_string(), key).await
    }

    async fn with_body(&self, method: &str, path: &str, body: &str, key: Option<&str>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json");
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }
}
