//! The secret of each job's draws, and the job record that fixes their end: `beacons/<job uid>`, mode 0600, one file a job.
//!
//! Both are durable before the record is logged, and are never made a second time: the log takes one record of a job, and
//! whoever knows the seed knows every draw to come. After a restore of the database the same record is found here again.
use std::io::{self, ErrorKind};
use std::path::Path;

use muster_proof::Digest;
use muster_proof::records::{Job, Payload};
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::runtime::files::{Access, create_private_dir, read_if_there, write_atomic};

const FOLDER: &str = "beacons";
/// A payload of 16 KiB as a JSON text, and a seed.
const MAX_FILE: u64 = 64 * 1024;

/// What is kept of a job.
#[derive(Clone, PartialEq, Eq)]
pub struct Beacon {
    /// `h_0` of the job's chain (`muster_proof::selection`).
    pub seed: Digest,
    /// The payload of its job record.
    pub record: Vec<u8>,
}

/// The seed is for nobody's log.
impl std::fmt::Debug for Beacon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Beacon({} bytes of record)", self.record.len())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: Digest,
    /// Canonical JSON in JSON: the bytes count.
    record: String,
}

/// What is kept of the job, if anything is.
pub(super) fn read(dir: &Path, job_uid: &str) -> Result<Option<Beacon>, StateError> {
    let path = dir.join(FOLDER).join(name(job_uid)?);
    let Some(bytes) = read_if_there(&path, MAX_FILE)? else { return Ok(None) };
    let damaged =
        |problem: String| StateError::Damaged { file: "beacons", problem: format!("{job_uid}: {problem}") };
    let File { seed, record } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let record = record.into_bytes();
    Job::from_payload(&record).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(Beacon { seed, record }))
}

/// Keeps what is made for the job, unless something is kept already; gives what is kept. Durable when this returns.
pub(super) fn keep(dir: &Path, job_uid: &str, beacon: Beacon) -> Result<Beacon, StateError> {
    if let Some(there) = read(dir, job_uid)? {
        return Ok(there);
    }
    let folder = dir.join(FOLDER);
    create_private_dir(&folder)?;
    crate::runtime::files::sync_dir(dir)?;
    let record = String::from_utf8_lossy(&beacon.record).into_owned();
    let file = serde_json::to_vec(&File { seed: beacon.seed, record });
    let file = file.map_err(|error| StateError::Io(io::Error::other(error)))?;
    write_atomic(&folder.join(name(job_uid)?), &file, Access::Private)?;
    Ok(beacon)
}

/// A uid as a file name; what is none must not become one.
fn name(job_uid: &str) -> io::Result<&str> {
    let is_one = (1..=63).contains(&job_uid.len())
        && job_uid.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_one {
        Ok(job_uid)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, format!("{job_uid:?} is no uid")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::hub::ledger::testing::job_record as job;

    const UID: &str = "4f2a9c1b-0000-4000-8000-000000000000";

    fn beacon(fill: u8) -> Beacon {
        Beacon { seed: Digest::from_bytes([fill; 32]), record: job().to_payload().unwrap() }
    }

    #[test]
    fn the_first_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), UID).unwrap(), None);
        assert_eq!(keep(dir.path(), UID, beacon(1)).unwrap(), beacon(1));
        assert_eq!(keep(dir.path(), UID, beacon(2)).unwrap(), beacon(1), "a seed is never made twice");
        assert_eq!(read(dir.path(), UID).unwrap(), Some(beacon(1)));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join(FOLDER)), 0o700);
        assert_eq!(mode(&dir.path().join(FOLDER).join(UID)), 0o600);
        assert!(!format!("{:?}", beacon(1)).contains("0101"), "the seed is not printed");
    }

    #[test]
    fn damage_is_said_and_nothing_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), UID, beacon(1)).unwrap();
        for bad in [&b"{}"[..], b"", b"{\"seed\":\"x\",\"record\":\"{}\"}"] {
            std::fs::write(dir.path().join(FOLDER).join(UID), bad).unwrap();
            let error = keep(dir.path(), UID, beacon(2)).unwrap_err().to_string();
            assert!(error.contains("beacons") && error.contains("backup"), "{error}");
        }
        for bad in ["", "../x", "A", "a/b"] {
            assert!(read(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
