//! TLS for the services of Muster (blob service, relay, gateway): TLS 1.3 only, clients pin one CA.
//!
//! The CA's key and certificate live in a state directory (0600), so that what was pinned stays true after a restart. The
//! server's certificate is made anew at each start: a changed address needs no care, and nothing expires unseen.
use crate::runtime::client::install_crypto;
use crate::runtime::files::{Access, create_private_dir, read_capped, write_atomic};
use axum_server::tls_rustls::RustlsConfig;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The state directory cannot be read or written.
    #[error("TLS state: {0}")]
    Io(#[from] std::io::Error),
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A PEM file holds something else.
    #[error(
        "{path}: not the PEM expected here ({reason}); remove it to have a new CA made, and hand out new join tokens"
    )]
    Pem {
        /// The file, or what the text was.
        path: String,
        /// What the parser said.
        reason: String,
    },
    /// rustls refused key, certificate or CA.
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// reqwest refused the client configuration.
    #[error("HTTPS client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A private CA of one process, kept in a directory as `ca.crt` and `ca.key`.
pub struct Authority {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority { .. }") // never the key
    }
}

impl Authority {
    /// Loads the CA of `dir`, or makes it on first use. `name` becomes its subject and must not change later.
    ///
    /// # Errors
    /// When the directory cannot be used or holds something that is not a CA.
    pub fn open(dir: &Path, name: &str) -> Result<Self, TlsError> {
        create_private_dir(dir)?;
        let (key_path, cert_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        let params = ca_params(name);
        // The certificate is written last: its presence says that the key is whole.
        if cert_path.exists() {
            let pem = read_pem(&cert_path)?;
            let key = KeyPair::from_pem(&read_pem(&key_path)?).map_err(|e| bad_pem(&key_path, e))?;
            let certificate = certificates(&pem).map_err(|error| bad_pem(&cert_path, error))?.swap_remove(0);
            return Ok(Self { pem, certificate, issuer: Issuer::new(params, key) });
        }
        let key = KeyPair::generate()?;
        let made = params.self_signed(&key)?;
        let (pem, certificate) = (made.pem(), made.der().clone());
        write_atomic(&key_path, key.serialize_pem().as_bytes(), Access::Private)?;
        write_atomic(&cert_path, pem.as_bytes(), Access::Private)?;
        Ok(Self { pem, certificate, issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate, for clients to pin.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo (DER): what a join token pins.
    ///
    /// # Errors
    /// When the certificate is not X.509.
    pub fn spki(&self) -> Result<Digest, TlsError> {
        Ok(Digest::of(&spki(&self.certificate)?))
    }

    /// The CA's key, to sign what its clients shall believe without looking at the connection. Only for messages that can be
    /// mistaken for nothing else, as those of DSSE.
    ///
    /// # Errors
    /// When the key is not of P-256.
    pub fn signer(&self) -> Result<SigningKey, TlsError> {
        SigningKey::from_pem(&self.issuer.key().serialize_pem())
            .map_err(|error| TlsError::Pem { path: "ca.key".into(), reason: error.to_string() })
    }

    /// A server configuration for the given host names and IP addresses, with a fresh certificate.
    ///
    /// # Errors
    /// When a name is not a DNS name or IP address.
    pub fn server(&self, names: &[String]) -> Result<RustlsConfig, TlsError> {
        let (chain, key) = self.issue(names)?;
        server_config(chain, key)
    }

    /// A fresh certificate for these names, followed by the CA's own (a client that pins the CA's key only has to see it),
    /// and its key.
    ///
    /// # Errors
    /// When a name is not a DNS name or IP address.
    pub fn issue(
        &self,
        names: &[String],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = subject("muster");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        keep_valid(&mut params);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| TlsError::Pem { path: "server key".into(), reason: e.into() })?;
        Ok((vec![certificate.der().clone(), self.certificate.clone()], key))
    }
}

/// The SubjectPublicKeyInfo (DER) of a certificate, with its tag and length: what fingerprints are made of.
///
/// # Errors
/// When the bytes are not an X.509 v3 certificate.
pub fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
    Ok(ParsedCertificate::try_from(certificate)?.subject_public_key_info().as_ref().to_vec())
}

/// A client that believes certificates of `ca` (PEM) and of nobody else, follows no redirect and asks no proxy. How long it
/// waits for an answer is the caller's to bound: reqwest's read timeout also runs while a body is sent, and would end every
/// upload that takes longer.
///
/// # Errors
/// When `ca` is not a PEM certificate.
pub fn pinned_client(ca: &str) -> Result<reqwest::Client, TlsError> {
    pinned_to(pinned_config(ca)?)
}

/// As [`pinned_client`], for somebody who shows the key that he signs with.
///
/// # Errors
/// When `ca` is not a PEM certificate, or the key not one that TLS takes.
pub fn introduced_client(ca: &str, who: &Introduction) -> Result<reqwest::Client, TlsError> {
    let config = pinned(ca)?.with_client_auth_cert(vec![who.certificate.clone()], who.key.clone_key())?;
    pinned_to(config)
}

/// A key and the certificate around it, which says nothing but the key.
pub struct Introduction {
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
    /// The same, PEM.
    pub certificate_pem: String,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Introduction { .. }") // never the key
    }
}

impl Introduction {
    /// A self-signed certificate of a P-256 key (PKCS #8 PEM). Nobody looks at its dates: who is accepted, and until when, is
    /// said by key elsewhere.
    ///
    /// # Errors
    /// When the text is no such key.
    pub fn new(key_pem: &str, name: &str) -> Result<Self, TlsError> {
        let pair = KeyPair::from_pem(key_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        keep_valid(&mut params);
        let made = params.self_signed(&pair)?;
        let key = PrivateKeyDer::try_from(pair.serialize_der())
            .map_err(|e| TlsError::Pem { path: "client key".into(), reason: e.into() })?;
        let spki = pair.subject_public_key_info();
        Ok(Self { certificate: made.der().clone(), certificate_pem: made.pem(), key, spki })
    }
}

fn pinned_to(config: rustls::ClientConfig) -> Result<reqwest::Client, TlsError> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .https_only(true)
        .connect_timeout(Duration::from_secs(5))
        .build()?)
}

fn pinned_config(ca: &str) -> Result<rustls::ClientConfig, TlsError> {
    Ok(pinned(ca)?.with_no_client_auth())
}

fn pinned(
    ca: &str,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    install_crypto();
    let mut roots = rustls::RootCertStore::empty();
    let bad = |error| bad_pem(Path::new("pinned CA"), error);
    for certificate in certificates(ca).map_err(bad)? {
        roots.add(certificate)?;
    }
    Ok(rustls::ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<RustlsConfig, TlsError> {
    install_crypto();
    let mut config = rustls::ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    keep_valid(&mut params);
    params
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Far apart on purpose: both ends pin this very CA, so an expiry adds no safety, only an outage on a forgotten day.
fn keep_valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2075, 1, 1);
}

/// The certificates of a PEM text; at least one.
///
/// # Errors
/// What it is instead.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if list.is_empty() => Err("no certificate in it".to_owned()),
        Ok(list) => Ok(list),
        Err(error) => Err(error.to_string()),
    }
}

fn read_pem(path: &Path) -> Result<String, TlsError> {
    String::from_utf8(read_capped(path, 1 << 20)?).map_err(|e| bad_pem(path, e))
}

fn bad_pem(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Pem { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::get};

    async fn serve(authority: &Authority, names: &[String]) -> String {
        let config = authority.server(names).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", get(|| async { "hello" }));
        tokio::spawn(axum_server::from_tcp_rustls(listener, config).unwrap().serve(app.into_make_service()));
        format!("https://{address}/")
    }

    #[tokio::test]
    async fn pinned_client_talks_to_its_own_server_only() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(&dir.path().join("a"), "muster hub").unwrap();
        let other = Authority::open(&dir.path().join("b"), "muster hub").unwrap();
        let url = serve(&authority, &["127.0.0.1".into()]).await;
        let text = pinned_client(authority.pem()).unwrap().get(&url).send().await.unwrap().text().await;
        assert_eq!(text.unwrap(), "hello");
        assert!(pinned_client(other.pem()).unwrap().get(&url).send().await.is_err(), "another CA");
        let wrong_name = serve(&authority, &["10.1.2.3".into()]).await;
        assert!(pinned_client(authority.pem()).unwrap().get(&wrong_name).send().await.is_err());
    }

    #[tokio::test]
    async fn what_was_pinned_stays_true_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let pinned = Authority::open(dir.path(), "muster relay").unwrap().pem().to_string();
        let again = Authority::open(dir.path(), "muster relay").unwrap();
        assert_eq!(again.pem(), pinned);
        let url = serve(&again, &["127.0.0.1".into()]).await;
        pinned_client(&pinned).unwrap().get(&url).send().await.unwrap();
    }

    #[test]
    fn the_pin_is_that_of_the_cas_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "x").unwrap();
        let key = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
        let key = muster_proof::key::SigningKey::from_pem(&key).unwrap();
        assert_eq!(authority.spki().unwrap(), key.key_id());
        assert_eq!(authority.signer().unwrap().key_id(), key.key_id());
        let (chain, _) = authority.issue(&["127.0.0.1".into()]).unwrap();
        assert_eq!(chain.len(), 2);
        assert_eq!(Digest::of(&spki(&chain[1]).unwrap()), key.key_id(), "clients find the pinned key");
        assert_eq!(Authority::open(dir.path(), "x").unwrap().spki().unwrap(), key.key_id());
    }

    #[test]
    fn damaged_state_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), "x").unwrap();
        std::fs::write(dir.path().join("ca.key"), "garbage").unwrap();
        let text = Authority::open(dir.path(), "x").unwrap_err().to_string();
        assert!(text.contains("ca.key"), "{text}");
        assert!(pinned_config("garbage").is_err());
    }
}
