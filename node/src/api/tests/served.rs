//! The server on a Unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use godwit_proto::cluster::ObservedState;

use super::super::serve::{Limits, serve_within};
use super::super::{MAX_CONNECTIONS, UnixSocket};
use super::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    world: World,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    socket: PathBuf,
    _dir: Arc<TempDir>,
}

impl Server {
    fn start() -> Self {
        Self::within(Limits::default())
    }

    fn within(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("godwit.sock");
        let world = World::new();
        let (stop, stopped) = watch::channel(false);
        let listener = UnixSocket::bind(&socket).unwrap();
        let served = serve_within(limits, world.router.clone(), listener, stopped);
        let served = tokio::spawn(served);
        Self {
            world,
            stop,
            served,
            socket,
            _dir: Arc::new(dir),
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends `text` and reads until the other end closes.
    async fn exchange(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        // A server that has not read all of a request may reset the connection.
        let _ = read;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

#[tokio::test]
async fn requests_are_answered_over_a_socket_for_its_owner_and_told_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    let mode = std::fs::metadata(&server.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let body = json!({"name": "p", "kind": "shared", "path": "/p"}).to_string();
    let headers = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    let text = request("POST", "/v1/pools", &headers) + &body;
    let answer = server.exchange(&text).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let state = server.world.fake.state();
    let actor = &state.events().last().unwrap().actor;
    assert!(actor == "root" || actor.starts_with("uid "), "{actor}");
}

#[tokio::test]
async fn what_is_no_http_is_let_go() {
    let server = Server::start();
    for text in ["\u{16}\u{3}\u{1}hello\r\n\r\n", "GET\r\n\r\n"] {
        let answer = server.exchange(text).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
    }
    let head = format!("X: {}\r\n", "x".repeat(200 << 10));
    let answer = server.exchange(&request("GET", "/healthz", &head)).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let answer = server
        .exchange(&request("GET", "/healthz", "Connection: close\r\n"))
        .await;
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::start();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let answer = server.exchange(&request("GET", "/healthz", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("256 connections"), "{answer}");
    drop(held);
    // Places are free again as soon as the server has seen it.
    let tried = async {
        while !server
            .exchange(&request("GET", "/healthz", "Connection: close\r\n"))
            .await
            .contains("200 OK")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, tried).await.unwrap();
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops_and_the_socket_goes() {
    let server = Server::start();
    let mut stream = server.connect().await;
    let text = request("GET", "/v1/events?watch=true", "");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut chunk = [0; 64];
    assert!(stream.read(&mut chunk).await.unwrap() > 0);
    // One that says nothing is in nobody's way.
    let _silent = server.connect().await;
    server.stop.send(true).unwrap();
    timeout(PATIENCE, server.served).await.unwrap().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(
        String::from_utf8_lossy(&rest).ends_with("0\r\n\r\n"),
        "the answer is whole"
    );
    assert!(!server.socket.exists());
}

#[tokio::test]
async fn a_console_is_connected_by_an_upgrade() {
    let server = Server::start();
    let world = &server.world;
    world.post("/v1/guests", json!({"name": "web"})).await.ok();
    world.fake.report("web", ObservedState::Running);
    let plain = server
        .exchange(&request(
            "GET",
            "/v1/guests/web/console",
            "Connection: close\r\n",
        ))
        .await;
    assert!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
    let upgrade = "Connection: Upgrade\r\nUpgrade: godwit-console\r\n";
    let mut stream = server.connect().await;
    let text = request("GET", "/v1/guests/web/console?which=virtio", upgrade);
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut chunk = [0; 256];
    while !seen.contains("Virtio console") {
        let length = timeout(PATIENCE, stream.read(&mut chunk))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "{seen}");
        seen += &String::from_utf8_lossy(&chunk[..length]);
    }
    assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    stream.write_all(b"echo").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut chunk[..4]))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&chunk[..4], b"echo");
    stream.write_all(b"q").await.unwrap();
    assert_eq!(
        timeout(PATIENCE, stream.read(&mut chunk))
            .await
            .unwrap()
            .unwrap(),
        0
    );
    let upgrade = "Connection: Upgrade, close\r\nUpgrade: godwit-console\r\n";
    let missing = request("GET", "/v1/guests/x/console", upgrade);
    let missing = server.exchange(&missing).await;
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_costs_a_bounded_amount_and_is_let_go() {
    use godwit_proto::cluster::{Command, NodeCommand};
    let patience = Duration::from_millis(300);
    let server = Server::within(Limits {
        patience,
        ..Limits::default()
    });
    let world = &server.world;
    let mut stream = server.connect().await;
    let text = request("GET", "/v1/events?watch=true&changes=true", "");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut chunk = [0; 64];
    assert!(stream.read(&mut chunk).await.unwrap() > 0);
    // Much more happens than a socket's buffer holds, bit by bit.
    let node = super::fake::node_id(0);
    let began = std::time::Instant::now();
    let mut told = 0;
    for round in 0..400 {
        for _ in 0..10 {
            for command in [
                NodeCommand::Cordon {
                    node,
                    reason: "x".repeat(900),
                },
                NodeCommand::Uncordon { node },
            ] {
                world.fake.apply(Command::Node(command)).unwrap();
                told += 900;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < PATIENCE, "round {round}");
    }
    tokio::time::sleep(patience * 4).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(
        read.is_err() || !rest.ends_with(b"0\r\n\r\n"),
        "it was cut, not ended"
    );
    assert!(
        rest.len() < told,
        "{} of {told} bytes were kept for it",
        rest.len()
    );
}

#[tokio::test]
async fn a_head_that_does_not_come_and_a_connection_that_lies_idle_are_let_go() {
    let server = Server::within(Limits {
        head_time: Duration::from_millis(200),
        ..Limits::default()
    });
    for text in [
        "",
        "GET /healthz HT",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        // Nobody closes it but the server.
        let answer = server.exchange(text).await;
        let is_whole = text.ends_with("\r\n\r\n");
        assert_eq!(answer.contains("200 OK"), is_whole, "{text}: {answer}");
    }
}

#[tokio::test]
async fn a_console_counts_as_a_connection_and_ends_when_the_server_stops() {
    let server = Server::start();
    let world = &server.world;
    world.post("/v1/guests", json!({"name": "web"})).await.ok();
    world.fake.report("web", ObservedState::Running);
    let upgrade = "Connection: Upgrade\r\nUpgrade: godwit-console\r\n";
    let mut consoles = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = server.connect().await;
        let text = request("GET", "/v1/guests/web/console", upgrade);
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        let mut chunk = [0; 256];
        while !seen.ends_with(b"console\r\n") {
            let read = timeout(PATIENCE, stream.read(&mut chunk)).await.unwrap();
            let length = read.unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&chunk[..length]);
        }
        consoles.push(stream);
    }
    let answer = server.exchange(&request("GET", "/healthz", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    server.stop.send(true).unwrap();
    for mut console in consoles {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, console.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(read.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn a_socket_is_opened_to_a_group_on_request() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("godwit.sock");
    let socket = UnixSocket::bind(&path).unwrap();
    let group = std::fs::metadata(&path).unwrap().gid();
    socket.open_to_group(group).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}
