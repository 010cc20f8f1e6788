//! The sidecar's key: P-256, made at first start, in a directory of memory that only the sidecar mounts. A container that
//! is started again finds it, so that the key which the relay has bound to this pod stays the same.

use std::path::Path;

use muster_proof::key::SigningKey;
use muster_trainer::failure::Failure;
use muster_trainer::files;
use muster_trainer::protocol::ExitCode;

/// Name of the file, PKCS #8 in PEM, readable by its owner only.
const FILE: &str = "key.pem";
/// A PKCS #8 PEM of P-256 has some 240 bytes.
const MAX_PEM: u64 = 4096;

/// The key kept in `dir`, made if there is none.
///
/// # Errors
/// The directory cannot be used, or the file holds something else.
pub fn open(dir: &Path) -> Result<SigningKey, Failure> {
    let path = dir.join(FILE);
    match files::read_at_most(&path, MAX_PEM) {
        Ok(bytes) => {
            let pem = std::str::from_utf8(&bytes).unwrap_or_default();
            SigningKey::from_pem(pem).map_err(|error| {
                Failure::new(ExitCode::Disk, format!("{}: {error}; remove the pod", path.display()))
            })
        }
        Err(error) if error.is_missing() => {
            let key = draw()?;
            let pem = key.to_pem().map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
            files::create_dirs(dir)
                .and_then(|()| files::write_private(&path, pem.as_bytes()))
                .map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
            Ok(key)
        }
        Err(error) => Err(Failure::new(ExitCode::Disk, error.to_string())),
    }
}

fn draw() -> Result<SigningKey, Failure> {
    loop {
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::new(ExitCode::Disk, format!("no random numbers for a key: {error}")))?;
        // Once in 2^32 the bytes are no key: draw again.
        if let Ok(key) = SigningKey::generate(random) {
            return Ok(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_restart_finds_the_key_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let first = open(&keys).unwrap();
        assert_eq!(open(&keys).unwrap().key_id(), first.key_id());
        let mode = std::fs::metadata(keys.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(open(&dir.path().join("other")).unwrap().key_id(), first.key_id());
    }

    #[test]
    fn another_files_bytes_are_no_key_and_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"nonsense").unwrap();
        let failure = open(dir.path()).unwrap_err();
        assert!(failure.message.contains("key.pem"), "{failure}");
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), b"nonsense");
    }
}
