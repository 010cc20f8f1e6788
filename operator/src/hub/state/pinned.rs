//! Which log is this hub's: `log.vkey`, one line, the verifier key as C2SP writes it.
use std::path::Path;

use super::StateError;
use crate::runtime::files::{Access, read_if_there, write_atomic};

const FILE: &str = "log.vkey";
const MAX_FILE: u64 = 1024;

/// Pins the log's key, or compares it with the one that is pinned.
pub(super) fn pin(dir: &Path, key: &str) -> Result<(), StateError> {
    let path = dir.join(FILE);
    match read_if_there(&path, MAX_FILE)? {
        Some(bytes) => {
            let known = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if known == key { Ok(()) } else { Err(StateError::OtherLog { known, got: key.to_owned() }) }
        }
        None => Ok(write_atomic(&path, format!("{key}\n").as_bytes(), Access::Private)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_log_is_the_hubs_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        pin(dir.path(), "hub.example/log+1+A").unwrap();
        pin(dir.path(), "hub.example/log+1+A").unwrap();
        let error = pin(dir.path(), "hub.example/log+2+B").unwrap_err().to_string();
        assert!(error.contains("log.vkey") && error.contains("backup"), "{error}");
    }
}
