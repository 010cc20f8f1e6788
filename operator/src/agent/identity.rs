//! Who this agent is: one P-256 key, made on first use and never sent anywhere. Its fingerprint is what the hub's admin
//! pins (docs/spec/gateway.md sections 1 and 2); the certificate around it says nothing and is made anew at each start.
use std::fs::File;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::Digest;
use muster_proof::key::{self, SigningKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::runtime::files::{self, Access};
use crate::runtime::tls::Introduction;
use crate::wire::gateway::token_request_message;

/// A PKCS #8 PEM of P-256 has some 240 bytes.
const MAX_PEM: u64 = 4096;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory.
    #[error("identity: {0}")]
    Io(#[from] std::io::Error),
    /// The key file holds something else.
    #[error("{path}: {source}; restore it from a backup, or remove it and join again with a new token")]
    Key {
        /// The file.
        path: String,
        /// Why.
        source: key::Error,
    },
    /// It joined with a key that is not there any more.
    #[error(
        "{path} is gone, but the agent has joined with it; restore it from a backup, or remove membership.json and join again \
         with a new token"
    )]
    Lost {
        /// The file.
        path: String,
    },
    /// No certificate could be made around it.
    #[error("identity: cannot make its certificate: {0}")]
    Certificate(String),
}

/// See the module. `Debug` shows the fingerprint and nothing else.
pub struct Identity {
    signing: SigningKey,
    key_pem: String,
    shown: Introduction,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

impl Identity {
    /// The identity kept under `state`, made if there is none. Two processes that come at once get the same.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(state: &Path) -> Result<Self, IdentityError> {
        let dir = state.join("identity");
        files::create_private_dir(&dir)?;
        let path = dir.join("key.pem");
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
        if !path.exists() {
            files::write_atomic(&path, draw()?.as_bytes(), Access::Private)?;
        }
        drop(lock);
        let bytes = files::read_capped(&path, MAX_PEM)?;
        let read = |bytes: Vec<u8>| {
            let pem = String::from_utf8(bytes).map_err(|_| key::Error::PrivatePem)?;
            Ok((SigningKey::from_pem(&pem)?, pem))
        };
        let (signing, key_pem) =
            read(bytes).map_err(|source| IdentityError::Key { path: path.display().to_string(), source })?;
        Self::around(signing, key_pem).map_err(IdentityError::Certificate)
    }

    /// The identity that an earlier join was made with. A new one would be a stranger to the hub, so none is made.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn existing(state: &Path) -> Result<Self, IdentityError> {
        let path = state.join("identity").join("key.pem");
        if !path.exists() {
            return Err(IdentityError::Lost { path: path.display().to_string() });
        }
        Self::open(state)
    }

    fn around(signing: SigningKey, key_pem: String) -> Result<Self, String> {
        let shown = Introduction::new(&key_pem, "muster agent").map_err(|error| error.to_string())?;
        Ok(Self { signing, key_pem, shown })
    }

    /// SHA-256 of the key's SPKI: what the admin is told and pins.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        self.signing.key_id()
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.shown.certificate_pem
    }

    /// The key, for records of the log.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The private key, PEM: for TLS stacks in this process only.
    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Chain and key for rustls.
    pub(super) fn tls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.shown.certificate.clone()], self.shown.key.clone_key())
    }

    /// The answer to a challenge, base64 (docs/spec/gateway.md section 3).
    #[must_use]
    pub fn answer(&self, nonce: &[u8]) -> String {
        STANDARD.encode(self.signing.sign(token_request_message(nonce, &self.shown.spki).as_bytes()))
    }
}

fn draw() -> Result<String, IdentityError> {
    loop {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| std::io::Error::other(format!("no randomness: {error}")))?;
        // Once in 2^32 the bytes are no scalar.
        if let Ok(key) = SigningKey::generate(random) {
            return key.to_pem().map_err(|source| IdentityError::Key { path: "new key".to_owned(), source });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use muster_proof::key::PublicKey;

    use super::*;

    #[test]
    fn is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        let again = Identity::open(dir.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let path = dir.path().join("identity/key.pem");
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let shown = format!("{first:?}");
        assert!(shown.contains(&first.fingerprint().to_string()) && !shown.contains("PRIVATE"), "{shown}");
    }

    #[test]
    fn the_fingerprint_is_that_of_the_key_in_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path()).unwrap();
        let (chain, _) = identity.tls();
        let parsed = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
        let spki = parsed.subject_public_key_info();
        assert_eq!(Digest::of(&spki), identity.fingerprint());
        let signature = STANDARD.decode(identity.answer(&[7; 32])).unwrap();
        let message = token_request_message(&[7; 32], &spki);
        assert!(PublicKey::from_der(&spki).unwrap().verify(message.as_bytes(), &signature));
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("identity")).unwrap();
        std::fs::write(dir.path().join("identity/key.pem"), "garbage").unwrap();
        let text = Identity::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("key.pem") && text.contains("new token"), "{text}");
        std::fs::remove_file(dir.path().join("identity/key.pem")).unwrap();
        let text = Identity::existing(dir.path()).unwrap_err().to_string();
        assert!(text.contains("is gone") && text.contains("new token"), "{text}");
        assert!(!dir.path().join("identity/key.pem").exists());
    }
}
