//! The limit that the encrypted link is measured by: one TLS 1.3 connection over TCP that
//! copies the same bytes, from memory to nowhere, with the cipher that the link uses.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::super::BenchError;
use super::link::{End, Link};

const PORT: u16 = 4445;
const NAME: &str = "target";
const PIECE_BYTES: usize = 256 << 10;
const SILENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Copies `bytes` from the source to the target and returns how long that took, handshake
/// included, until the target said that it had all.
pub(super) fn copy(link: &Link, bytes: &[u8]) -> Result<Duration, BenchError> {
    let address = SocketAddr::from((End::Target.address(), PORT));
    let (server, client) = configurations().map_err(failed)?;
    let [source, target] = [End::Source, End::Target].map(|end| link.namespace_of(end));
    let length = bytes.len();
    let (listens, listening) = mpsc::channel();
    let took = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<(), Failure> {
            enter(&target)?;
            let listener = TcpListener::bind(address)?;
            listens.send(())?;
            receive(&listener, server, length)
        });
        let sender = scope.spawn(move || -> Result<Duration, Failure> {
            enter(&source)?;
            listening.recv()?;
            send(address, client, bytes)
        });
        let took = sender.join().expect("sending does not panic");
        receiver.join().expect("receiving does not panic")?;
        took
    });
    took.map_err(failed)
}

fn enter(namespace: &Path) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(
        File::open(namespace)?.as_fd(),
        kind,
    )?)
}

fn configurations() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), Failure> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    });
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((Arc::new(server), Arc::new(client)))
}

fn receive(
    listener: &TcpListener,
    config: Arc<ServerConfig>,
    length: usize,
) -> Result<(), Failure> {
    let (tcp, _) = listener.accept()?;
    tcp.set_read_timeout(Some(SILENCE))?;
    let mut tls = rustls::StreamOwned::new(ServerConnection::new(config)?, tcp);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut read = 0;
    while read < length {
        match tls.read(&mut buffer)? {
            0 => return Err("the copy ended early".into()),
            bytes => read += bytes,
        }
    }
    tls.write_all(b".")?;
    Ok(tls.flush()?)
}

fn send(address: SocketAddr, config: Arc<ClientConfig>, bytes: &[u8]) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let tcp = TcpStream::connect_timeout(&address, SILENCE)?;
    tcp.set_write_timeout(Some(SILENCE))?;
    tcp.set_read_timeout(Some(SILENCE))?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(NAME)?;
    let mut tls = rustls::StreamOwned::new(ClientConnection::new(config, name)?, tcp);
    for piece in bytes.chunks(PIECE_BYTES) {
        tls.write_all(piece)?;
    }
    tls.read_exact(&mut [0])?;
    Ok(begin.elapsed())
}

fn failed(error: Failure) -> BenchError {
    BenchError::System {
        doing: "copy over TLS".to_owned(),
        source: io::Error::other(error),
    }
}
