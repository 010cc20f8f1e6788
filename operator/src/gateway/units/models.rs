//! What the signer of a commit says of the checkpoint's files, the statement of `model.sig` (docs/spec/checkpoint.md): checked
//! before the commit is logged, left in the store beside it after. It is no record, so the log does not have it.
use axum::http::StatusCode;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use muster_proof::records::{self, Payload as _};
use muster_trainer::checkpoint::{Manifest, check_signed};

use super::Units;
use super::work::Work;
use crate::gateway::access::Refusal;
use crate::gateway::blobs::store_refusal;
use crate::store::Entry;

/// A statement beside a commit that the same key has signed. Whether that key is the bound one, the log says of the commit.
pub struct Said {
    model: Envelope,
    key: PublicKey,
}

impl Said {
    /// Of this commit, which must be signed by the key and no other.
    pub fn by(commit: &Envelope, model: Envelope, key: PublicKey) -> Result<Self, Refusal> {
        match commit.verify_each(records::Commit::PAYLOAD_TYPE, &[&key]) {
            Ok(_) => Ok(Self { model, key }),
            Err(error) => {
                Err(bad("BadCommit", format!("commit: {error}; `key` must be the key that signed it")))
            }
        }
    }

    /// Whether it names exactly the files of this manifest.
    pub fn check(&self, manifest: &Manifest, digest: &Digest) -> Result<(), Refusal> {
        check_signed(&self.model, manifest, digest, &self.key)
            .map_err(|error| bad("BadModel", error.to_string()))
    }
}

fn bad(reason: &'static str, text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, reason, text)
}

impl<W: Work> Units<W> {
    /// Leaves the statement if the log has the commit with the signature of the same key. A commit that was logged before,
    /// signed by another, keeps the statement of that one.
    pub(super) async fn leave(&self, job: &str, step: u64, entry: Entry, said: &Said) -> Result<(), Refusal> {
        let logged = self.logged(entry.record).await?;
        let signer = logged.and_then(|(_, envelope)| envelope.signatures().first().map(|first| first.keyid));
        if signer == Some(said.key.key_id()) {
            self.store.leave_model(job, step, &said.model).await.map_err(|error| store_refusal(&error))?;
        }
        Ok(())
    }

    /// The same of a commit that is the job's already: what is left then must be checked here.
    pub(super) async fn leave_again(
        &self,
        job: &str,
        step: u64,
        manifest: &Digest,
        entry: Entry,
        said: &Said,
    ) -> Result<(), Refusal> {
        let store = |error| store_refusal(&error);
        let Some(parsed) = self.store.checkpoint_manifest(manifest).await.map_err(store)? else {
            return Ok(());
        };
        said.check(&parsed, manifest)?;
        let there = match self.store.model(job, step).await {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => None,
            other => other.map_err(store)?,
        };
        if there.as_ref() == Some(&said.model) {
            return Ok(());
        }
        self.leave(job, step, entry, said).await
    }
}
