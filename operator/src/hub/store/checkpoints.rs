//! Durable checkpoints of jobs: `jobs/<job uid>/checkpoints/<step>`. A name is written only after every file of the
//! checkpoint is in the store, so whatever a name leads to can be resumed from.
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use muster_proof::Digest;
use muster_trainer::checkpoint::{MAX_MANIFEST, Manifest};
use tokio::fs;

use super::Store;

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

impl Store {
    /// The manifest of a checkpoint, `None` if it is not in the store.
    ///
    /// # Errors
    /// `InvalidData` if the blob is no checkpoint manifest, any other error of the file system.
    pub async fn checkpoint_manifest(&self, digest: &Digest) -> io::Result<Option<Manifest>> {
        let Some(bytes) = self.blobs.read(digest, MAX_MANIFEST).await? else { return Ok(None) };
        let manifest = Manifest::parse(&bytes).map_err(|error| {
            io::Error::new(ErrorKind::InvalidData, format!("checkpoint {digest}: {error}"))
        })?;
        Ok(Some(manifest))
    }

    /// Whether the store has the manifest and every file it names.
    ///
    /// # Errors
    /// Any error of the file system but absence.
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
            if self.blobs.size(&file.sha256).await? != Some(file.size) {
                return Ok(Whole::Missing(file.sha256));
            }
        }
        Ok(Whole::Yes(parsed))
    }

    /// Remembers a whole checkpoint of a job. Garbage collection keeps what is remembered here as the job's policy says.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the file system.
    pub async fn record_checkpoint(&self, job_uid: &str, step: u64, manifest: &Digest) -> io::Result<()> {
        self.write_name(&self.checkpoints_dir(job_uid)?.join(step.to_string()), manifest).await
    }

    /// The manifest of a job's checkpoint after `step`.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the file system but absence.
    pub async fn checkpoint(&self, job_uid: &str, step: u64) -> io::Result<Option<Digest>> {
        self.read_name(&self.checkpoints_dir(job_uid)?.join(step.to_string())).await
    }

    /// All checkpoints of a job by step.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the file system but absence.
    pub async fn checkpoints(&self, job_uid: &str) -> io::Result<BTreeMap<u64, Digest>> {
        let dir = self.checkpoints_dir(job_uid)?;
        let mut found = BTreeMap::new();
        for name in super::names(&dir).await? {
            let Ok(step) = name.parse::<u64>() else { continue };
            if let Some(digest) = self.read_name(&dir.join(name)).await? {
                found.insert(step, digest);
            }
        }
        Ok(found)
    }

    /// Forgets one checkpoint of a job; its blobs go with the next garbage collection.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the file system but absence.
    pub async fn forget_checkpoint(&self, job_uid: &str, step: u64) -> io::Result<()> {
        ignore_absence(fs::remove_file(self.checkpoints_dir(job_uid)?.join(step.to_string())).await)
    }

    /// Forgets all of a job.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the file system but absence.
    pub async fn forget_job(&self, job_uid: &str) -> io::Result<()> {
        self.checkpoints_dir(job_uid)?;
        ignore_absence(fs::remove_dir_all(self.root.join("jobs").join(job_uid)).await)
    }

    /// Uids of all jobs that have a directory here.
    ///
    /// # Errors
    /// Any error of the file system.
    pub async fn jobs(&self) -> io::Result<Vec<String>> {
        super::names(&self.root.join("jobs")).await
    }

    fn checkpoints_dir(&self, job_uid: &str) -> io::Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_hexdigit() || b == b'-';
        if job_uid.len() != 36 || !job_uid.bytes().all(plain) {
            let text = format!("{job_uid:?} is not the uid of an object");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(self.root.join("jobs").join(job_uid).join("checkpoints"))
    }
}

fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
