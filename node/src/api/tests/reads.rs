//! How new an answer is.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::World;

#[tokio::test]
async fn without_a_majority_reads_fail_at_once_with_the_reason_and_the_way_around() {
    let world = World::new();
    world.fake.quorum.store(false, Ordering::SeqCst);
    for path in [
        "/v1/guests",
        "/v1/nodes/a",
        "/v1/events",
        "/v1/cluster/settings",
    ] {
        let refused = world.get(path).await.refused(503, 71);
        assert!(
            refused.error().contains("1 of 3 voters"),
            "{}",
            refused.error()
        );
        assert!(
            refused.error().contains("stale=true"),
            "{}",
            refused.error()
        );
        assert_eq!(refused.headers["retry-after"], "1");
    }
    world
        .post("/v1/guests", json!({"name": "web"}))
        .await
        .refused(503, 71);
    assert_eq!(world.fake.state().guests().len(), 0);
}

#[tokio::test]
async fn old_news_is_read_on_request_and_marked() {
    let world = World::new();
    world.fake.quorum.store(false, Ordering::SeqCst);
    for path in ["/v1/guests", "/v1/nodes/a", "/v1/events"] {
        let answer = world.get(&format!("{path}?stale=true")).await;
        assert_eq!(answer.headers["godwit-stale"], "true");
        assert!(answer.headers.contains_key("godwit-revision"));
        assert_eq!(answer.ok()["stale"], true);
    }
    world.fake.quorum.store(true, Ordering::SeqCst);
    let answer = world.get("/v1/nodes/a").await;
    assert!(!answer.headers.contains_key("godwit-stale"));
    let revision = world.fake.state().revision().get();
    assert_eq!(answer.headers["godwit-revision"], revision.to_string());
}

#[tokio::test]
async fn what_is_committed_and_not_yet_applied_here_is_told_by_its_id() {
    let world = World::new();
    world.fake.applies.store(false, Ordering::SeqCst);
    let pool = json!({"name": "p", "kind": "shared", "path": "/p"});
    let made = world.post("/v1/pools", pool).await;
    assert_eq!(made.status, 202);
    assert!(made.body.get("object").is_none());
    let id = made.body["id"].as_str().unwrap();
    let state = world.fake.state();
    assert_eq!(state.pool_named("p").unwrap().id.to_string(), id);
    assert_eq!(made.body["revision"], state.revision().get());
}
