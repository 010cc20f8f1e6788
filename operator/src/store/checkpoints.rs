//! Durable checkpoints of jobs: `jobs/<job uid>/checkpoints/<step>`. A name is written only after every file of the
//! checkpoint is in the store, so whatever a name leads to can be resumed from.
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use muster_trainer::checkpoint::{MAX_MANIFEST, Manifest};

use super::ledger::model_key;
use super::namespace::is_uid;
use super::{Store, digest_line};

/// Names read at once.
const AT_ONCE: usize = 16;

/// What the store has of a checkpoint.
#[derive(Debug)]
pub enum Whole {
    /// All of it; this is its manifest.
    Yes(Manifest),
    /// Not (yet) all of it: the first blob that is missing or has another size.
    Missing(Digest),
    /// The manifest is not one: no waiting helps.
    Invalid(String),
}

/// What became of a checkpoint's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// From now on it is the job's.
    New,
    /// It was the job's before.
    Same,
    /// The step has another checkpoint, and keeps it: there must never be two states of one step.
    Taken(Digest),
}

impl Store {
    /// The manifest of a checkpoint, `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no checkpoint manifest, any other error of the backend.
    pub async fn checkpoint_manifest(&self, digest: &Digest) -> io::Result<Option<Manifest>> {
        let Some(bytes) = self.read(digest, MAX_MANIFEST).await? else { return Ok(None) };
        let manifest = Manifest::parse(&bytes).map_err(|error| {
            io::Error::new(ErrorKind::InvalidData, format!("checkpoint {digest}: {error}"))
        })?;
        Ok(Some(manifest))
    }

    /// Whether the store has the manifest and every file it names.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn whole_checkpoint(&self, manifest: &Digest) -> io::Result<Whole> {
        let parsed = match self.checkpoint_manifest(manifest).await {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(Whole::Missing(*manifest)),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Ok(Whole::Invalid(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        for file in parsed.files() {
            // Every blob was hashed when it came in; its size shows that nobody truncated it since.
            if self.size(&file.sha256).await? != Some(file.size) {
                return Ok(Whole::Missing(file.sha256));
            }
        }
        Ok(Whole::Yes(parsed))
    }

    /// Remembers a whole checkpoint of a job. Garbage collection keeps what is remembered here as the job's policy says. Of
    /// two that come for one step at once, one is told that the step is taken.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn record_checkpoint(
        &self,
        job_uid: &str,
        step: u64,
        manifest: &Digest,
    ) -> io::Result<Recorded> {
        let key = checkpoint_key(job_uid, step)?;
        if self.backend.swap(&key, None, &digest_line(manifest)).await? {
            return Ok(Recorded::New);
        }
        match self.read_digest(&key).await? {
            Some(there) if there == *manifest => Ok(Recorded::Same),
            Some(there) => Ok(Recorded::Taken(there)),
            None => Err(io::Error::other(format!("{key} in the store is being removed; try again"))),
        }
    }

    /// Puts a checkpoint in the place of one that a verdict has undone. False if that one is not there any more.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend.
    pub async fn replace_checkpoint(
        &self,
        job_uid: &str,
        step: u64,
        undone: &Digest,
        manifest: &Digest,
    ) -> io::Result<bool> {
        let key = checkpoint_key(job_uid, step)?;
        self.backend.swap(&key, Some(&digest_line(undone)), &digest_line(manifest)).await
    }

    /// The manifest of a job's checkpoint after `step`.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn checkpoint(&self, job_uid: &str, step: u64) -> io::Result<Option<Digest>> {
        self.read_digest(&checkpoint_key(job_uid, step)?).await
    }

    /// All checkpoints of a job by step.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn checkpoints(&self, job_uid: &str) -> io::Result<BTreeMap<u64, Digest>> {
        let entries = self.backend.list(&format!("{}/checkpoints", job_folder(job_uid)?)).await?;
        // Only the one spelling of a number that is written here.
        let step = |name: &str| name.parse::<u64>().ok().filter(|step| step.to_string() == name);
        let steps: Vec<u64> = entries.iter().filter_map(|entry| step(&entry.name)).collect();
        let found = futures::stream::iter(steps).map(|step| async move {
            let digest = self.checkpoint(job_uid, step).await?;
            Ok::<_, io::Error>(digest.map(|digest| (step, digest)))
        });
        let found = found.buffer_unordered(AT_ONCE).try_filter_map(|found| async move { Ok(found) });
        found.try_collect().await
    }

    /// Forgets one checkpoint of a job and what was signed of its files; its blobs go with the next garbage collection.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn forget_checkpoint(&self, job_uid: &str, step: u64) -> io::Result<()> {
        self.backend.remove(&checkpoint_key(job_uid, step)?).await?;
        self.backend.remove(&model_key(job_uid, step)?).await
    }

    /// Forgets all of a job: checkpoints, epochs, what its units put.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn forget_job(&self, job_uid: &str) -> io::Result<()> {
        self.backend.remove_tree(&job_folder(job_uid)?).await
    }

    /// Uids of all jobs that have a folder here.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn jobs(&self) -> io::Result<Vec<String>> {
        self.backend.folders("jobs").await
    }
}

pub(super) fn checkpoint_key(job_uid: &str, step: u64) -> io::Result<String> {
    Ok(format!("{}/checkpoints/{step}", job_folder(job_uid)?))
}

/// The folder of a job; a uid that is none must not become a key.
pub(super) fn job_folder(job_uid: &str) -> io::Result<String> {
    if !is_uid(job_uid) {
        let text = format!("{job_uid:?} is not the uid of an object");
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(format!("jobs/{job_uid}"))
}
