//! How nodes know each other.

use std::sync::Arc;
use std::time::Duration;

use godwit_proto::id::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::identity::{self, Credentials};

/// The protocol, as TLS names it. A change that an older build cannot follow gets a new number.
const ALPN: &[u8] = b"godwit-peer/1";
/// How often an idle connection is used, so that its death is noticed.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// After how much silence a peer counts as dead.
const DEAD_AFTER: Duration = Duration::from_millis(2500);
/// Requests of one peer that are under way at once.
const MAX_REQUESTS: u32 = 256;
/// What a stream holds unread.
const STREAM_WINDOW: u32 = 2 << 20;
/// What a connection holds unread.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("TLS does not take this node's certificate")]
    Rustls(#[from] rustls::Error),
    #[error("the authority's certificate is of no use")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.to_vec()))?;
    Ok(Arc::new(roots))
}

fn transport() -> Arc<TransportConfig> {
    let idle = IdleTimeout::try_from(DEAD_AFTER).expect("a few seconds");
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(MAX_REQUESTS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle));
    Arc::new(config)
}

/// For who listens.
pub(super) fn server(credentials: &Credentials) -> Result<quinn::ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(&credentials.authority)?, provider())
            .allow_unauthenticated()
            .build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain(), credentials.private_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls).expect("AES-128 is among the cipher suites");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

/// For who calls other nodes, each under [`identity::name_of`] it.
pub(super) fn client(credentials: &Credentials) -> Result<quinn::ClientConfig, TlsError> {
    let roots = roots(&credentials.authority)?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(
            WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?,
        )
        .with_client_auth_cert(credentials.chain(), credentials.private_key())?;
    Ok(client_config(tls))
}

/// For who has nothing but the hash of the authority's certificate.
pub(super) fn joiner(authority: [u8; 32]) -> Result<quinn::ClientConfig, TlsError> {
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority(authority)))
        .with_no_client_auth();
    Ok(client_config(tls))
}

fn client_config(mut tls: rustls::ClientConfig) -> quinn::ClientConfig {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the certificates.
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).expect("AES-128 is among the cipher suites");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    config
}

/// The node that proved itself on `connection`; `None` of one that showed no certificate.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<NodeId> {
    let shown = connection.peer_identity()?;
    let chain = shown.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    node_in(chain.first()?)
}

fn node_in(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_dns_names();
    names.find_map(identity::node_of)
}

/// Takes the certificate of any node of the cluster whose authority's certificate has this hash.
#[derive(Debug)]
struct PinnedAuthority([u8; 32]);

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = |certificate: &CertificateDer<'_>| {
            ring::digest::digest(&ring::digest::SHA256, certificate)
        };
        let authority = intermediates
            .iter()
            .find(|certificate| hash(certificate).as_ref() == self.0)
            .ok_or(CertificateError::UnknownIssuer)?;
        let node = node_in(certificate).ok_or(CertificateError::NotValidForName)?;
        let broken = |error: TlsError| {
            rustls::Error::from(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let roots = roots(authority).map_err(broken)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| broken(error.into()))?;
        let name = ServerName::try_from(identity::name_of(node))
            .map_err(|_| CertificateError::NotValidForName)?;
        verifier.verify_server_cert(certificate, &[], &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
