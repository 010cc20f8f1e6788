//! 32 random bytes in a file of the state directory, made once and read by nobody else.
use std::fs::File;
use std::io;
use std::path::Path;

use crate::runtime::files::{self, Access};

/// The bytes in `state/<name>`, made if there are none. Two processes that come at once get the same.
///
/// # Errors
/// Any error of the file system; `InvalidData` for a file that holds something else, which is never replaced: what was done
/// with the old bytes could not be done again.
pub fn open(state: &Path, name: &str) -> io::Result<[u8; 32]> {
    let path = state.join(name);
    let lock =
        File::options().create(true).truncate(false).write(true).open(state.join(format!("{name}.lock")))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if !path.exists() {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        files::write_atomic(&path, &bytes, Access::Private)?;
    }
    drop(lock);
    let bytes = files::read_capped(&path, 32)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        let text = format!("{}: {} bytes, want 32; restore it from a backup", path.display(), bytes.len());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn is_made_once_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "salt.key").unwrap();
        assert_eq!(open(dir.path(), "salt.key").unwrap(), first);
        assert_ne!(open(dir.path(), "witness.key").unwrap(), first);
        let path = dir.path().join("salt.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, [7; 31]).unwrap();
        assert!(open(dir.path(), "salt.key").unwrap_err().to_string().contains("salt.key: 31 bytes"));
        assert_eq!(std::fs::read(&path).unwrap(), [7; 31]);
    }
}
