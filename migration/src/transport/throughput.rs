//! Megabytes per second between two sides on the loopback. Not a check: it prints.
//!
//! `cargo test --release -p godwit-migration throughput -- --ignored --nocapture`

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_proto::process::VERSIONS;

use super::config::provider;
use super::verify::{AnySource, PinnedTarget};
use super::{Congestion, Dialer, Identity, Invitation, Receiver, Tuning};

const TOTAL_BYTES: usize = 1 << 30;
const PIECE_BYTES: usize = 256 << 10;
const ROUNDS: usize = 3;
const WAIT: Duration = Duration::from_secs(60);

fn megabytes_per_second(began: Instant) -> f64 {
    TOTAL_BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}

async fn quic(tuning: Tuning) -> f64 {
    let address = "127.0.0.1:0".parse().unwrap();
    let mut receiver =
        Receiver::bind(address, Invitation::default(), tuning.clone(), VERSIONS).unwrap();
    let dialer = Dialer::new(receiver.token().clone(), tuning, VERSIONS).unwrap();
    let address = receiver.address().unwrap();
    let (source, target) = tokio::join!(dialer.open(address), receiver.accept(WAIT));
    let (source, target) = (source.unwrap(), target.unwrap());
    let each = TOTAL_BYTES / source.bulk.len();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut sender in source.bulk {
        tasks.spawn(async move {
            let piece = vec![0x5a; PIECE_BYTES];
            for _ in 0..each / PIECE_BYTES {
                sender.write(&piece).await.unwrap();
            }
            sender.finish(WAIT).await.unwrap();
        });
    }
    for mut receiver in target.bulk {
        tasks.spawn(async move {
            let mut buffer = vec![0; PIECE_BYTES];
            while receiver.read(&mut buffer).await.unwrap() > 0 {}
            assert_eq!(receiver.received().bytes(), each as u64);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let rate = megabytes_per_second(began);
    println!("    {rate:6.0}  {:?}", source.peer.stats());
    rate
}

/// One TLS 1.3 connection over TCP with the same cipher: what the link is measured by.
fn tls_over_tcp() -> f64 {
    let (source, target) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pin = PinnedTarget::new(provider(), target.fingerprint());
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_client_auth_cert(source.chain(), source.key().into())
        .unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnySource::new(provider())))
        .with_single_cert(target.chain(), target.key().into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let receiving = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let tls = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let mut tls = rustls::StreamOwned::new(tls, tcp);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut read = 0;
        while read < TOTAL_BYTES {
            read += tls.read(&mut buffer).unwrap();
        }
        tls.write_all(b".").unwrap();
        tls.flush().unwrap();
    });
    let name = Identity::NAME.try_into().unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut tls = rustls::StreamOwned::new(tls, TcpStream::connect(address).unwrap());
    tls.sock.set_nodelay(true).unwrap();
    let piece = vec![0x5a; PIECE_BYTES];
    let began = Instant::now();
    for _ in 0..TOTAL_BYTES / PIECE_BYTES {
        tls.write_all(&piece).unwrap();
    }
    tls.read_exact(&mut [0]).unwrap();
    let rate = megabytes_per_second(began);
    receiving.join().unwrap();
    println!("    {rate:6.0}");
    rate
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
#[ignore = "a measurement: it takes a minute and says nothing in a debug build"]
fn throughput_of_the_loopback() {
    use Congestion::{Bbr, Cubic, Shallow};
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    let cases = [
        (Cubic, 1452, 4, 0),
        (Cubic, 8952, 4, 0),
        (Bbr, 8952, 4, 0),
        (Shallow, 8952, 4, 1),
        (Cubic, 8952, 1, 0),
        (Cubic, 8952, 4, 1),
        (Cubic, 8952, 4, 2),
        (Cubic, 32_000, 4, 0),
        (Cubic, 65_000, 4, 0),
        (Bbr, 65_000, 4, 0),
        (Cubic, 65_000, 4, 1),
    ];
    let mut tcp = Vec::new();
    let mut rates = cases.map(|_| Vec::new());
    // Interleaved, so that a busy moment of the machine does not fall on one case alone.
    for _ in 0..ROUNDS {
        println!("tls over tcp");
        tcp.push(tls_over_tcp());
        for (case, rates) in cases.iter().zip(&mut rates) {
            let &(congestion, mtu_limit, bulk_streams, bulk_connections) = case;
            println!("{case:?}");
            let tuning = Tuning {
                congestion,
                mtu_limit,
                bulk_streams,
                bulk_connections,
                ..Tuning::default()
            };
            rates.push(runtime().block_on(quic(tuning)));
        }
    }
    println!("MB/s, median of {ROUNDS}, {} MiB each", TOTAL_BYTES >> 20);
    println!("{:7.0}  tls over tcp", median(tcp));
    for ((congestion, mtu, streams, connections), rates) in cases.into_iter().zip(rates) {
        let rate = median(rates);
        println!(
            "{rate:7.0}  {congestion:?}, mtu {mtu}, {streams} streams, {connections} own connections"
        );
    }
}
