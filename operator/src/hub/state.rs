//! The hub's own state, outside the API server: the key that signs WorkUnits, the CA of the blob service, the incarnation.
//! Losing it means new join files for everyone; it never leaves this directory.
use std::path::Path;

use muster_proof::key::SigningKey;

use crate::runtime::files::{Access, create_private_dir, read_capped, write_atomic};
use crate::runtime::tls::{Authority, TlsError};

/// Subject of the blob service's CA.
const CA_NAME: &str = "muster hub blob service";

/// Why the state cannot be used. The hub does not start then: a new key would orphan every agent.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory.
    #[error("state: {0}")]
    Io(#[from] std::io::Error),
    /// The key.
    #[error("state: {0}; restore signing.key from a backup, or remove it and hand out new join files")]
    Key(#[from] muster_proof::key::Error),
    /// No randomness.
    #[error("state: cannot draw a key: {0}")]
    Random(String),
    /// Not a number.
    #[error("state: incarnation is {0:?}, not a number from 1; restore it from a backup")]
    Incarnation(String),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Who this hub is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Signs WorkUnits.
    pub key: SigningKey,
    /// Grows when the hub's database is restored from a backup.
    pub incarnation: i64,
}

/// Opens the state directory (mode 0700); makes key, CA and incarnation on the first start.
///
/// # Errors
/// [`StateError`].
pub fn open(dir: &Path) -> Result<(Identity, Authority), StateError> {
    create_private_dir(dir)?;
    let key = signing_key(&dir.join("signing.key"))?;
    let incarnation = incarnation(&dir.join("incarnation"))?;
    let authority = Authority::open(&dir.join("blob-ca"), CA_NAME)?;
    Ok((Identity { key, incarnation }, authority))
}

fn signing_key(path: &Path) -> Result<SigningKey, StateError> {
    match read_capped(path, 4096) {
        Ok(bytes) => Ok(SigningKey::from_pem(&String::from_utf8_lossy(&bytes))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut random = [0; 32];
            getrandom::fill(&mut random).map_err(|error| StateError::Random(error.to_string()))?;
            let key = SigningKey::generate(random)?;
            write_atomic(path, key.to_pem()?.as_bytes(), Access::Private)?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

fn incarnation(path: &Path) -> Result<i64, StateError> {
    match read_capped(path, 64) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            let number = text.parse().ok().filter(|&n: &i64| n >= 1);
            number.ok_or(StateError::Incarnation(text))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_atomic(path, b"1\n", Access::Private)?;
            Ok(1)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (first, authority) = open(&state).unwrap();
        let (second, again) = open(&state).unwrap();
        assert_eq!(first.key.key_id(), second.key.key_id());
        assert_eq!((second.incarnation, authority.pem()), (1, again.pem()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("signing.key"))), (0o700, 0o600));
    }

    #[test]
    fn damage_is_not_replaced_silently() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        std::fs::write(dir.path().join("signing.key"), b"-----BEGIN").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("signing.key"));
        std::fs::remove_file(dir.path().join("signing.key")).unwrap();
        std::fs::write(dir.path().join("incarnation"), b"zero").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("zero"));
    }
}
