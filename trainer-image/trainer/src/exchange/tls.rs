//! Who is at the other end: TLS 1.3 between the keys of one round's list, and nobody else.
//!
//! A worker's key is made when it listens and dies with its process. The certificate around it is there because TLS wants
//! one: names, dates and extensions in it mean nothing. A peer is whoever holds a key of the list, as the handshake's
//! signature proves.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_proof::Digest;
use muster_proof::key::PublicKey;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName,
    PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};

use super::Error;
use crate::protocol::Peer;

/// The key of one worker process.
pub(super) struct WorkerKey {
    public: PublicKey,
    private: PrivateKeyDer<'static>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for WorkerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkerKey({})", self.public.key_id())
    }
}

impl WorkerKey {
    /// A new key.
    pub fn generate() -> Result<Self, Error> {
        let broken = |problem: String| Error::Setup(format!("cannot make this worker's key: {problem}"));
        let pair =
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| broken(e.to_string()))?;
        let public =
            PublicKey::from_der(&pair.subject_public_key_info()).map_err(|e| broken(e.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "muster worker");
        let certificate = params.self_signed(&pair).map_err(|e| broken(e.to_string()))?;
        let private = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|e| broken(e.into()))?;
        Ok(Self { public, private, certificate: certificate.der().clone() })
    }

    /// What the others must know of it.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// One worker's view of a round's keys: its own, and whose it believes.
#[derive(Debug)]
pub(super) struct Keys {
    own: WorkerKey,
    ranks: BTreeMap<Digest, u32>,
    provider: Arc<CryptoProvider>,
    accepting: Arc<ServerConfig>,
}

impl Keys {
    /// For the worker of rank `me`: it is called by the higher ranks.
    pub fn new(own: WorkerKey, me: u32, peers: &[Peer]) -> Result<Self, rustls::Error> {
        let ranks: BTreeMap<_, _> = peers.iter().map(|peer| peer.key).zip(0..).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let above = ranks.iter().filter(|(_, rank)| **rank > me).map(|(key, _)| *key).collect();
        let mut accepting = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Holders::new(above, provider.clone())))
            .with_single_cert(vec![own.certificate.clone()], own.private.clone_key())?;
        accepting.session_storage = Arc::new(NoServerSessionStorage {});
        accepting.send_tls13_tickets = 0;
        Ok(Self { own, ranks, provider, accepting: Arc::new(accepting) })
    }

    /// The answering end of a connection from any higher rank.
    pub fn accept(&self) -> Result<Connection, rustls::Error> {
        Ok(ServerConnection::new(self.accepting.clone())?.into())
    }

    /// The calling end of a connection to `peer` and to nobody else.
    pub fn call(&self, peer: &Peer) -> Result<Connection, rustls::Error> {
        let only = Holders::new(vec![peer.key], self.provider.clone());
        let mut calling = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(only))
            .with_client_auth_cert(vec![self.own.certificate.clone()], self.own.private.clone_key())?;
        calling.resumption = Resumption::disabled();
        calling.enable_sni = false;
        let name = ServerName::from(peer.address.ip());
        Ok(ClientConnection::new(Arc::new(calling), name)?.into())
    }

    /// Whose key the other end of a finished handshake has proven to hold.
    pub fn rank_of(&self, connection: &Connection) -> Option<u32> {
        let key = fingerprint(connection.peer_certificates()?.first()?)?;
        self.ranks.get(&key).copied()
    }
}

/// SHA-256 of a certificate's SPKI.
fn fingerprint(certificate: &CertificateDer<'_>) -> Option<Digest> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(Digest::of(&parsed.subject_public_key_info()))
}

/// Believes those who hold one of these keys.
#[derive(Debug)]
pub(super) struct Holders {
    keys: Vec<Digest>,
    provider: Arc<CryptoProvider>,
}

impl Holders {
    pub fn new(keys: Vec<Digest>, provider: Arc<CryptoProvider>) -> Self {
        Self { keys, provider }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match fingerprint(certificate) {
            Some(key) if self.keys.contains(&key) => Ok(()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// The proof that the other end holds the key that its certificate shows.
    fn prove(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// Both configurations speak TLS 1.3 only, so this is never asked.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
}

impl ServerCertVerifier for Holders {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.prove(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Holders {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.prove(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
