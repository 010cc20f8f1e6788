//! TLS as section 1 of the specification wants it: any P-256 key may introduce itself, and what a request carries of it is the
//! key alone. Everything of a certificate but its key is ignored.
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

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
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::runtime::client::install_crypto;
use crate::runtime::connections::{Connections, PER_ADDRESS, Telling};
use crate::runtime::tls::{Authority, TlsError, spki};

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
    connections: Arc<Connections>,
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
        Self { config, connections: Connections::new(usize::MAX, PER_ADDRESS) }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = TlsStream<TcpStream>;
    type Service = Telling<S, Peer>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Self { config, connections } = self.clone();
        Box::pin(async move {
            let address = stream.peer_addr()?;
            let (stream, held) = connections.accept(config, stream).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let key = shown.map(PeerKey::of).transpose().map_err(io::Error::other)?.map(Arc::new);
            Ok((stream, held.telling(service, Peer { address, key })))
        })
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
}
