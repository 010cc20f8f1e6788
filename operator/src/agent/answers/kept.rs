//! What audits may ask for, a file each: of every interval that was committed here, and of every replay that was sealed here.
//! It outlives the unit, for an audit may come long after. A file goes when the log has what it opens, or when it is old.
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::records::fields::Nonce;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::files::{self, Access};

/// No file is longer.
const MAX_FILE: u64 = 4096;
/// So long after its interval nobody asks any more.
pub const KEEP: Duration = Duration::from_secs(30 * 86_400);

/// What opens a commit. Secret, as long as its audit may come.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfCommit {
    /// Of the interval's step records.
    pub record_root: Digest,
    /// Of the record seal.
    pub salt: Nonce,
}

/// What a replay has found. Secret until it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfAudit {
    /// At the interval's end.
    pub state_root: Digest,
    /// Of the interval's step records.
    pub record_root: Digest,
    /// Of the audit seal.
    pub nonce: Nonce,
}

/// Two kinds of files: their names begin with the kind.
pub trait Kept: Serialize + DeserializeOwned {
    /// What a file's name begins with.
    const KIND: &'static str;
}

impl Kept for OfCommit {
    const KIND: &'static str = "commit";
}

impl Kept for OfAudit {
    const KIND: &'static str = "audit";
}

/// The directory of them.
#[derive(Debug, Clone)]
pub struct Openings {
    root: PathBuf,
}

impl Openings {
    /// Under `state`.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(state: &Path) -> io::Result<Self> {
        let root = state.join("openings");
        files::create_private_dir(&root)?;
        Ok(Self { root })
    }

    /// Makes it durable; `of` is the record id of the commit or of the assignment.
    ///
    /// # Errors
    /// Any error of the file system; what was there before stays.
    pub fn save<K: Kept>(&self, of: &Digest, kept: &K) -> io::Result<()> {
        files::write_atomic(&self.path::<K>(of), &serde_json::to_vec(kept)?, Access::Private)
    }

    /// What is kept of it.
    ///
    /// # Errors
    /// Any error of the file system but absence; a file that holds something else.
    pub fn load<K: Kept>(&self, of: &Digest) -> io::Result<Option<K>> {
        files::load_json(&self.path::<K>(of), MAX_FILE)
    }

    /// Forgets it: the log has it.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub fn forget<K: Kept>(&self, of: &Digest) -> io::Result<()> {
        files::if_there(std::fs::remove_file(self.path::<K>(of))).map(drop)
    }

    /// Forgets what has been here for longer than `age`; how many.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn forget_older_than(&self, age: Duration) -> io::Result<usize> {
        let mut old = 0;
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let elapsed = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if elapsed > age {
                files::if_there(std::fs::remove_file(entry.path()))?;
                old += 1;
            }
        }
        Ok(old)
    }

    fn path<K: Kept>(&self, of: &Digest) -> PathBuf {
        self.root.join(format!("{}-{}.json", K::KIND, of.to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn are_private_and_go_one_by_one_or_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let openings = Openings::open(dir.path()).unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let commit = OfCommit { record_root: Digest::of(b"records"), salt: Nonce::new([1; 32]) };
        let audit = OfAudit { state_root: one, record_root: two, nonce: Nonce::new([2; 32]) };
        openings.save(&one, &commit).unwrap();
        openings.save(&two, &commit).unwrap();
        openings.save(&one, &audit).unwrap();
        let again = Openings::open(dir.path()).unwrap();
        assert!(again.load(&one).unwrap() == Some(commit) && again.load(&one).unwrap() == Some(audit));
        assert!(again.load::<OfAudit>(&two).unwrap().is_none());
        let path = dir.path().join(format!("openings/commit-{}.json", one.to_hex()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        again.forget::<OfCommit>(&one).unwrap();
        again.forget::<OfCommit>(&one).unwrap();
        assert!(again.load::<OfCommit>(&one).unwrap().is_none() && again.load(&one).unwrap() == Some(audit));
        assert_eq!(again.forget_older_than(KEEP).unwrap(), 0);
        let long_ago = std::fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        let file = dir.path().join(format!("openings/commit-{}.json", two.to_hex()));
        std::fs::File::options().write(true).open(file).unwrap().set_times(long_ago).unwrap();
        assert_eq!(again.forget_older_than(KEEP).unwrap(), 1);
        assert!(again.load::<OfCommit>(&two).unwrap().is_none());
        std::fs::write(path, "{").unwrap();
        assert!(again.load::<OfCommit>(&one).map(drop).unwrap_err().to_string().contains("restore it"));
    }
}
