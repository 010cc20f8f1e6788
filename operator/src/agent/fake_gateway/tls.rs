//! Real TLS on loopback, and the key of whoever calls.
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use axum_server::accept::Accept;
use axum_server::tls_rustls::RustlsAcceptor;
use muster_proof::Digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use tokio::net::{TcpListener, TcpStream};

/// [its certificate, its CA], and the hash of the CA's key.
pub(super) fn tls(name: &str) -> (rustls::ServerConfig, Digest) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = params.self_signed(&ca_key).unwrap().der().clone();
    let spki = Digest::of(&ParsedCertificate::try_from(&ca).unwrap().subject_public_key_info());
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(Arc::new(AnyKey))
        .with_single_cert(vec![leaf.der().clone(), ca], key)
        .unwrap();
    (config, spki)
}

/// Any certificate will do; that its key is the client's own the handshake proves.
#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) struct TlsListener {
    pub listener: TcpListener,
    pub acceptor: RustlsAcceptor,
}

impl Listener for TlsListener {
    type Io = <RustlsAcceptor as Accept<TcpStream, ()>>::Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok((stream, _)) = self.acceptor.accept(stream, ()).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The SPKI of the client's certificate.
#[derive(Debug, Clone)]
pub struct Peer(Option<Vec<u8>>);

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let certificates = stream.io().get_ref().1.peer_certificates();
        let first = certificates.and_then(|list| list.first());
        Self(first.map(|c| ParsedCertificate::try_from(c).unwrap().subject_public_key_info().to_vec()))
    }
}

impl Peer {
    pub fn key(&self) -> (Digest, Vec<u8>) {
        let spki = self.0.clone().expect("the agent shows its certificate");
        (Digest::of(&spki), spki)
    }
}
