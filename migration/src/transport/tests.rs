//! Two sides over real UDP on the loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use godwit_proto::frame::FrameKind;
use godwit_proto::process::VERSIONS;
use tokio::time::timeout;

use super::config::ALPN;
use super::*;

const LOOPBACK: &str = "127.0.0.1:0";
/// Generous: nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

fn receiver(tuning: Tuning) -> Receiver {
    let address = LOOPBACK.parse().unwrap();
    Receiver::bind(address, Invitation::default(), tuning, VERSIONS).unwrap()
}

fn dialer(receiver: &Receiver, tuning: Tuning) -> Dialer {
    // As users do it: through the text.
    let token = receiver.token().to_text().parse().unwrap();
    Dialer::new(token, tuning, VERSIONS).unwrap()
}

async fn link_with(source: Tuning, target: Tuning) -> (SourceLink, TargetLink, Receiver, Dialer) {
    let mut receiver = receiver(target);
    let dialer = dialer(&receiver, source);
    let address = receiver.address().unwrap();
    let (source, target) = tokio::join!(dialer.open(address), receiver.accept(PATIENCE));
    (source.unwrap(), target.unwrap(), receiver, dialer)
}

async fn link() -> (SourceLink, TargetLink, Receiver, Dialer) {
    link_with(Tuning::default(), Tuning::default()).await
}

/// Bytes that differ by stream and position.
fn pattern(stream: u64, length: usize) -> Vec<u8> {
    let mut state = stream + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends `each` bytes over every bulk stream and checks what arrives.
async fn transfer(source: SourceLink, target: TargetLink, each: usize) -> (Peer, Peer) {
    let (source_peer, target_peer) = (source.peer.clone(), target.peer.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for (index, mut sender) in source.bulk.into_iter().enumerate() {
        tasks.spawn(async move {
            sender.write(&pattern(index as u64, each)).await.unwrap();
            assert_eq!(sender.written().bytes(), each as u64);
            sender.finish(PATIENCE).await.unwrap();
        });
    }
    for (index, mut receiver) in target.bulk.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut bytes = vec![0; each];
            receiver.read_exact(&mut bytes, PATIENCE).await.unwrap();
            assert!(bytes == pattern(index as u64, each), "stream {index}");
            assert_eq!(receiver.read(&mut bytes).await.unwrap(), 0);
        });
    }
    timeout(PATIENCE, async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await
    .expect("the transfer ends");
    (source_peer, target_peer)
}

async fn round_trip(asker: &mut Framed, answerer: &mut Framed, payload: &[u8]) {
    let asked = asker.sender.send(FrameKind::Request, 1, payload);
    asked.await.unwrap();
    let frame = answerer.receiver.receive(PATIENCE).await.unwrap();
    assert_eq!(
        (frame.kind, &frame.payload[..]),
        (FrameKind::Request, payload)
    );
    let answered = answerer.sender.send(FrameKind::Response, 1, &frame.payload);
    answered.await.unwrap();
    let frame = asker.receiver.receive(PATIENCE).await.unwrap();
    assert_eq!(
        (frame.kind, &frame.payload[..]),
        (FrameKind::Response, payload)
    );
}

#[tokio::test]
async fn a_source_that_leaves_is_heard_although_nothing_of_it_is_left() {
    let any = "127.0.0.1:0".parse().unwrap();
    let tuning = Tuning::default();
    let mut receiver = Receiver::bind(any, Invitation::default(), tuning, VERSIONS).unwrap();
    let (token, address) = (receiver.token().clone(), receiver.address().unwrap());
    let source = std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dialer = Dialer::new(token, Tuning::default(), VERSIONS).unwrap();
            let mut link = dialer.open(address).await.unwrap();
            let control = &mut link.control.sender;
            control.send(FrameKind::Request, 1, b"all").await.unwrap();
            assert!(control.finish_within(PATIENCE).await);
            link.peer.leave().await;
        });
    });
    let mut target = receiver.accept(PATIENCE).await.unwrap();
    let frame = target.control.receiver.receive(PATIENCE).await.unwrap();
    assert_eq!(frame.payload, b"all");
    let ended = timeout(PATIENCE, target.peer.ended()).await.unwrap();
    let is_told = matches!(
        &ended,
        TransportError::Closed {
            code: CloseCode::Done,
            ..
        }
    );
    assert!(is_told, "{ended:?}");
    source.join().unwrap();
}

#[tokio::test]
async fn messages_and_faults_go_both_ways_and_a_link_ends_with_its_reason() {
    let (mut source, mut target, receiver, _dialer) = link().await;
    assert_eq!(source.peer.fingerprint(), receiver.token().target);
    let hello = source.control.sender.send_hello(VERSIONS);
    hello.await.unwrap();
    let hello = target.control.receiver.receive(PATIENCE).await.unwrap();
    assert_eq!(hello.kind, FrameKind::Hello);
    round_trip(&mut source.control, &mut target.control, b"control").await;
    round_trip(&mut target.fault, &mut source.fault, &[9; 100_000]).await;

    source.peer.close(CloseCode::Cancelled, "by its user").await;
    let error = target.control.receiver.receive(PATIENCE).await.unwrap_err();
    let TransportError::Closed { code, text } = error else {
        panic!("{error:?}");
    };
    assert_eq!((code, &text[..]), (CloseCode::Cancelled, "by its user"));
    let error = source.control.receiver.receive(PATIENCE).await.unwrap_err();
    assert!(matches!(error, TransportError::ClosedHere), "{error:?}");
}

#[tokio::test]
async fn a_link_that_is_dropped_is_not_taken_for_done() {
    let (source, target, ..) = link().await;
    drop(source);
    let error = timeout(PATIENCE, target.peer.ended()).await.unwrap();
    let abandoned = CloseCode::Abandoned;
    assert!(
        matches!(error, TransportError::Closed { code, .. } if code == abandoned),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_target_with_another_certificate_is_left_before_anything_is_proved() {
    let (expected, other) = (receiver(Tuning::default()), receiver(Tuning::default()));
    let dialer = dialer(&expected, Tuning::default());
    let error = dialer.open(other.address().unwrap()).await.unwrap_err();
    let TransportError::PinMismatch {
        expected: pin,
        found,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(pin, expected.token().target);
    assert_eq!(found, other.token().target);
}

fn assert_refused(result: Result<SourceLink, TransportError>, expected: CloseCode) {
    match result {
        Err(TransportError::Refused { code, .. }) => assert_eq!(code, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_costs_the_right_one_nothing() {
    let mut receiver = receiver(Tuning::default());
    let address = receiver.address().unwrap();
    let forged = Token::generate(receiver.token().target, &[]).unwrap();
    let thief = Dialer::new(forged, Tuning::default(), VERSIONS).unwrap();
    assert_refused(thief.open(address).await, CloseCode::BadToken);
    let dialer = dialer(&receiver, Tuning::default());
    let (source, target) = tokio::join!(dialer.open(address), receiver.accept(PATIENCE));
    source.unwrap();
    target.unwrap();
}

#[tokio::test]
async fn a_token_is_good_once_and_only_its_source_resumes() {
    let (source, target, mut receiver, dialer) = link().await;
    let address = receiver.address().unwrap();
    let token = receiver.token().to_text().parse().unwrap();
    let other = Dialer::new(token, Tuning::default(), VERSIONS).unwrap();
    for open in [&other, &dialer] {
        assert_refused(open.open(address).await, CloseCode::TokenUsed);
    }
    assert_refused(other.resume(address).await, CloseCode::TokenUsed);

    drop((source, target));
    let (source, target) = tokio::join!(dialer.resume(address), receiver.accept_resumed(PATIENCE));
    round_trip(
        &mut source.unwrap().control,
        &mut target.unwrap().control,
        b"again",
    )
    .await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let invitation = Invitation {
        valid_for: Some(Duration::ZERO),
        ..Invitation::default()
    };
    let address = LOOPBACK.parse().unwrap();
    let receiver = Receiver::bind(address, invitation, Tuning::default(), VERSIONS).unwrap();
    let dialer = dialer(&receiver, Tuning::default());
    let address = receiver.address().unwrap();
    assert_refused(dialer.open(address).await, CloseCode::TokenExpired);
}

/// A quinn endpoint whose TLS is made by hand.
fn stranger(
    alpn: &[u8],
    receiver: &Receiver,
    with_certificate: bool,
) -> (quinn::Endpoint, quinn::ClientConfig) {
    use std::sync::Arc;
    let identity = Identity::generate().unwrap();
    let provider = super::config::provider();
    let pin = super::verify::PinnedTarget::new(provider.clone(), receiver.token().target);
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin));
    let mut tls = if with_certificate {
        let key = identity.key().into();
        tls.with_client_auth_cert(identity.chain(), key).unwrap()
    } else {
        tls.with_no_client_auth()
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = super::socket::endpoint(LOOPBACK.parse().unwrap(), &Tuning::default(), None);
    (
        endpoint.unwrap(),
        quinn::ClientConfig::new(Arc::new(crypto)),
    )
}

async fn connect(
    (endpoint, config): &(quinn::Endpoint, quinn::ClientConfig),
    address: SocketAddr,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let connecting = endpoint.connect_with(config.clone(), address, "godwit");
    timeout(PATIENCE, connecting.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_apart() {
    let receiver = receiver(Tuning::default());
    let stranger = stranger(b"godwit-migrate/2", &receiver, true);
    let error = connect(&stranger, receiver.address().unwrap()).await;
    let error = TransportError::lost(error.unwrap_err());
    assert!(matches!(error, TransportError::Version), "{error:?}");
}

#[tokio::test]
async fn a_source_without_a_certificate_is_refused() {
    let receiver = receiver(Tuning::default());
    let stranger = stranger(ALPN, &receiver, false);
    // The client may see its side of the handshake end before the server's refusal arrives.
    if let Ok(connection) = connect(&stranger, receiver.address().unwrap()).await {
        let reason = timeout(PATIENCE, connection.closed()).await.unwrap();
        let by_peer = matches!(reason, quinn::ConnectionError::ConnectionClosed(_));
        assert!(by_peer, "{reason:?}");
    }
}

#[tokio::test]
async fn those_who_say_nothing_or_garbage_keep_nobody_out() {
    let quick = Tuning {
        handshake_limit: Duration::from_secs(2),
        ..Tuning::default()
    };
    let mut receiver = receiver(quick);
    let address = receiver.address().unwrap();
    let socket = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    for length in 0..1500 {
        let _ = socket.send_to(&pattern(length, length as usize), address);
    }
    // Through the handshake, then: silence, a wrong kind of stream, an ask cut short.
    let stranger = stranger(ALPN, &receiver, true);
    let mut kept = Vec::new();
    for words in [&b""[..], b"\x77", b"\x00\x00\x00", b"\x41bulk"] {
        let connection = connect(&stranger, address).await.unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(words).await.unwrap();
        if words.len() > 1 {
            send.finish().unwrap();
        }
        kept.push((connection, send, receive));
    }
    let dialer = dialer(&receiver, Tuning::default());
    let (source, target) = tokio::join!(dialer.open(address), receiver.accept(PATIENCE));
    round_trip(
        &mut source.unwrap().control,
        &mut target.unwrap().control,
        b"in",
    )
    .await;
    for (connection, ..) in kept {
        let reason = timeout(PATIENCE, connection.closed()).await;
        reason.expect("nobody stays without saying why it came");
    }
}

#[tokio::test]
async fn a_frame_above_the_bound_is_refused_by_both_sides() {
    let small = Tuning {
        max_frame_bytes: 1000,
        ..Tuning::default()
    };
    let (mut source, mut target, ..) = link_with(Tuning::default(), small).await;
    let sent = source
        .control
        .sender
        .send(FrameKind::Request, 1, &[0; 1001]);
    sent.await.unwrap();
    let error = target.control.receiver.receive(PATIENCE).await.unwrap_err();
    assert!(matches!(error, TransportError::Frame { .. }), "{error:?}");
    assert_eq!(error.close_code(), CloseCode::Protocol);

    let sent = target
        .control
        .sender
        .send(FrameKind::Request, 1, &[0; 1001]);
    let error = sent.await.unwrap_err();
    assert!(matches!(error, TransportError::Frame { .. }), "{error:?}");
    // Nothing of it went out, so the stream goes on.
    let sent = target.control.sender.send(FrameKind::Request, 1, b"short");
    sent.await.unwrap();
    let frame = source.control.receiver.receive(PATIENCE).await.unwrap();
    assert_eq!(frame.payload, b"short");
}

#[tokio::test]
async fn a_target_that_stops_reading_is_noticed() {
    let tuning = Tuning {
        stall_limit: Duration::from_millis(800),
        stream_window_bytes: 64 << 10,
        ..Tuning::default()
    };
    let (mut source, target, ..) = link_with(tuning.clone(), tuning).await;
    let bytes = vec![1; 4 << 20];
    let written = timeout(PATIENCE, source.bulk[0].write(&bytes)).await;
    let error = written.expect("noticed in bounded time").unwrap_err();
    let TransportError::Stalled { phase, waited } = error else {
        panic!("{error:?}");
    };
    assert_eq!(phase, Phase::Bulk);
    assert!(waited >= Duration::from_millis(800), "{waited:?}");
    drop(target);
}

#[tokio::test]
async fn a_wait_for_a_frame_ends_and_loses_nothing() {
    let (mut source, mut target, ..) = link().await;
    let none = target.control.receiver.receive(Duration::from_millis(50));
    let error = none.await.unwrap_err();
    assert!(matches!(error, TransportError::Stalled { .. }), "{error:?}");
    round_trip(&mut source.control, &mut target.control, b"late").await;
}

#[test]
fn a_killed_peer_is_noticed_in_bounded_time() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (ours, theirs) = (runtime(), runtime());
    let mut receiver = ours.block_on(async { receiver(Tuning::default()) });
    let dialer = dialer(&receiver, Tuning::default());
    let address = receiver.address().unwrap();
    let accepted = ours.spawn(async move {
        let target = receiver.accept(PATIENCE).await.unwrap();
        (receiver, target)
    });
    let source = theirs.block_on(dialer.open(address)).unwrap();
    let (_receiver, mut target) = ours.block_on(accepted).unwrap();
    // Nothing of the source runs any more, and nothing says goodbye.
    theirs.shutdown_background();
    std::mem::forget(source);
    let killed = Instant::now();
    let waits = async {
        let error = timeout(PATIENCE, target.control.receiver.next())
            .await
            .unwrap();
        let error = error.unwrap_err();
        assert!(matches!(error, TransportError::DeadPeer), "{error:?}");
        let error = target.bulk[0].read(&mut [0]).await.unwrap_err();
        assert!(matches!(error, TransportError::DeadPeer), "{error:?}");
    };
    ours.block_on(waits);
    let noticed = killed.elapsed();
    println!("noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(10), "{noticed:?}");
}

#[tokio::test]
async fn faults_and_control_pass_while_all_bulk_is_stuck() {
    for bulk_connections in [0, 1] {
        let tuning = Tuning {
            bulk_connections,
            stream_window_bytes: 256 << 10,
            stall_limit: Duration::from_secs(60),
            ..Tuning::default()
        };
        let (mut source, mut target, ..) = link_with(tuning.clone(), tuning).await;
        let mut stuck = Vec::new();
        for mut sender in std::mem::take(&mut source.bulk) {
            let written = sender.written().clone();
            let task = tokio::spawn(async move { sender.write(&vec![1; 64 << 20]).await });
            stuck.push((task, written));
        }
        // Nobody reads bulk: each stream fills its window, less the byte that names it.
        let full = (256 << 10) - 1;
        let deadline = Instant::now() + PATIENCE;
        while stuck.iter().any(|(_, written)| written.bytes() < full) {
            assert!(Instant::now() < deadline, "bulk fills its windows");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // More than a window in all, so it is not what a window has left over that lets them pass.
        for _ in 0..200 {
            round_trip(&mut target.fault, &mut source.fault, &[3; 4096]).await;
            round_trip(&mut source.control, &mut target.control, b"progress").await;
        }
        for (task, written) in stuck {
            assert!(!task.is_finished(), "bulk was stuck all the time");
            assert_eq!(written.bytes(), full, "a window is buffered, no more");
            task.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_arrives_whole_over_four_streams() {
    let (source, target, ..) = link().await;
    assert_eq!((source.bulk.len(), target.bulk.len()), (4, 4));
    transfer(source, target, 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_arrives_whole_over_connections_of_its_own() {
    let tuning = Tuning {
        bulk_connections: 2,
        bulk_streams: 5,
        ..Tuning::default()
    };
    let (source, target, ..) = link_with(tuning.clone(), tuning).await;
    assert_eq!((source.bulk.len(), target.bulk.len()), (5, 5));
    transfer(source, target, 2 << 20).await;
}

#[tokio::test]
async fn the_connections_of_a_link_end_together_and_for_the_same_reason() {
    let tuning = Tuning {
        bulk_connections: 2,
        ..Tuning::default()
    };
    let (mut source, target, ..) = link_with(tuning.clone(), tuning).await;
    target.peer.shared.connections[2].close(CloseCode::Cancelled.varint(), b"");
    for _ in 0..2 {
        let ended = timeout(PATIENCE, source.peer.ended()).await.unwrap();
        let cancelled = CloseCode::Cancelled;
        assert!(
            matches!(ended, TransportError::Closed { code, .. } if code == cancelled),
            "{ended:?}"
        );
    }
    let error = source.control.receiver.next().await.unwrap_err();
    assert!(matches!(error, TransportError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn the_lesser_wish_of_both_sides_holds() {
    let wants = Tuning {
        bulk_streams: 8,
        bulk_connections: 3,
        ..Tuning::default()
    };
    let grants = Tuning {
        bulk_streams: 2,
        bulk_connections: 1,
        ..Tuning::default()
    };
    let (source, target, ..) = link_with(wants, grants).await;
    assert_eq!((source.bulk.len(), target.bulk.len()), (2, 2));
    assert_eq!(source.peer.shared.connections.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_mtu_is_found_and_survives_full_batches() {
    let tuning = Tuning {
        mtu_limit: 65_000,
        ..Tuning::default()
    };
    let (source, target, ..) = link_with(tuning.clone(), tuning).await;
    let (source, _target) = transfer(source, target, 16 << 20).await;
    let stats = source.stats();
    assert!(stats.mtu > 60_000, "{stats:?}");
    assert_eq!(stats.black_holes, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capped_link_takes_its_time() {
    let capped = Tuning {
        bandwidth_cap: Some(8 << 20),
        ..Tuning::default()
    };
    let (source, target, ..) = link_with(capped, Tuning::default()).await;
    let began = Instant::now();
    transfer(source, target, 1 << 20).await;
    let took = began.elapsed();
    // 4 MiB at 8 MiB/s, less a burst of 10 ms. It may take longer on a busy machine.
    assert!(took > Duration::from_millis(450), "{took:?}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused_by_name() {
    let bad = [
        (
            "mtu_limit",
            Tuning {
                mtu_limit: 1199,
                ..Tuning::default()
            },
        ),
        (
            "mtu_limit",
            Tuning {
                mtu_limit: 65_508,
                ..Tuning::default()
            },
        ),
        (
            "bulk_streams",
            Tuning {
                bulk_streams: 0,
                ..Tuning::default()
            },
        ),
        (
            "bulk_streams",
            Tuning {
                bulk_streams: 17,
                ..Tuning::default()
            },
        ),
        (
            "bulk_connections",
            Tuning {
                bulk_connections: 9,
                ..Tuning::default()
            },
        ),
        (
            "stream_window_bytes",
            Tuning {
                stream_window_bytes: 0,
                ..Tuning::default()
            },
        ),
        (
            "dead_after (ms)",
            Tuning {
                dead_after: Duration::ZERO,
                ..Tuning::default()
            },
        ),
        (
            "dead_after (ms)",
            Tuning {
                dead_after: Duration::MAX,
                ..Tuning::default()
            },
        ),
        (
            "max_frame_bytes",
            Tuning {
                max_frame_bytes: u32::MAX,
                ..Tuning::default()
            },
        ),
    ];
    for (name, tuning) in bad {
        let address = LOOPBACK.parse().unwrap();
        let error = Receiver::bind(address, Invitation::default(), tuning, VERSIONS).unwrap_err();
        assert!(
            matches!(error, TransportError::Tuning { setting, .. } if setting == name),
            "{error:?}"
        );
    }
}
