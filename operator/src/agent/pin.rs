//! TLS to the gateway: on first contact by the hash of its CA's key, which the join token carries; from then on by the CA
//! itself, which that contact left in the state directory. TLS 1.3, our own certificate, no redirects, no proxies.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_proof::Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::identity::Identity;
use super::units::locked;
use crate::runtime::client::install_crypto;
use crate::runtime::tls;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The kept CA is none.
    #[error("the gateway's CA in the state directory is not a certificate in PEM: {0}")]
    Ca(String),
    /// rustls refused the key or the CA.
    #[error("TLS to the gateway: {0}")]
    Tls(#[from] rustls::Error),
    /// reqwest refused the configuration.
    #[error("HTTPS client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Believes a chain that leads to a CA with one known key, and keeps that CA.
#[derive(Debug)]
pub struct PinVerifier {
    pin: Digest,
    provider: Arc<CryptoProvider>,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Clone, Default)]
enum Outcome {
    /// No handshake got so far.
    #[default]
    None,
    /// This CA vouched for the last server.
    Good(CertificateDer<'static>),
    /// The last server was not the gateway, and why.
    Bad(String),
}

impl PinVerifier {
    fn new(pin: Digest) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { pin, provider, outcome: Mutex::default() }
    }

    /// The CA that vouched for the server, PEM.
    #[must_use]
    pub fn ca(&self) -> Option<String> {
        match &*locked(&self.outcome) {
            Outcome::Good(ca) => Some(pem(ca)),
            _ => None,
        }
    }

    /// Why the server that answered last is not the gateway, if it is not.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        match &*locked(&self.outcome) {
            Outcome::Bad(why) => Some(why.clone()),
            _ => None,
        }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, String> {
        let ca = intermediates
            .iter()
            .find(|ca| spki_hash(ca) == Some(self.pin))
            .ok_or_else(|| format!("its chain has no CA with the pinned key {}", self.pin))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(|error| error.to_string())?;
        // A certificate that merely carries the CA's key proves nothing: the CA must have signed the server's.
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| error.to_string())?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| error.to_string())?;
        Ok(ca.clone().into_owned())
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let checked = self.check(end_entity, intermediates, server_name, ocsp_response, now);
        let mut outcome = locked(&self.outcome);
        match checked {
            Ok(ca) => {
                *outcome = Outcome::Good(ca);
                Ok(ServerCertVerified::assertion())
            }
            Err(why) => {
                *outcome = Outcome::Bad(why.clone());
                Err(rustls::Error::General(why))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A client for the first contact, and its verifier, which knows the CA afterwards.
///
/// # Errors
/// [`PinError`].
pub fn first_contact(
    identity: &Identity,
    pin: Digest,
) -> Result<(reqwest::Client, Arc<PinVerifier>), PinError> {
    install_crypto();
    let verifier = Arc::new(PinVerifier::new(pin));
    let (chain, key) = identity.tls();
    let config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(chain, key)?;
    Ok((client(config)?, verifier))
}

/// A client that believes certificates of `ca` (PEM) and of nobody else, and shows our certificate.
///
/// # Errors
/// [`PinError`].
pub fn pinned(identity: &Identity, ca: &str) -> Result<reqwest::Client, PinError> {
    install_crypto();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let (chain, key) = identity.tls();
    let config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    client(config)
}

/// The certificates of a PEM text; at least one.
///
/// # Errors
/// [`PinError::Ca`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PinError> {
    tls::certificates(pem).map_err(PinError::Ca)
}

/// SHA-256 of a certificate's SPKI.
fn spki_hash(certificate: &CertificateDer<'_>) -> Option<Digest> {
    Some(Digest::of(&tls::spki(certificate).ok()?))
}

fn client(config: ClientConfig) -> Result<reqwest::Client, PinError> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .https_only(true)
        .connect_timeout(Duration::from_secs(5))
        // No read_timeout: reqwest counts it while an upload is still being sent. Callers bound their own waits.
        // A partition that is over must not be waited for on a dead connection.
        .tcp_keepalive(Duration::from_secs(15))
        .build()?)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}
