//! Pools, volumes, networks, placement rules.

use serde_json::{Value, json};

use super::World;

#[tokio::test]
async fn every_kind_of_resource_is_made_listed_shown_and_deleted() {
    let world = World::new();
    let rule = json!({"name": "r", "guests": {"tier": "web"}, "rule": {"anti-affinity": {"scope": "node"}}});
    for (path, request) in [
        ("pools", json!({"name": "p", "kind": "local", "path": "/p"})),
        (
            "volumes",
            json!({"name": "v", "pool": "shared", "size_bytes": 512}),
        ),
        (
            "volumes",
            json!({"name": "v", "pool": "local", "node": "a", "size_bytes": 1024}),
        ),
        ("networks", json!({"name": "n", "bridge": "br7"})),
        ("rules", rule),
        (
            "rules",
            json!({"name": "r", "guests": {"a": "b"}, "rule": {"node-affinity": {"nodes": {"zone": "a"}}}, "strength": {"preferred": {"weight": 3}}}),
        ),
    ] {
        let name = request["name"].as_str().unwrap();
        let made = world.post(&format!("/v1/{path}"), request.clone()).await;
        assert_eq!(made.status, 201, "{made:?}");
        let made = made.ok();
        let again = world.post(&format!("/v1/{path}"), request.clone()).await;
        again.refused(409, 61);
        let one = format!("/v1/{path}/{name}");
        let shown = world.get(&one).await.ok();
        assert_eq!(shown, made["object"]);
        for (field, asked) in request.as_object().unwrap() {
            let found = match &shown[field] {
                Value::Object(named) if named.contains_key("id") => &named["name"],
                other => other,
            };
            assert_eq!(found, asked, "{path} {field}");
        }
        let by_id = format!("/v1/{path}/{}", made["id"].as_str().unwrap());
        assert_eq!(world.get(&by_id).await.ok(), shown);
        let page = world.get(&format!("/v1/{path}")).await.ok();
        assert!(page["items"].as_array().unwrap().contains(&shown));
        world.delete(&one).await.ok();
        world.get(&one).await.refused(404, 60);
        world.delete(&one).await.refused(404, 60);
    }
}

#[tokio::test]
async fn what_is_used_is_not_deleted() {
    let world = World::new();
    let volume = json!({"name": "root", "pool": "shared", "size_bytes": 1 << 20});
    world.post("/v1/volumes", volume).await.ok();
    let guest =
        json!({"name": "web", "disks": [{"volume": "root"}], "networks": [{"network": "lan"}]});
    world.post("/v1/guests", guest).await.ok();
    for path in ["/v1/volumes/root", "/v1/pools/shared", "/v1/networks/lan"] {
        world.delete(path).await.refused(409, 66);
    }
    let volume = world.get("/v1/volumes/root").await.ok();
    assert_eq!(volume["attached"]["name"], "web");
}

#[tokio::test]
async fn what_a_resource_cannot_be_is_refused_by_the_field() {
    let world = World::new();
    for (path, request, part) in [
        (
            "pools",
            json!({"name": "p", "kind": "local", "path": "p"}),
            "path",
        ),
        (
            "pools",
            json!({"name": "P", "kind": "local", "path": "/p"}),
            "name",
        ),
        (
            "pools",
            json!({"name": "p", "kind": "remote", "path": "/p"}),
            "kind",
        ),
        (
            "volumes",
            json!({"name": "v", "pool": "shared", "size_bytes": 7}),
            "size",
        ),
        (
            "volumes",
            json!({"name": "v", "pool": "shared", "node": "a", "size_bytes": 512}),
            "node",
        ),
        (
            "volumes",
            json!({"name": "v", "pool": "local", "size_bytes": 512}),
            "node",
        ),
        (
            "networks",
            json!({"name": "n", "bridge": "a-name-that-is-too-long"}),
            "bridge",
        ),
        (
            "rules",
            json!({"name": "r", "guests": {}, "rule": {"affinity": {"scope": "node"}}}),
            "guests",
        ),
        (
            "rules",
            json!({"name": "r", "guests": {"a": "b"}, "rule": {"affinity": {"scope": "moon"}}}),
            "scope",
        ),
        (
            "rules",
            json!({"name": "r", "guests": {"a": "b"}, "rule": {"affinity": {"scope": "node"}}, "strength": {"preferred": {"weight": 0}}}),
            "weight",
        ),
    ] {
        let refused = world
            .post(&format!("/v1/{path}"), request)
            .await
            .refused(400, 65);
        assert!(
            refused.error().contains(part),
            "{part}: {}",
            refused.error()
        );
    }
    let nowhere = json!({"name": "v", "pool": "moon", "size_bytes": 512});
    world.post("/v1/volumes", nowhere).await.refused(404, 60);
}
