//! What the hub's auditor came to, one file an assignment: durable before its seal is logged, since a seal that cannot be
//! opened any more is a lie to everybody else.
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::Nonce;
use muster_proof::records::{AuditOpening, AuditSeal, audit_seal};
use serde::{Deserialize, Serialize};

use crate::runtime::files::{Access, create_private_dir, read_if_there, write_atomic};

const MAX_FILE: u64 = 4096;

/// An answer that may be sealed, and opened when it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    /// Record id of the assignment.
    pub assignment: Digest,
    /// StateRoot at the interval's end.
    pub state_root: Digest,
    /// Root of the tree over its step records.
    pub record_root: Digest,
    /// What the seal is made with.
    pub nonce: Nonce,
}

impl Answer {
    /// The seal, made by the key that will sign it.
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> AuditSeal {
        let Self { assignment, state_root, record_root, nonce } = self;
        let seal = audit_seal(assignment, &key.key_id(), state_root, record_root, nonce);
        AuditSeal { audit: *assignment, seal }
    }

    /// What opens it.
    #[must_use]
    pub fn opening(&self) -> AuditOpening {
        let Self { assignment, state_root, record_root, nonce } = *self;
        AuditOpening { audit: assignment, state_root, record_root, nonce }
    }
}

/// The folder of all answers.
#[derive(Debug, Clone)]
pub struct Answers(PathBuf);

impl Answers {
    /// Opens the folder; makes it on first use, mode 0700.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        create_private_dir(&dir)?;
        Ok(Self(dir))
    }

    /// What was answered to this assignment.
    ///
    /// # Errors
    /// Any of the file system but absence; `InvalidData` for a file that is no answer to it.
    pub fn get(&self, assignment: &Digest) -> io::Result<Option<Answer>> {
        let path = self.path(assignment);
        let Some(bytes) = read_if_there(&path, MAX_FILE)? else { return Ok(None) };
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        answer.filter(|answer| answer.assignment == *assignment).map(Some).ok_or_else(|| damaged(&path))
    }

    /// Keeps an answer; durable when this returns. The first one stays: its seal may be in the log.
    ///
    /// # Errors
    /// As [`Answers::get`].
    pub fn keep(&self, answer: Answer) -> io::Result<Answer> {
        if let Some(there) = self.get(&answer.assignment)? {
            return Ok(there);
        }
        let bytes = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        write_atomic(&self.path(&answer.assignment), &bytes, Access::Private)?;
        Ok(answer)
    }

    fn path(&self, assignment: &Digest) -> PathBuf {
        self.0.join(format!("{}.json", assignment.to_hex()))
    }
}

fn damaged(path: &Path) -> io::Error {
    let text = format!(
        "{}: is no answer to this assignment; restore it from a backup, or remove it",
        path.display()
    );
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn answer(state: &[u8]) -> Answer {
        Answer {
            assignment: Digest::of(b"assignment"),
            state_root: Digest::of(state),
            record_root: Digest::of(b"records"),
            nonce: Nonce::new([7; 32]),
        }
    }

    #[test]
    fn the_first_answer_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(dir.path().join("audits")).unwrap();
        assert_eq!(answers.get(&Digest::of(b"assignment")).unwrap(), None);
        assert_eq!(answers.keep(answer(b"one")).unwrap(), answer(b"one"));
        assert_eq!(answers.keep(answer(b"two")).unwrap(), answer(b"one"), "its seal may be logged");
        let path = answers.path(&Digest::of(b"assignment"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"{}").unwrap();
        assert!(answers.get(&Digest::of(b"assignment")).unwrap_err().to_string().contains("backup"));
        std::fs::rename(&path, answers.path(&Digest::of(b"other"))).unwrap();
        assert!(answers.get(&Digest::of(b"other")).is_err(), "an answer to another assignment");
    }

    #[test]
    fn a_seal_opens_to_its_answer_and_to_nothing_else() {
        let key = SigningKey::generate([3; 32]).unwrap();
        let (seal, opening) = (answer(b"one").seal(&key), answer(b"one").opening());
        let opens = |opening: &AuditOpening, key: &Digest| {
            audit_seal(&opening.audit, key, &opening.state_root, &opening.record_root, &opening.nonce)
        };
        assert_eq!(opens(&opening, &key.key_id()), seal.seal);
        assert_ne!(opens(&answer(b"two").opening(), &key.key_id()), seal.seal);
        assert_ne!(opens(&opening, &Digest::of(b"another key")), seal.seal, "a copied seal opens to nothing");
    }
}
