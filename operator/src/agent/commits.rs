//! What a pod has committed, a file for each interval: the commit and the checkpoint's files as they were signed, and the step
//! records that the commit's seal hides; of an interval that ended in a step that is not finite the failure in their place.
//! Kept until the unit is forgotten, for an audit may ask for the records of any interval. Not in the unit's own file, which
//! is written anew with every change.
use std::io;
use std::path::{Path, PathBuf};

use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use muster_proof::steps::StepRecord;
use serde::{Deserialize, Serialize};

use crate::runtime::files::{self, Access};

/// 100,000 records of at most 117 bytes, and an envelope.
const MAX_FILE: u64 = 16 << 20;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Committed {
    /// The commit, signed.
    pub commit: Envelope,
    /// The statement of `model.sig`, signed by the same key.
    pub model: Envelope,
    /// That key.
    pub key: PublicKey,
    /// Of the interval's steps. Secret.
    pub records: Vec<StepRecord>,
}

/// How an interval without a commit ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ended {
    /// The failure, signed.
    pub failure: Envelope,
    /// Of the interval's steps that were taken. Secret.
    pub records: Vec<StepRecord>,
}

/// The directory of them.
#[derive(Debug, Clone)]
pub struct Commits {
    root: PathBuf,
}

impl Commits {
    /// Under `state`.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(state: &Path) -> io::Result<Self> {
        let root = state.join("commits");
        files::create_private_dir(&root)?;
        Ok(Self { root })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// Any error of the file system; what was there before stays.
    pub fn save(&self, unit: &str, step: i64, committed: &Committed) -> io::Result<()> {
        self.write(&self.path(unit, step), committed)
    }

    /// Makes it durable, by its failed step.
    ///
    /// # Errors
    /// Any error of the file system; what was there before stays.
    pub fn save_failure(&self, unit: &str, step: i64, ended: &Ended) -> io::Result<()> {
        self.write(&self.failed(unit, step), ended)
    }

    /// The one of this failed step.
    ///
    /// # Errors
    /// Any error of the file system but absence; a file that holds something else.
    pub fn load_failure(&self, unit: &str, step: i64) -> io::Result<Option<Ended>> {
        files::load_json(&self.failed(unit, step), MAX_FILE)
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            files::create_private_dir(dir)?;
            files::sync_dir(&self.root)?;
        }
        files::write_atomic(path, &serde_json::to_vec(value)?, Access::Private)
    }

    /// The one of this step.
    ///
    /// # Errors
    /// Any error of the file system but absence; a file that holds something else.
    pub fn load(&self, unit: &str, step: i64) -> io::Result<Option<Committed>> {
        files::load_json(&self.path(unit, step), MAX_FILE)
    }

    /// Removes what was kept of a unit.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub fn forget(&self, unit: &str) -> io::Result<()> {
        files::if_there(std::fs::remove_dir_all(self.root.join(unit))).map(drop)
    }

    fn path(&self, unit: &str, step: i64) -> PathBuf {
        self.root.join(unit).join(format!("step-{step:08}.json"))
    }

    fn failed(&self, unit: &str, step: i64) -> PathBuf {
        self.root.join(unit).join(format!("failed-{step:08}.json"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use muster_proof::key::SigningKey;
    use muster_proof::steps::Bits;

    use super::*;

    #[test]
    fn are_kept_private_and_forgotten_by_unit() {
        let dir = tempfile::tempdir().unwrap();
        let commits = Commits::open(dir.path()).unwrap();
        let number = Bits::of(1.5);
        let record =
            StepRecord { eval_loss: None, grad_norm: number, learning_rate: number, loss: number, step: 1 };
        let key = SigningKey::generate([7; 32]).unwrap();
        let [commit, model] = ["x", "y"].map(|kind| Envelope::sign(kind, b"{}", &key).unwrap());
        let ended = Ended { failure: commit.clone(), records: vec![record] };
        commits.save_failure("a-0-1", 21, &ended).unwrap();
        assert_eq!(commits.load_failure("a-0-1", 21).unwrap(), Some(ended));
        let one = Committed { commit, model, key: key.public().clone(), records: vec![record] };
        commits.save("a-0-1", 20, &one).unwrap();
        commits.save("b-0-1", 20, &one).unwrap();
        assert_eq!(commits.load("a-0-1", 20).unwrap(), Some(one));
        assert_eq!(commits.load("a-0-1", 40).unwrap(), None);
        let path = dir.path().join("commits/a-0-1/step-00000020.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert!(commits.load("a-0-1", 20).unwrap_err().to_string().contains("step-00000020.json"));
        commits.forget("a-0-1").unwrap();
        commits.forget("a-0-1").unwrap();
        assert_eq!(commits.load_failure("a-0-1", 21).unwrap(), None);
        assert_eq!(commits.load("a-0-1", 20).unwrap(), None);
        assert!(commits.load("b-0-1", 20).unwrap().is_some());
    }
}
