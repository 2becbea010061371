//! Nodes, and the cluster as a whole.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::World;

#[tokio::test]
async fn nodes_are_shown_with_what_they_have_and_what_is_used() {
    let world = World::new();
    world
        .post("/v1/guests", json!({"name": "web", "vcpus": 2}))
        .await
        .ok();
    let page = world.get("/v1/nodes").await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let node = world.get("/v1/nodes/a").await.ok();
    assert_eq!(
        (&node["state"], &node["scheduling"]),
        (&json!("ready"), &json!("enabled"))
    );
    assert_eq!(
        (&node["guests"], &node["used_vcpus"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(node["used_memory_bytes"], 512 << 20);
    assert_eq!(node["lease"]["held"], true);
    assert_eq!(node["pools"][0]["name"], "shared");
    world.get("/v1/nodes/x").await.refused(404, 60);
    world.get("/v1/nodes?node=a").await.refused(400, 65);
}

#[tokio::test]
async fn a_node_is_cordoned_and_uncordoned() {
    let world = World::new();
    let cordoned = world
        .post("/v1/nodes/a/cordon", json!({"reason": "fan"}))
        .await
        .ok();
    assert_eq!(
        cordoned["object"]["scheduling"],
        json!({"cordoned": {"reason": "fan"}})
    );
    let made = world.post("/v1/guests", json!({"name": "web"})).await.ok();
    assert_eq!(made["object"]["node"]["name"], "b");
    let open = world
        .with_body("POST", "/v1/nodes/a/uncordon", "", None)
        .await
        .ok();
    assert_eq!(open["object"]["scheduling"], "enabled");
    world
        .post("/v1/nodes/x/cordon", json!({}))
        .await
        .refused(404, 60);
}

#[tokio::test]
async fn a_node_is_drained_once_and_the_drain_is_an_operation() {
    let world = World::new();
    let on_a = json!({"name": "web", "node": "a"});
    world.post("/v1/guests", on_a).await.ok();
    let path = "/v1/nodes/a/drain";
    let begun = world.with_body("POST", path, "", Some("k")).await;
    assert_eq!(begun.status, 202);
    let begun = begun.ok();
    assert_eq!(begun["object"]["kind"], "drain");
    assert_eq!(begun["object"]["state"], "running");
    let again = world.with_body("POST", path, "", Some("k")).await.ok();
    assert_eq!(again["id"], begun["id"]);
    assert_eq!(again["object"], begun["object"]);
    let operations = world.get("/v1/operations").await.ok();
    assert_eq!(operations["items"].as_array().unwrap().len(), 1);
    let path = "/v1/nodes/x/drain";
    world
        .with_body("POST", path, "", None)
        .await
        .refused(404, 60);
}

#[tokio::test]
async fn a_node_with_guests_is_removed_by_force_only() {
    let world = World::new();
    let on_a = json!({"name": "web", "node": "a"});
    world.post("/v1/guests", on_a).await.ok();
    world.delete("/v1/nodes/a").await.refused(409, 66);
    world.delete("/v1/nodes/a?hard=true").await.refused(400, 65);
    // It runs: its guests would go on there.
    world
        .delete("/v1/nodes/a?force=true")
        .await
        .refused(409, 69);
    world.fake.lose(0);
    world.delete("/v1/nodes/a").await.refused(409, 66);
    world.delete("/v1/nodes/a?force=true").await.ok();
    world.get("/v1/nodes/a").await.refused(404, 60);
    world.delete("/v1/nodes/b").await.ok();
}

#[tokio::test]
async fn labels_are_replaced_unless_the_node_changed_since_it_was_read() {
    let world = World::new();
    let read = world.get("/v1/nodes/a").await.ok()["revision"]
        .as_u64()
        .unwrap();
    let body = json!({"labels": {"disk": "ssd"}, "revision": read}).to_string();
    let set = world
        .with_body("PUT", "/v1/nodes/a/labels", &body, None)
        .await
        .ok();
    assert_eq!(set["object"]["labels"], json!({"disk": "ssd"}));
    let before = world.fake.proposed.load(Ordering::SeqCst);
    world
        .with_body("PUT", "/v1/nodes/a/labels", &body, None)
        .await
        .refused(409, 62);
    assert_eq!(world.fake.proposed.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn the_cluster_tells_where_it_stands_also_without_a_majority() {
    let world = World::new();
    world.post("/v1/guests", json!({"name": "web"})).await.ok();
    world.fake.quorum.store(false, Ordering::SeqCst);
    let status = world.get("/v1/cluster").await.ok();
    assert_eq!(
        (&status["name"], &status["quorum"]),
        (&json!("test"), &json!(false))
    );
    assert!(status["leader"].is_null());
    assert_eq!(status["voters"][0]["name"], "a");
    assert_eq!(status["nodes"], json!({"ready": 2}));
    assert_eq!(status["guests"], json!({"starting": 1}));
    assert_eq!(status["term"], 3);
}

#[tokio::test]
async fn settings_change_where_they_are_asked_to() {
    let world = World::new();
    let before = world.get("/v1/cluster/settings").await.ok();
    let patch = json!({"strategy": "pack", "lease": {"duration_ms": 3000, "renew_ms": 1000}});
    let after = world
        .with_body("PATCH", "/v1/cluster/settings", &patch.to_string(), None)
        .await;
    let after = after.ok()["object"].clone();
    assert_eq!(
        (&after["strategy"], &after["lease"]),
        (&json!("pack"), &patch["lease"])
    );
    assert_eq!(after["overcommit"], before["overcommit"]);
    let stale = json!({"strategy": "spread", "revision": before["revision"]}).to_string();
    world
        .with_body("PATCH", "/v1/cluster/settings", &stale, None)
        .await
        .refused(409, 62);
    let bad = json!({"lease": {"duration_ms": 1, "renew_ms": 1}}).to_string();
    world
        .with_body("PATCH", "/v1/cluster/settings", &bad, None)
        .await
        .refused(400, 65);
}

#[tokio::test]
async fn health_and_readiness_are_told_apart() {
    let world = World::new();
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.get("/readyz").await.status, 200);
    world.fake.quorum.store(false, Ordering::SeqCst);
    assert_eq!(world.get("/healthz").await.status, 200);
    let ready = world.get("/readyz").await;
    assert_eq!(
        (ready.status.as_u16(), &ready.body["quorum"]),
        (503, &json!(false))
    );
}

#[tokio::test]
async fn metrics_count_objects_and_requests_and_have_the_daemons() {
    let world = World::new();
    world.post("/v1/guests", json!({"name": "web"})).await.ok();
    world.get("/v1/guests/nobody").await.refused(404, 60);
    world.get("/v1/nowhere").await.refused(404, 60);
    let text = world.get("/metrics").await;
    let kind = text.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = text.body.as_str().unwrap();
    for line in [
        "godwit_guests{state=\"starting\"} 1",
        "godwit_guests{state=\"running\"} 0",
        "godwit_nodes{state=\"ready\"} 2",
        "godwit_raft_term 3",
        "godwit_raft_is_leader 1",
        "godwit_of_the_daemon 7",
        "godwit_http_requests_total{method=\"POST\",route=\"/v1/guests\",status=\"201\"} 1",
        "godwit_http_requests_total{method=\"GET\",route=\"/v1/guests/{guest}\",status=\"404\"} 1",
        "godwit_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
