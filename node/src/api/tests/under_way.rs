//! Migrations and operations.

use godwit_proto::cluster::{Command, NodeCommand, ObservedState};
use godwit_proto::id::{MigrationId, OperationId};
use serde_json::{Value, json};

use super::World;
use super::fake::node_id;

async fn running(world: &World, name: &str) {
    world
        .post("/v1/guests", json!({"name": name, "node": "a"}))
        .await
        .ok();
    world.fake.report(name, ObservedState::Running);
}

fn id_of(migration: &Value) -> MigrationId {
    migration["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_guest_is_migrated_to_where_the_scheduler_wants_it_and_leaves_a_receipt() {
    let world = World::new();
    running(&world, "web").await;
    let begun = world.post("/v1/guests/web/migrate", json!({})).await;
    assert_eq!(begun.status, 201);
    let begun = begun.ok();
    let migration = &begun["object"];
    assert_eq!(
        (&migration["source"]["name"], &migration["target"]["name"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(
        (&migration["phase"], &migration["reason"]),
        (&json!("prepared"), &json!("asked"))
    );
    let name = migration["name"].as_str().unwrap();
    let guest = world.get("/v1/guests/web").await.ok();
    assert_eq!(guest["moving"]["target"]["name"], "b");
    world
        .post("/v1/guests/web/migrate", json!({}))
        .await
        .refused(409, 24);
    let progress = world
        .get(&format!("/v1/migrations/{name}/progress"))
        .await
        .ok();
    assert_eq!(progress["progress"]["round"], 2);
    assert_eq!(progress["migration"]["phase"], "prepared");
    let receipt = format!("/v1/migrations/{name}/receipt");
    let refused = world.get(&receipt).await.refused(404, 60);
    assert!(refused.error().contains("wait until it has ended"));
    world.fake.complete(id_of(&begun), r#"{"total_ms": 12.5}"#);
    assert_eq!(world.get(&receipt).await.ok()["total_ms"], 12.5);
    let progress = world
        .get(&format!("/v1/migrations/{name}/progress"))
        .await
        .ok();
    assert_eq!(progress["migration"]["phase"], "completed");
    assert!(progress["progress"].is_null());
    let guest = world.get("/v1/guests/web").await.ok();
    assert_eq!(guest["node"]["name"], "b");
    let page = world.get("/v1/migrations").await.ok();
    assert_eq!(page["items"][0]["phase"], "completed");
}

#[tokio::test]
async fn a_receipt_that_is_no_json_is_not_told_on() {
    let world = World::new();
    running(&world, "web").await;
    let begun = world
        .post("/v1/guests/web/migrate", json!({"target": "b"}))
        .await
        .ok();
    world.fake.complete(id_of(&begun), "<html>");
    let path = format!("/v1/migrations/{}/receipt", begun["id"].as_str().unwrap());
    world.get(&path).await.refused(502, 23);
}

#[tokio::test]
async fn a_migration_is_cancelled_once() {
    let world = World::new();
    running(&world, "web").await;
    let begun = world.post("/v1/guests/web/migrate", json!({})).await.ok();
    let path = format!("/v1/migrations/{}/cancel", begun["id"].as_str().unwrap());
    let cancelled = world.with_body("POST", &path, "", None).await;
    assert_eq!(cancelled.status, 202);
    let cancelled = cancelled.ok();
    assert_eq!(cancelled["phase"], "aborted");
    assert_eq!(cancelled["failure"]["code"], 43);
    world
        .with_body("POST", &path, "", None)
        .await
        .refused(409, 24);
    world
        .with_body("POST", "/v1/migrations/x/cancel", "", None)
        .await
        .refused(404, 60);
}

#[tokio::test]
async fn what_cannot_be_migrated_says_why() {
    let world = World::new();
    world
        .post("/v1/guests", json!({"name": "off", "start": false}))
        .await
        .ok();
    let refused = world
        .post("/v1/guests/off/migrate", json!({}))
        .await
        .refused(409, 24);
    assert!(refused.error().contains("runs nowhere"));
    running(&world, "web").await;
    let here = world
        .post("/v1/guests/web/migrate", json!({"target": "a"}))
        .await;
    assert!(here.refused(422, 63).error().contains("there already"));
    let cordon = NodeCommand::Cordon {
        node: node_id(1),
        reason: "fan".into(),
    };
    world.fake.apply(Command::Node(cordon)).unwrap();
    let nowhere = world
        .post("/v1/guests/web/migrate", json!({}))
        .await
        .refused(422, 63);
    assert!(
        nowhere.error().contains("b: it is cordoned (fan)"),
        "{}",
        nowhere.error()
    );
    assert!(nowhere.error().contains("a: the guest is there already"));
}

#[tokio::test]
async fn more_migrations_than_may_be_are_to_be_asked_for_later() {
    let world = World::new();
    for name in ["one", "two", "three"] {
        running(&world, name).await;
    }
    for name in ["one", "two"] {
        world
            .post(
                &format!("/v1/guests/{name}/migrate"),
                json!({"target": "b"}),
            )
            .await
            .ok();
    }
    let refused = world
        .post("/v1/guests/three/migrate", json!({"target": "b"}))
        .await;
    let refused = refused.refused(429, 68);
    assert_eq!(refused.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_forecast_is_told_on() {
    let world = World::new();
    running(&world, "web").await;
    let forecast = world.get("/v1/guests/web/forecast?target=b").await.ok();
    assert_eq!(forecast["target"], node_id(1).to_string());
    assert_eq!(
        world.get("/v1/guests/web/forecast").await.ok()["converges"],
        true
    );
    world
        .get("/v1/guests/web/forecast?target=x")
        .await
        .refused(404, 60);
    world
        .get("/v1/guests/web/forecast?to=b")
        .await
        .refused(400, 65);
}

#[tokio::test]
async fn operations_are_shown() {
    let world = World::new();
    running(&world, "web").await;
    let drain = NodeCommand::Drain {
        node: node_id(0),
        operation: OperationId::from_bytes([7; 16]),
    };
    world.fake.apply(Command::Node(drain)).unwrap();
    let page = world.get("/v1/operations").await.ok();
    let operation = &page["items"][0];
    assert_eq!(
        (&operation["kind"], &operation["state"]),
        (&json!("drain"), &json!("running"))
    );
    assert_eq!(operation["node"]["name"], "a");
    let path = format!("/v1/operations/{}", operation["id"].as_str().unwrap());
    assert_eq!(&world.get(&path).await.ok(), operation);
    let node = world.get("/v1/nodes/a").await.ok();
    assert_eq!(node["scheduling"]["draining"]["operation"], operation["id"]);
}
