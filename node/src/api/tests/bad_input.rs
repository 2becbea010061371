//! What clients get wrong, by mistake or on purpose.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Frame;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::World;
use super::fake::options;

#[tokio::test]
async fn a_mistake_in_a_body_is_told_with_the_name_of_its_field() {
    let world = World::new();
    for (body, part) in [
        (r#"{"name": "web", "vcpu": 2}"#, "vcpu"),
        (
            r#"{"name": "web", "vcpus": "2"}"#,
            "vcpus: invalid type: string",
        ),
        (r#"{"name": "web", "vcpus": -1}"#, "vcpus"),
        (r#"{"name": "web", "memory_bytes": 1.5}"#, "memory_bytes"),
        (
            r#"{"name": "web", "disks": [{"volume": "v"}, {"volume": 7}]}"#,
            "disks[1].volume",
        ),
        (r#"{"name": "web", "boot": {"kernal": "/k"}}"#, "kernal"),
        (
            r#"{"name": "web", "boot": {"kernel": "vmlinuz"}}"#,
            "boot.kernel",
        ),
        (r#"{"name": "web", "failover": "always"}"#, "failover"),
        (r#"{"name": "web", "name": "db"}"#, "duplicate field `name`"),
        (r#"{"name": "web", "cpu": "486"}"#, "cpu"),
        (r#"{"vcpus": 2}"#, "missing field `name`"),
        (r#"{"name": "Web"}"#, "guest name"),
        (r#"{"name": "web", "vcpus": 0}"#, "vCPUs"),
        (r#"{"name": "web", "labels": {"a b": "c"}}"#, "labels"),
        (r#"{"name": "web"} x"#, "trailing"),
        (r#"["web"]"#, "the document is an array"),
        (r#"{"name": "web", "boot": ["/k"]}"#, "boot is an array"),
        (
            r#"{"name": "web", "failover": {"restart": [1]}}"#,
            "restart is an array",
        ),
        (r#"{"name": "web", "disks": [["v"]]}"#, "disks is an array"),
        ("{", "EOF"),
        ("", "missing field `name`"),
    ] {
        let refused = world.with_body("POST", "/v1/guests", body, None).await;
        let refused = refused.refused(400, 65);
        assert!(
            refused.error().contains(part),
            "{body}: {}",
            refused.error()
        );
    }
    assert_eq!(world.fake.state().guests().len(), 0);
}

#[tokio::test]
async fn a_mistake_that_is_long_or_has_control_characters_is_told_in_a_short_line() {
    let world = World::new();
    let field = format!("\u{1b}[2J{}", "x".repeat(10_000));
    let body = json!({"name": "web", field: 1});
    let refused = world.post("/v1/guests", body).await.refused(400, 65);
    let told = refused.body["causes"][0].as_str().unwrap();
    assert!(
        told.len() < 1000 && !told.contains(char::is_control),
        "{told}"
    );
    let path = format!("/v1/guests/{}", "x".repeat(5000));
    let refused = world.get(&path).await.refused(404, 60);
    assert!(refused.error().len() < 1000);
}

#[tokio::test]
async fn a_body_is_json_and_of_bounded_length() {
    let world = World::new();
    let post = |kind: Option<&str>, body: String| {
        let request = Request::post("/v1/guests");
        let request = match kind {
            Some(kind) => request.header("content-type", kind),
            None => request,
        };
        world.send(request.body(Body::from(body)).unwrap())
    };
    let body = json!({"name": "web"}).to_string();
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        post(kind, body.clone()).await.refused(415, 65);
    }
    let long = json!({"name": "web", "boot": {"cmdline": "x".repeat(64 << 10)}}).to_string();
    post(Some("application/json"), long).await.refused(413, 65);
    post(Some("application/json; charset=utf-8"), body)
        .await
        .ok();
    let endless = Body::new(Endless);
    let request = Request::post("/v1/guests").header("content-type", "application/json");
    world
        .send(request.body(endless).unwrap())
        .await
        .refused(413, 65);
}

#[tokio::test]
async fn a_change_takes_no_query() {
    let world = World::new();
    let path = "/v1/guests?dry_run=true";
    world
        .post(path, json!({"name": "web"}))
        .await
        .refused(400, 65);
    world.delete("/v1/pools/local?force").await.refused(400, 65);
    let path = "/v1/migrations/x/cancel?now=true";
    world
        .with_body("POST", path, "", None)
        .await
        .refused(400, 65);
    assert_eq!(world.fake.state().guests().len(), 0);
    world.post("/v1/guests?", json!({"name": "web"})).await.ok();
}

/// A body that never ends.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(Some(Ok(Frame::data(hyper::body::Bytes::from_static(
            &[b' '; 1024],
        )))))
    }
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_told_as_json() {
    let world = World::new();
    world.get("/").await.refused(404, 60);
    world.get("/v1/guest").await.refused(404, 60);
    world.get("/v2/guests").await.refused(404, 60);
    world.delete("/v1/guests").await.refused(405, 65);
    world.get("/v1/guests/%ff").await.refused(400, 65);
    let refused = world
        .get("/v1/guests/web?stale=maybe")
        .await
        .refused(400, 65);
    assert!(refused.error().contains("stale"), "{}", refused.error());
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_the_request() {
    let mut world = World::new();
    let mut options = options();
    options.request_time = std::time::Duration::from_millis(50);
    world.router = super::super::router(world.fake.clone(), options);
    let never = Body::new(Never);
    let request = Request::post("/v1/guests").header("content-type", "application/json");
    let refused = world
        .send(request.body(never).unwrap())
        .await
        .refused(503, 75);
    assert!(refused.error().contains("Idempotency-Key"));
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}

/// Every path that takes a body, with a body that it takes.
fn requests() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "POST",
            "/v1/guests",
            json!({
                "name": "g", "labels": {"a": "b"}, "vcpus": 1, "memory_bytes": 1 << 24,
                "huge_pages": "none", "cpu": "cluster", "boot": {"kernel": "/k", "initrd": "/i"},
                "disks": [{"volume": "v", "id": "root", "read_only": false}],
                "networks": [{"network": "lan", "mac": "52:54:00:00:00:01"}],
                "rng": true, "node_selector": {"zone": "a"},
                "failover": {"restart": {"priority": 1}}, "start": true, "node": "a",
            }),
        ),
        (
            "POST",
            "/v1/guests/explain",
            json!({"name": "g", "networks": [{"network": "lan"}]}),
        ),
        ("POST", "/v1/guests/g/start", json!({"node": "a"})),
        ("POST", "/v1/guests/g/migrate", json!({"target": "b"})),
        ("POST", "/v1/nodes/a/cordon", json!({"reason": "fan"})),
        (
            "PUT",
            "/v1/nodes/a/labels",
            json!({"labels": {"a": "b"}, "revision": 1}),
        ),
        (
            "PATCH",
            "/v1/cluster/settings",
            json!({
                "name": "test", "overcommit": {"cpu_permille": 1000, "memory_permille": 1000},
                "strategy": "pack", "migrations_per_node": 1, "migrations_per_cluster": 1,
                "lease": {"duration_ms": 3000, "renew_ms": 1000}, "revision": 1,
            }),
        ),
        (
            "POST",
            "/v1/pools",
            json!({"name": "p", "kind": "local", "path": "/p"}),
        ),
        (
            "POST",
            "/v1/volumes",
            json!({"name": "v", "pool": "local", "node": "a", "size_bytes": 512}),
        ),
        (
            "POST",
            "/v1/networks",
            json!({"name": "n", "bridge": "br1"}),
        ),
        (
            "POST",
            "/v1/rules",
            json!({
                "name": "r", "guests": {"a": "b"}, "rule": {"affinity": {"scope": "node"}},
                "strength": {"preferred": {"weight": 5}},
            }),
        ),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(String::new()),
        "[a-z0-9-]{1,70}",
        "\\PC{0,40}",
        Just("../../etc".to_owned()),
        Just("a\u{0}b".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `new` in the place of part number `at` of a document.
fn replace(document: &mut Value, at: &mut usize, new: &Value) {
    if *at == 0 {
        *document = new.clone();
    }
    *at = at.wrapping_sub(1);
    match document {
        Value::Object(map) => map.values_mut().for_each(|part| replace(part, at, new)),
        Value::Array(parts) => parts.iter_mut().for_each(|part| replace(part, at, new)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_document_makes_a_route_fail_by_itself(
        which in 0..requests().len(),
        at in 0_usize..30,
        new in value(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (method, path, mut body) = requests().swap_remove(which);
        replace(&mut body, &mut at.clone(), &new);
        runtime.block_on(async {
            let world = World::new();
            let before = world.fake.state().revision();
            let answer = world.with_body(method, path, &body.to_string(), None).await;
            assert!(answer.status.as_u16() < 500, "{body}: {answer:?}");
            if !answer.status.is_success() {
                assert!(answer.body["message"].is_string(), "{answer:?}");
                assert_eq!(world.fake.state().revision(), before, "{body}");
            }
        });
    }

    #[test]
    fn no_text_makes_a_route_fail_by_itself(
        which in 0..requests().len(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
        query in "[a-z=&%0-9]{0,30}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (method, path, whole) = requests().swap_remove(which);
        let whole = whole.to_string();
        let cut = whole.as_bytes()[..cut.index(whole.len())].to_vec();
        runtime.block_on(async {
            let world = World::new();
            for body in [body, cut] {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("{path}?{query}"))
                    .header("content-type", "application/json")
                    .body(Body::from(body));
                let Ok(request) = request else {
                    continue;
                };
                let answer = world.send(request).await;
                assert!(answer.status.as_u16() < 500, "{answer:?}");
            }
        });
    }
}
