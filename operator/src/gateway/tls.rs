//! TLS as section 1 of the specification wants it: any P-256 key may introduce itself, and what a request carries of it is the
//! key alone. Everything of a certificate but its key is ignored.
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use axum_server::accept::Accept;
use muster_proof::Digest;
use muster_proof::key::PublicKey;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;

use crate::runtime::client::install_crypto;
use crate::runtime::tls::{Authority, TlsError, spki};

/// A handshake takes no longer.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that one address may have open: what a stranger can take of memory.
const PER_ADDRESS: usize = 512;

/// A key whose possession the handshake has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerKey {
    /// SHA-256 of `spki`.
    pub fingerprint: Digest,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// The same, read.
    pub public: PublicKey,
}

impl PeerKey {
    /// The key of a certificate.
    ///
    /// # Errors
    /// It is not a P-256 key in its usual encoding.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let spki = spki(certificate)?;
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let public = PublicKey::from_der(&spki).map_err(|_| bad())?;
        // A key has one encoding here: two would be two fingerprints of one key.
        let fingerprint = Digest::of(&spki);
        if public.key_id() == fingerprint { Ok(Self { fingerprint, spki, public }) } else { Err(bad()) }
    }
}

/// Who is at the other end of a connection; in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its key, if it has shown one.
    pub key: Option<Arc<PeerKey>>,
}

/// TLS 1.3 with the authority's certificate for `names`; a client's certificate is asked for, but not insisted upon.
///
/// # Errors
/// When a name is not a DNS name or IP address.
pub fn server_config(authority: &Authority, names: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    install_crypto();
    let (chain, key) = authority.issue(names)?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(Arc::new(AnyP256Key::default()))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection proves its key anew: a ticket would stand for it without the key.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Accepts every certificate of a P-256 key that signs the handshake.
#[derive(Debug)]
struct AnyP256Key(WebPkiSupportedAlgorithms);

impl Default for AnyP256Key {
    fn default() -> Self {
        Self(rustls::crypto::ring::default_provider().signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyP256Key {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        PeerKey::of(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Makes the handshake and gives each request of the connection its [`Peer`].
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    open: Arc<Open>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor { .. }")
    }
}

impl Acceptor {
    /// With this configuration.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self { config, open: Arc::default() }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = WithPeer<S>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (config, open) = (self.config.clone(), self.open.clone());
        Box::pin(async move {
            let address = stream.peer_addr()?;
            let held = open.enter(address.ip()).ok_or_else(|| io::Error::other("too many connections"))?;
            tune(&stream)?;
            let handshake = TlsAcceptor::from(config).accept(stream);
            let stream = tokio::time::timeout(HANDSHAKE, handshake).await??;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let key = shown.map(PeerKey::of).transpose().map_err(io::Error::other)?.map(Arc::new);
            let service = WithPeer { inner: service, peer: Peer { address, key }, _held: Arc::new(held) };
            Ok((stream, service))
        })
    }
}

/// An answer of a few bytes does not wait for more; a peer that vanished is noticed within half a minute, or its watches would
/// hold their places until the kernel gives up, which takes a quarter of an hour.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&alive.with_retries(3))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))
}

/// Puts the [`Peer`] into each request's extensions.
#[derive(Debug, Clone)]
pub struct WithPeer<S> {
    inner: S,
    peer: Peer,
    _held: Arc<Held>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}

/// Open connections by address.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<IpAddr, usize>>);

impl Open {
    fn enter(self: Arc<Self>, address: IpAddr) -> Option<Held> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= PER_ADDRESS {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Held { open: self, address })
    }
}

/// One open connection.
#[derive(Debug)]
struct Held {
    open: Arc<Open>,
    address: IpAddr,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, date_time_ymd};

    #[test]
    fn only_the_key_of_a_certificate_counts() {
        let key = KeyPair::generate().unwrap();
        let mut long_ago = CertificateParams::new(vec!["a".into()]).unwrap();
        long_ago.not_after = date_time_ymd(1999, 1, 1);
        let now = CertificateParams::new(vec!["b".into()]).unwrap();
        let of = |params: CertificateParams| PeerKey::of(params.self_signed(&key).unwrap().der()).unwrap();
        let (a, b) = (of(long_ago), of(now));
        assert_eq!(a, b);
        assert_eq!(a.fingerprint, a.public.key_id());
    }

    #[test]
    fn other_keys_and_rubbish_are_refused() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let made = CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
            assert!(PeerKey::of(made.der()).is_err());
        }
        for bytes in [&b""[..], b"\x30\x00", &[0x30; 300]] {
            assert!(PeerKey::of(&CertificateDer::from(bytes)).is_err());
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let open = Arc::new(Open::default());
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let mut held: Vec<_> = (0..PER_ADDRESS).map(|_| open.clone().enter(address).unwrap()).collect();
        assert!(open.clone().enter(address).is_none());
        assert!(open.clone().enter("10.0.0.2".parse().unwrap()).is_some());
        held.pop();
        assert!(open.clone().enter(address).is_some());
        held.clear();
        assert!(open.0.lock().unwrap().is_empty());
    }
}
