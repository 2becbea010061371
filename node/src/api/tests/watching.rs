//! Watches: what they tell, where they go on, when they start anew.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use godwit_proto::cluster::limits;
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A watch, read line by line.
struct Watching {
    body: Body,
    lines: Vec<Value>,
}

impl Watching {
    async fn begin(world: &World, query: &str) -> Self {
        let service = TowerToHyperService::new(world.router.clone());
        let request = Request::get(format!("/v1/events?watch=true{query}"));
        let request = request.body(Body::empty()).unwrap();
        let response = hyper::service::Service::call(&service, request)
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self {
            body: response.into_body(),
            lines: Vec::new(),
        }
    }

    async fn line(&mut self) -> Value {
        while self.lines.is_empty() {
            let frame = timeout(PATIENCE, self.body.frame()).await.unwrap();
            let data = frame.unwrap().unwrap().into_data().unwrap();
            let text = std::str::from_utf8(&data).unwrap();
            assert!(text.ends_with('\n'), "{text}");
            self.lines = text
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect();
        }
        self.lines.remove(0)
    }

    /// The next line that is no heartbeat.
    async fn news(&mut self) -> Value {
        loop {
            let line = self.line().await;
            if line["type"] != "heartbeat" {
                return line;
            }
        }
    }
}

async fn pool(world: &World, name: &str) -> u64 {
    let pool = json!({"name": name, "kind": "shared", "path": "/p"});
    let made = world.post("/v1/pools", pool).await.ok();
    made["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn a_watch_says_where_it_begins_and_tells_what_happens() {
    let world = World::new();
    let mut watching = Watching::begin(&world, "").await;
    let revision = world.fake.state().revision().get();
    assert_eq!(
        watching.line().await,
        json!({"type": "heartbeat", "revision": revision})
    );
    let made = pool(&world, "p").await;
    let event = watching.news().await;
    assert_eq!(
        (&event["type"], &event["event"]),
        (&json!("event"), &json!("created"))
    );
    assert_eq!(
        (&event["revision"], &event["object"]["kind"]),
        (&json!(made), &json!("pool"))
    );
    assert_eq!(
        (&event["message"], &event["actor"]),
        (&json!("pool p was made"), &json!("internal"))
    );
}

#[tokio::test]
async fn a_watch_with_nothing_to_tell_says_that_it_lives() {
    let world = World::new();
    let mut watching = Watching::begin(&world, "").await;
    for _ in 0..3 {
        assert_eq!(watching.line().await["type"], "heartbeat");
    }
}

#[tokio::test]
async fn a_watch_is_resumed_where_it_broke_off() {
    let world = World::new();
    let mut seen = Vec::new();
    let mut from = world.fake.state().revision().get();
    for round in 0..4 {
        for number in 0..3 {
            pool(&world, &format!("p{round}-{number}")).await;
        }
        let mut watching = Watching::begin(&world, &format!("&from={from}")).await;
        for _ in 0..3 {
            let event = watching.news().await;
            seen.push(event["message"].as_str().unwrap().to_owned());
            from = event["revision"].as_u64().unwrap();
        }
    }
    let wanted = (0..12).map(|n| format!("pool p{}-{} was made", n / 3, n % 3));
    assert_eq!(seen, wanted.collect::<Vec<_>>());
}

#[tokio::test]
async fn changes_are_told_in_their_place_among_events() {
    let world = World::new();
    let from = world.fake.state().revision().get();
    let volume = json!({"name": "v", "pool": "shared", "size_bytes": 512});
    world.post("/v1/volumes", volume).await.ok();
    world
        .post(
            "/v1/guests",
            json!({"name": "g", "start": false, "disks": [{"volume": "v"}]}),
        )
        .await
        .ok();
    world.delete("/v1/guests/g").await.ok();
    let mut watching = Watching::begin(&world, &format!("&from={from}&changes=true")).await;
    let mut told = Vec::new();
    let mut last = from;
    while told.len() < 8 {
        let line = watching.news().await;
        let revision = line["revision"].as_u64().unwrap();
        assert!(revision >= last);
        last = revision;
        let deleted = if line["deleted"] == true { " gone" } else { "" };
        told.push(format!(
            "{} {}{deleted}",
            line["type"].as_str().unwrap(),
            line["object"]["kind"].as_str().unwrap()
        ));
    }
    assert_eq!(
        told,
        [
            "change volume",
            "event volume",
            "change volume",
            "change guest",
            "event guest",
            "change volume",
            "change guest gone",
            "event guest",
        ]
    );
}

#[tokio::test]
async fn a_watcher_that_has_missed_too_much_or_is_of_another_cluster_is_told_so_and_goes_on() {
    let world = World::new();
    let future = world.fake.state().revision().get() + 1000;
    let mut watching = Watching::begin(&world, &format!("&from={future}")).await;
    let now = world.fake.state().revision().get();
    assert_eq!(
        watching.line().await,
        json!({"type": "resync", "revision": now})
    );
    pool(&world, "p").await;
    assert_eq!(watching.news().await["message"], "pool p was made");
}

#[tokio::test]
async fn a_watcher_falls_behind_the_events_that_are_remembered() {
    use godwit_proto::cluster::{Command, NodeCommand};
    let world = World::new();
    let from = world.fake.state().revision().get();
    let node = super::fake::node_id(0);
    let mut watching = Watching::begin(&world, "").await;
    watching.line().await;
    for _ in 0..limits::MAX_EVENTS / 2 + 10 {
        for command in [
            NodeCommand::Cordon {
                node,
                reason: String::new(),
            },
            NodeCommand::Uncordon { node },
        ] {
            world.fake.apply(Command::Node(command)).unwrap();
        }
    }
    let now = world.fake.state().revision().get();
    let resync = json!({"type": "resync", "revision": now});
    assert_eq!(watching.news().await, resync);
    let mut late = Watching::begin(&world, &format!("&from={from}")).await;
    assert_eq!(late.line().await, resync);
    let mut in_time = Watching::begin(&world, &format!("&from={}", now - 5)).await;
    assert_eq!(in_time.line().await["revision"], now - 4);
}

#[tokio::test]
async fn the_last_events_are_listed() {
    let world = World::new();
    for name in ["p", "q", "r"] {
        pool(&world, name).await;
    }
    let page = world.get("/v1/events?limit=2").await.ok();
    let messages = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["message"].clone());
    assert_eq!(
        messages.collect::<Vec<_>>(),
        ["pool q was made", "pool r was made"]
    );
    for bad in [
        "limit=0",
        "from=1",
        "changes=true",
        "watch=true&limit=1",
        "watch=1",
    ] {
        world
            .get(&format!("/v1/events?{bad}"))
            .await
            .refused(400, 65);
    }
}
