//! What the demo does, in order.

use std::thread;
use std::time::{Duration, Instant};

use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::Method;
use serde_json::{Value, json};

use super::super::client::Client;
use super::super::receipt;
use super::lab::{Lab, NODES};
use super::report::Report;

/// What guests do: write memory, and check every page of it.
const LOAD: &str = "heartbeat=10 check=24M,rate:4000,verify:20000";

/// All of it.
///
/// # Errors
/// Something was not as it must be.
pub(super) fn all(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    form(lab, report)?;
    place(lab, report)?;
    migrate(lab, report)?;
    empty(lab, report)?;
    lose_node(lab, report)?;
    lose_daemon(lab, report)
}

fn form(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    let step = report.begin("form a cluster", "Three nodes form a cluster.");
    for index in 0..NODES.len() {
        lab.make_node(index)?;
    }
    let status = lab.until("three nodes vote", |lab| {
        let status = lab.client(0)?.get("/v1/cluster")?;
        let voters = status["voters"].as_array().map_or(0, Vec::len);
        let ready = status["nodes"]["ready"].as_u64();
        Ok((voters == NODES.len() && ready == Some(3)).then_some(status))
    })?;
    let leader = text(&status["leader"]["name"]);
    report.done(&step, &format!("3 nodes, 3 votes, {leader} leads"));
    Ok(())
}

fn place(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    let step = report.begin(
        "place four guests",
        "Four guests are made; the scheduler places them.",
    );
    let guests = [
        ("web-1", json!({ "restart": { "priority": 10 } })),
        ("web-2", json!({ "restart": { "priority": 10 } })),
        ("db", json!({ "restart": { "priority": 50 } })),
        ("batch", json!("never")),
    ];
    let mut client = lab.client(1)?;
    for (name, failover) in guests {
        let guest = json!({
            "name": name,
            "memory_bytes": 128 << 20,
            "failover": failover,
            "boot": { "cmdline": LOAD },
        });
        if name == "web-1" {
            let explanation = change(&mut client, "/v1/guests/explain", &guest)?;
            explain(report, &explanation);
        }
        change(&mut client, "/v1/guests", &guest)?;
        lab.guests.push(name.to_owned());
    }
    let places = running(lab, 1)?;
    report.done(&step, &places);
    Ok(())
}

/// Waits until every guest runs; where they do.
fn running(lab: &Lab, ask: usize) -> Result<String, CodedError> {
    let guests = lab.until("every guest runs", |lab| {
        let guests = lab.client(ask)?.get("/v1/guests")?;
        let items = guests["items"].as_array().cloned().unwrap_or_default();
        let run = items.iter().filter(|guest| guest["state"] == "running");
        Ok((run.count() == lab.guests.len()).then_some(items))
    })?;
    let places = guests.iter().map(|guest| {
        format!(
            "{} on {}",
            text(&guest["name"]),
            text(&guest["node"]["name"])
        )
    });
    Ok(places.collect::<Vec<_>>().join(", "))
}

fn explain(report: &Report, explanation: &Value) {
    for node in explanation["nodes"].as_array().into_iter().flatten() {
        let reasons = node["reasons"].as_array().into_iter().flatten();
        let reasons: Vec<String> = reasons.map(text).collect();
        let why = match reasons.is_empty() {
            true => String::new(),
            false => format!(": {}", reasons.join("; ")),
        };
        let line = format!("{} {}{why}", text(&node["name"]), text(&node["verdict"]));
        report.say(&line);
    }
}

fn migrate(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    let step = report.begin(
        "move a guest under load",
        "Guest db moves to another node while it writes memory.",
    );
    let mut client = lab.client(2)?;
    let begun = change(&mut client, "/v1/guests/db/migrate", &json!({}))?;
    let id = text(&begun["id"]);
    let path = format!("/v1/migrations/{id}/progress");
    let mut shown = Instant::now();
    let migration = lab.until("the guest has moved", |_| {
        let now = client.get(&path)?;
        let copies = now["progress"]["phase"] != "preparing" && !now["progress"].is_null();
        if copies && shown.elapsed() > Duration::from_millis(150) {
            shown = Instant::now();
            report.say(receipt::progress(&now["progress"]).trim());
        }
        let over =
            now["migration"]["phase"] == "completed" || now["migration"]["phase"] == "aborted";
        Ok(over.then(|| now["migration"].clone()))
    })?;
    if migration["phase"] != "completed" {
        let text = format!("the guest did not move: {}", migration["failure"]);
        return Err(CodedError::new(ErrorCode::Other, text));
    }
    let path = format!("/v1/migrations/{id}/receipt");
    let receipt = lab.until("there is a receipt", |_| client.get(&path).map(Some))?;
    let blackout = find(&receipt, "blackout").and_then(|blackout| blackout["total_ms"].as_f64());
    let detail = format!(
        "{} to {}, {} ms of blackout",
        text(&migration["source"]["name"]),
        text(&migration["target"]["name"]),
        blackout.map_or("?".to_owned(), |ms| format!("{ms:.1}"))
    );
    report.migration(blackout, &receipt);
    report.done(&step, &detail);
    Ok(())
}

fn empty(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    let name = NODES[1];
    let step = report.begin(
        "empty a node",
        &format!("Node {name} is emptied for maintenance."),
    );
    let mut client = lab.client(0)?;
    let before = guests_on(&mut client, name)?;
    let path = format!("/v1/nodes/{name}/drain");
    client.change::<()>(&Method::POST, &path, None)?;
    lab.until("the node is empty", |_| {
        let left = guests_on(&mut client, name)?;
        Ok((left == 0).then_some(()))
    })?;
    client.change::<()>(&Method::POST, &format!("/v1/nodes/{name}/uncordon"), None)?;
    let places = running(lab, 0)?;
    report.done(&step, &format!("{before} guests moved away; {places}"));
    Ok(())
}

fn guests_on(client: &mut Client, node: &str) -> Result<u64, CodedError> {
    let node = client.get(&format!("/v1/nodes/{node}"))?;
    Ok(node["guests"].as_u64().unwrap_or(0))
}

/// Which node has a guest.
fn node_of(client: &mut Client, guest: &str) -> Result<usize, CodedError> {
    let found = client.get(&format!("/v1/guests/{guest}"))?;
    let name = text(&found["node"]["name"]);
    let index = NODES.iter().position(|node| **node == name);
    index.ok_or_else(|| CodedError::new(ErrorCode::Other, format!("{guest} is on no node")))
}

fn lose_node(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    // One that has a guest which is not to be restarted would lose it.
    let batch = node_of(&mut lab.client(0)?, "batch")?;
    let victim = match node_of(&mut lab.client(0)?, "db")? {
        node if node == batch => (node + 1) % NODES.len(),
        node => node,
    };
    let name = NODES[victim];
    let step = report.begin(
        "lose a node",
        &format!("Node {name} dies: its daemon and its guests are killed with -9."),
    );
    let ask = lab.other(victim);
    lab.kill_node(victim);
    let died = Instant::now();
    let lost = guests_on(&mut lab.client(ask)?, name).unwrap_or(0);
    let elsewhere = lab.until("its guests run elsewhere", |lab| {
        let mut client = lab.client(ask)?;
        let guests = client.get("/v1/guests")?;
        let items = guests["items"].as_array().cloned().unwrap_or_default();
        let run = items
            .iter()
            .filter(|guest| guest["state"] == "running" && guest["node"]["name"] != name);
        Ok((run.count() == lab.guests.len()).then(|| died.elapsed()))
    })?;
    let places = running(lab, ask)?;
    let seconds = elsewhere.as_secs_f64();
    report.say(&places);
    report.done(
        &step,
        &format!("{lost} guests ran elsewhere after {seconds:.2} s (the lease is 3 s)"),
    );
    let step = report.begin("the node returns", &format!("Node {name} comes back."));
    lab.start(victim)?;
    lab.until("it is ready again", |lab| {
        let node = lab.client(ask)?.get(&format!("/v1/nodes/{name}"))?;
        Ok((node["state"] == "ready").then_some(()))
    })?;
    report.done(&step, "ready again, and none of its old guests run there");
    Ok(())
}

fn lose_daemon(lab: &mut Lab, report: &mut Report) -> Result<(), CodedError> {
    let victim = node_of(&mut lab.client(0)?, "batch")?;
    let name = NODES[victim];
    let step = report.begin(
        "lose a daemon",
        &format!("The daemon of {name} is killed alone, and started again."),
    );
    let before = lab.guest_processes(victim);
    lab.kill_daemon(victim);
    thread::sleep(Duration::from_millis(500));
    lab.start(victim)?;
    let places = running(lab, victim)?;
    let after = lab.guest_processes(victim);
    report.say(&places);
    if before != after {
        let text = format!("the guest processes were {before:?} and are {after:?}");
        return Err(CodedError::new(ErrorCode::Other, text));
    }
    // They have a moment to look at their memory once more.
    thread::sleep(Duration::from_millis(1500));
    report.done(&step, &format!("{} guests never noticed", after.len()));
    Ok(())
}

fn change(client: &mut Client, path: &str, document: &Value) -> Result<Value, CodedError> {
    client.change(&Method::POST, path, Some(document))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The first field of that name, wherever it is.
fn find<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = document.as_object()?;
    fields
        .get(name)
        .filter(|found| !found.is_null())
        .or_else(|| fields.values().find_map(|field| find(field, name)))
}
