//! Guests that are made, placed, started, stopped and deleted.

use std::sync::atomic::Ordering;

use godwit_proto::cluster::{Command, NodeCommand, ObservedState};
use serde_json::json;

use super::World;
use super::fake::node_id;

#[tokio::test]
async fn a_guest_is_made_and_started_where_the_scheduler_wants_it() {
    let world = World::new();
    let made = world.post("/v1/guests", json!({"name": "web"})).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let guest = &made["object"];
    assert_eq!(made["id"], guest["id"]);
    assert_eq!(
        (&guest["state"], &guest["intent"]),
        (&json!("starting"), &json!("running"))
    );
    assert_eq!(guest["node"]["name"], "a");
    // Two nodes are as empty as each other; the second guest goes to the other one.
    let other = world.post("/v1/guests", json!({"name": "db"})).await.ok();
    assert_eq!(other["object"]["node"]["name"], "b");
    for name in ["web", made["id"].as_str().unwrap()] {
        let shown = world.get(&format!("/v1/guests/{name}")).await.ok();
        assert_eq!(shown["name"], "web");
        assert!(shown.get("stale").is_none());
    }
}

#[tokio::test]
async fn a_guest_has_all_that_was_asked_for() {
    let world = World::new();
    let volume = json!({"name": "root", "pool": "shared", "size_bytes": 1 << 30});
    world.post("/v1/volumes", volume).await.ok();
    let request = json!({
        "name": "full",
        "labels": {"tier": "web"},
        "vcpus": 2,
        "memory_bytes": 1 << 30,
        "huge_pages": "transparent",
        "cpu": "x86-64-v2",
        "boot": {"kernel": "/boot/vmlinuz", "cmdline": "quiet"},
        "disks": [{"volume": "root", "read_only": true}],
        "networks": [{"network": "lan", "mac": "52:54:00:12:34:56"}, {"network": "lan", "id": "dmz"}],
        "rng": false,
        "node_selector": {"zone": "b"},
        "failover": {"restart": {"priority": 9}},
        "start": false,
    });
    let guest = world.post("/v1/guests", request.clone()).await.ok()["object"].clone();
    for field in [
        "labels",
        "vcpus",
        "memory_bytes",
        "huge_pages",
        "cpu",
        "boot",
        "rng",
        "node_selector",
        "failover",
    ] {
        assert_eq!(guest[field], request[field], "{field}");
    }
    assert_eq!(guest["disks"][0]["id"], "disk0");
    assert_eq!(guest["disks"][0]["volume"]["name"], "root");
    assert_eq!(guest["networks"][0]["mac"], "52:54:00:12:34:56");
    assert_eq!(guest["networks"][1]["id"], "dmz");
    assert!(
        guest["networks"][1]["mac"]
            .as_str()
            .unwrap()
            .starts_with("52:")
    );
    assert_eq!(guest["intent"], "stopped");
    let started = world.post("/v1/guests/full/start", json!({})).await.ok();
    assert_eq!(started["object"]["node"]["name"], "b");
}

#[tokio::test]
async fn a_guest_is_stopped_and_deleted() {
    let world = World::new();
    world.post("/v1/guests", json!({"name": "web"})).await.ok();
    world.fake.report("web", ObservedState::Running);
    world.delete("/v1/guests/web").await.refused(409, 24);
    let stopping = world.post("/v1/guests/web/stop", json!({})).await;
    // A request without a document may have none, nor an empty one.
    stopping.refused(400, 65);
    let stopping = world
        .with_body("POST", "/v1/guests/web/stop", "", None)
        .await
        .ok();
    assert_eq!(stopping["object"]["intent"], "stopped");
    assert_eq!(stopping["object"]["state"], "running");
    world.fake.report("web", ObservedState::Stopped);
    let deleted = world.delete("/v1/guests/web").await.ok();
    assert!(deleted.get("object").is_none());
    world.get("/v1/guests/web").await.refused(404, 60);
    world.delete("/v1/guests/web").await.refused(404, 60);
}

#[tokio::test]
async fn a_guest_that_fits_nowhere_is_not_made_and_every_node_says_why() {
    let world = World::new();
    let cordon = NodeCommand::Cordon {
        node: node_id(0),
        reason: "broken fan".into(),
    };
    world.fake.apply(Command::Node(cordon)).unwrap();
    let request = json!({"name": "big", "memory_bytes": 16_u64 << 30});
    let refused = world
        .post("/v1/guests", request.clone())
        .await
        .refused(422, 63);
    let error = refused.error();
    for part in ["a: ", "broken fan", "b: ", "16384 MiB", "8192 MiB"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(refused.body["fix"].is_string(), "{error}");
    world.get("/v1/guests/big").await.refused(404, 60);
    // Stopped it may be made; then it is the start that is refused.
    let mut stopped = request;
    stopped["start"] = false.into();
    world.post("/v1/guests", stopped).await.ok();
    world
        .post("/v1/guests/big/start", json!({}))
        .await
        .refused(422, 63);
}

#[tokio::test]
async fn a_node_that_is_named_is_taken_or_says_why_not() {
    let world = World::new();
    let on_b = json!({"name": "web", "node": "b"});
    let made = world.post("/v1/guests", on_b).await.ok();
    assert_eq!(made["object"]["node"]["name"], "b");
    let stopped = json!({"name": "db", "start": false, "memory_bytes": 8_u64 << 30});
    world.post("/v1/guests", stopped).await.ok();
    let before = world.fake.proposed.load(Ordering::SeqCst);
    let refused = world
        .post("/v1/guests/db/start", json!({"node": "b"}))
        .await
        .refused(422, 63);
    assert!(
        refused.error().contains("node b cannot take guest db"),
        "{}",
        refused.error()
    );
    assert_eq!(world.fake.proposed.load(Ordering::SeqCst), before + 1);
    world
        .post("/v1/guests/db/start", json!({"node": "c"}))
        .await
        .refused(404, 60);
    let contradiction = json!({"name": "x", "start": false, "node": "b"});
    world
        .post("/v1/guests", contradiction)
        .await
        .refused(400, 65);
}

#[tokio::test]
async fn of_two_starts_at_once_one_wins() {
    let world = World::new();
    world
        .post("/v1/guests", json!({"name": "web", "start": false}))
        .await
        .ok();
    for _ in 0..50 {
        let [one, other] = [(), ()].map(|()| {
            let world = world.clone();
            tokio::spawn(async move { world.post("/v1/guests/web/start", json!({})).await })
        });
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        let won = [&one, &other].into_iter().filter(|a| a.status.is_success());
        assert_eq!(won.count(), 1, "{one:?} {other:?}");
        let lost = [one, other].into_iter().find(|a| !a.status.is_success());
        let lost = lost.unwrap().refused(409, 24);
        assert!(lost.error().contains("started already"), "{}", lost.error());
        world.fake.report("web", ObservedState::Stopped);
    }
}

#[tokio::test]
async fn a_decision_that_is_overtaken_is_made_anew_a_few_times() {
    let world = World::new();
    world
        .post("/v1/guests", json!({"name": "web", "start": false}))
        .await
        .ok();
    world.fake.overtaken.store(3, Ordering::SeqCst);
    let started = world.post("/v1/guests/web/start", json!({})).await.ok();
    assert_eq!(started["object"]["state"], "starting");
    world.fake.report("web", ObservedState::Running);
    world.fake.overtaken.store(1000, Ordering::SeqCst);
    let stopped = world
        .with_body("POST", "/v1/guests/web/stop", "", None)
        .await;
    stopped.refused(409, 62);
    assert!(world.fake.overtaken.load(Ordering::SeqCst) > 900);
}

#[tokio::test]
async fn a_request_that_is_sent_twice_with_a_key_is_done_once() {
    let world = World::new();
    let request = json!({"name": "web"});
    let first = world
        .post_with_key("/v1/guests", request.clone(), Some("k1"))
        .await;
    let again = world
        .post_with_key("/v1/guests", request.clone(), Some("k1"))
        .await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!(first.body["id"], again.body["id"]);
    assert_eq!(first.body["revision"], again.body["revision"]);
    assert_eq!(world.fake.state().guests().len(), 1);
    let refused = world.post("/v1/guests", request.clone()).await;
    refused.refused(409, 61);
    let other = json!({"name": "other"});
    world
        .post_with_key("/v1/guests", other, Some("k1"))
        .await
        .refused(422, 70);
    let elsewhere = world
        .post_with_key("/v1/guests/web/start", json!({}), Some("k1"))
        .await;
    elsewhere.refused(422, 70);
    let long = "k".repeat(256);
    for key in ["", long.as_str()] {
        world
            .post_with_key("/v1/guests", request.clone(), Some(key))
            .await
            .refused(400, 65);
    }
}

#[tokio::test]
async fn a_request_that_is_sent_twice_at_once_with_a_key_is_done_once() {
    let world = World::new();
    for number in 0..30 {
        let [one, other] = [(), ()].map(|()| {
            let world = world.clone();
            let request = json!({"name": format!("g{number}"), "memory_bytes": 1 << 24});
            let key = format!("key {number}");
            tokio::spawn(
                async move { world.post_with_key("/v1/guests", request, Some(&key)).await },
            )
        });
        let (one, other) = (one.await.unwrap().ok(), other.await.unwrap().ok());
        assert_eq!(one["id"], other["id"]);
    }
    assert_eq!(world.fake.state().guests().len(), 30);
}

#[tokio::test]
async fn a_start_that_fails_after_the_guest_was_made_is_finished_by_asking_again() {
    let world = World::new();
    let request = json!({"name": "web"});
    world.fake.overtaken.store(1000, Ordering::SeqCst);
    let refused = world
        .post_with_key("/v1/guests", request.clone(), Some("k"))
        .await;
    let refused = refused.refused(409, 62);
    assert!(
        refused
            .error()
            .contains("guest web was made but not started")
    );
    world.fake.overtaken.store(0, Ordering::SeqCst);
    let made = world
        .post_with_key("/v1/guests", request, Some("k"))
        .await
        .ok();
    assert_eq!(made["object"]["state"], "starting");
}

#[tokio::test]
async fn where_a_guest_would_go_is_explained() {
    let world = World::new();
    let request = json!({"name": "web", "node_selector": {"zone": "b"}});
    let explained = world.post("/v1/guests/explain", request.clone()).await.ok();
    assert_eq!(explained["chosen"]["name"], "b");
    assert_eq!(explained["nodes"][0]["verdict"], "rejected");
    assert_eq!(
        explained["nodes"][0]["reasons"],
        json!(["label zone is a, not b"])
    );
    assert_eq!(explained["nodes"][1]["verdict"], "chosen");
    assert_eq!(world.fake.state().guests().len(), 0);
    world.post("/v1/guests", request).await.ok();
    // It runs on b, so the question is where it could move.
    let explained = world.get("/v1/guests/web/explain").await.ok();
    assert!(explained["chosen"].is_null());
    assert_eq!(
        explained["nodes"][1]["reasons"],
        json!(["the guest is there already"])
    );
    world
        .get("/v1/guests/nobody/explain")
        .await
        .refused(404, 60);
}

#[tokio::test]
async fn guests_are_listed_in_parts_by_node_and_by_label() {
    let world = World::new();
    for number in 0..5 {
        let tier = if number % 2 == 0 { "web" } else { "db" };
        let request = json!({"name": format!("g{number}"), "labels": {"tier": tier}, "memory_bytes": 1 << 24});
        world.post("/v1/guests", request).await.ok();
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    for _ in 0..3 {
        let page = world.get(&format!("/v1/guests?limit=2{after}")).await.ok();
        for guest in page["items"].as_array().unwrap() {
            names.push(guest["name"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["g0", "g1", "g2", "g3", "g4"]);
    let count = async |query: &str| {
        let page = world.get(&format!("/v1/guests?{query}")).await.ok();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("label=tier=web").await, 3);
    assert_eq!(count("label=tier=web,zone=a").await, 0);
    assert_eq!(count("node=a").await + count("node=b").await, 5);
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=x",
        "label=tier",
        "colour=red",
    ] {
        world
            .get(&format!("/v1/guests?{bad}"))
            .await
            .refused(400, 65);
    }
    world.get("/v1/guests?node=nobody").await.refused(404, 60);
}
