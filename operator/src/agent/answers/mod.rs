//! What this agent has to answer for in the log (docs/spec/protocol.md section 3): openings of its commits, and seals and
//! openings of its audits, signed with its identity key. Everything is on the disk before the log hears of it, so that no crash
//! makes it seal one thing and find another, or seal what it cannot open.
//!
//! | file | what |
//! |---|---|
//! | `kept` | the store |
//! | `reveal` | what the log waits for now is shown there |
//! | `seal` | a replay's seal on its way into the log |
mod kept;
pub mod reveal;
pub mod seal;

use std::io;
use std::path::Path;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::Nonce;
use muster_proof::records::{self, AuditOpening, AuditSeal, Opening, Payload as _, audit_seal};

use super::salt::Salts;
use kept::{KEEP, OfAudit, OfCommit, Openings};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The state directory.
    #[error("state directory: {0}")]
    Io(#[from] io::Error),
    /// It cannot be signed.
    #[error("the record cannot be signed: {0}")]
    Record(#[from] records::Error),
    /// Two replays of one assignment that do not agree; the first stands, for it may be sealed.
    #[error("assignment {0} was replayed before with another result: training is not reproducible here")]
    Conflict(Digest),
    /// Nothing is kept of it.
    #[error("of {0} nothing is kept here; was the state directory restored from an old backup?")]
    Nothing(Digest),
}

/// See the module.
#[derive(Debug)]
pub struct Answers {
    identity: SigningKey,
    salts: Salts,
    openings: Openings,
}

impl Answers {
    /// Of the state directory, signed with `identity`.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(state: &Path, identity: SigningKey) -> io::Result<Self> {
        Ok(Self { identity, salts: Salts::open(state)?, openings: Openings::open(state)? })
    }

    /// Keeps what opens a commit. Blocks, until that is durable.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn keep_commit(&self, commit: &Digest, record_root: Digest, salt: Nonce) -> io::Result<()> {
        self.openings.save(commit, &OfCommit { record_root, salt })
    }

    /// Keeps what a replay has found. Blocks, until that is durable.
    ///
    /// # Errors
    /// [`AnswerError::Conflict`], [`AnswerError::Io`].
    pub fn keep_replay(
        &self,
        assignment: &Digest,
        state_root: Digest,
        record_root: Digest,
    ) -> Result<(), AnswerError> {
        #[cfg(feature = "cheats")]
        let record_root = super::cheat::records(record_root);
        let found = OfAudit { state_root, record_root, nonce: self.salts.nonce(assignment) };
        match self.openings.load::<OfAudit>(assignment)? {
            Some(before) if before == found => Ok(()),
            Some(_) => Err(AnswerError::Conflict(*assignment)),
            None => Ok(self.openings.save(assignment, &found)?),
        }
    }

    /// The seal of what a replay has found; the same whenever it is asked for.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn seal(&self, assignment: &Digest) -> Result<Envelope, AnswerError> {
        let found = self.openings.load::<OfAudit>(assignment)?;
        let OfAudit { state_root, record_root, nonce } = found.ok_or(AnswerError::Nothing(*assignment))?;
        let key = self.identity.public().key_id();
        let seal = audit_seal(assignment, &key, &state_root, &record_root, &nonce);
        Ok(AuditSeal { audit: *assignment, seal }.sign(&self.identity)?)
    }

    /// The opening of a commit.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn opening(&self, commit: &Digest) -> Result<Envelope, AnswerError> {
        let kept = self.openings.load::<OfCommit>(commit)?;
        let OfCommit { record_root, salt } = kept.ok_or(AnswerError::Nothing(*commit))?;
        Ok(Opening { commit: *commit, record_root, salt }.sign(&self.identity)?)
    }

    /// The opening of a seal.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn audit_opening(&self, assignment: &Digest) -> Result<Envelope, AnswerError> {
        let found = self.openings.load::<OfAudit>(assignment)?;
        let OfAudit { state_root, record_root, nonce } = found.ok_or(AnswerError::Nothing(*assignment))?;
        let opening = AuditOpening { audit: *assignment, state_root, record_root, nonce };
        Ok(opening.sign(&self.identity)?)
    }

    /// The log has what this commit opens with.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn forget_commit(&self, commit: &Digest) -> io::Result<()> {
        self.openings.forget::<OfCommit>(commit)
    }

    /// The log has what this replay has found.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn forget_replay(&self, assignment: &Digest) -> io::Result<()> {
        self.openings.forget::<OfAudit>(assignment)
    }

    /// Forgets what nobody asks for any more.
    pub fn sweep(&self) {
        match self.openings.forget_older_than(KEEP) {
            Ok(0) => {}
            Ok(old) => tracing::info!(old, "forgot openings that nobody has asked for"),
            Err(error) => tracing::warn!(%error, "cannot look for old openings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::generate([3; 32]).unwrap()
    }

    #[test]
    fn a_seal_is_the_same_after_a_restart_and_opens() {
        let dir = tempfile::tempdir().unwrap();
        let (assignment, state, record) = (Digest::of(b"a"), Digest::of(b"state"), Digest::of(b"records"));
        let answers = Answers::open(dir.path(), key()).unwrap();
        assert!(matches!(answers.seal(&assignment), Err(AnswerError::Nothing(_))));
        answers.keep_replay(&assignment, state, record).unwrap();
        let sealed = answers.seal(&assignment).unwrap();
        let again = Answers::open(dir.path(), key()).unwrap();
        assert_eq!(again.seal(&assignment).unwrap().record_id(), sealed.record_id());
        // Both as the log will check them.
        let seal = sealed.verify_each(AuditSeal::PAYLOAD_TYPE, &[key().public()]).unwrap();
        let seal = AuditSeal::from_payload(seal.payload()).unwrap();
        let opening = again.audit_opening(&assignment).unwrap();
        let opening = opening.verify_each(AuditOpening::PAYLOAD_TYPE, &[key().public()]).unwrap();
        let it = AuditOpening::from_payload(opening.payload()).unwrap();
        let own = audit_seal(&it.audit, &key().public().key_id(), &it.state_root, &it.record_root, &it.nonce);
        assert_eq!((own, it.audit, it.state_root, it.record_root), (seal.seal, assignment, state, record));
        again.forget_replay(&assignment).unwrap();
        assert!(matches!(again.audit_opening(&assignment), Err(AnswerError::Nothing(_))));
    }

    /// What was sealed can be opened, whatever comes out of another replay.
    #[test]
    fn the_first_answer_stands() {
        let dir = tempfile::tempdir().unwrap();
        let (assignment, state, record) = (Digest::of(b"a"), Digest::of(b"state"), Digest::of(b"records"));
        let answers = Answers::open(dir.path(), key()).unwrap();
        answers.keep_replay(&assignment, state, record).unwrap();
        answers.keep_replay(&assignment, state, record).unwrap();
        let sealed = answers.seal(&assignment).unwrap();
        let other = answers.keep_replay(&assignment, Digest::of(b"other"), record);
        assert!(matches!(other, Err(AnswerError::Conflict(_))));
        assert_eq!(answers.seal(&assignment).unwrap(), sealed);
    }

    #[test]
    fn a_commit_is_opened_with_what_was_kept_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(dir.path(), key()).unwrap();
        let (commit, root, salt) = (Digest::of(b"commit"), Digest::of(b"records"), Nonce::new([5; 32]));
        assert!(matches!(answers.opening(&commit), Err(AnswerError::Nothing(_))));
        answers.keep_commit(&commit, root, salt).unwrap();
        let opening = answers.opening(&commit).unwrap();
        let opening = opening.verify_each(Opening::PAYLOAD_TYPE, &[key().public()]).unwrap();
        let it = Opening::from_payload(opening.payload()).unwrap();
        assert_eq!(it, Opening { commit, record_root: root, salt });
        answers.forget_commit(&commit).unwrap();
        assert!(matches!(answers.opening(&commit), Err(AnswerError::Nothing(_))));
    }
}
