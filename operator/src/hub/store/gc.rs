//! Garbage collection: mark what names and jobs lead to, sweep the rest once it is old enough.
//!
//! The caller says which jobs exist and what they want kept; it must have asked the API server, since a job missing from
//! a stale list would lose its checkpoints. Blobs younger than the grace are spared whatever leads to them: an upload
//! comes before its name.
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use muster_proof::Digest;
use tokio::fs;

use super::{Store, names};

/// Which checkpoints of a job to keep, beside the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest.
    pub keep_last: usize,
    /// And each at a multiple of so many steps.
    pub keep_every: Option<u64>,
}

impl Retention {
    /// The steps that may go. The newest always stays: it is what a job resumes from, and at the end its result.
    #[must_use]
    pub fn superfluous(&self, steps: &BTreeSet<u64>) -> Vec<u64> {
        let oldest_first: Vec<u64> = steps.iter().copied().collect();
        let keep = self.keep_last.max(1);
        let candidates = &oldest_first[..oldest_first.len().saturating_sub(keep)];
        let pinned = |step: u64| self.keep_every.is_some_and(|every| every > 0 && step.is_multiple_of(every));
        candidates.iter().copied().filter(|&step| !pinned(step)).collect()
    }
}

/// What a living job holds on to.
#[derive(Debug, Clone)]
pub struct JobRoots {
    /// Its checkpoints' policy.
    pub retention: Retention,
    /// Steps that stay whatever the policy says: start checkpoints of units that may still read them.
    pub pinned_steps: BTreeSet<u64>,
    /// Blobs by digest: the resolved spec.
    pub blobs: Vec<Digest>,
    /// Dataset manifests: they and their shards stay, also when the catalogue forgot the name.
    pub datasets: Vec<Digest>,
}

/// What one collection did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Checkpoints forgotten.
    pub checkpoints: usize,
    /// Blobs removed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes what nothing leads to. `jobs` by uid are all jobs that exist; anything else under `jobs/` goes.
    ///
    /// # Errors
    /// Any error of the file system. Marking is complete before the first blob goes; a manifest that cannot be read stops
    /// the collection rather than losing what it names.
    pub async fn collect(
        &self,
        jobs: &BTreeMap<String, JobRoots>,
        now: SystemTime,
        grace: Duration,
    ) -> io::Result<Collected> {
        let mut done = Collected::default();
        let mut live = BTreeSet::new();
        self.mark_catalogue(&mut live).await?;
        for (uid, roots) in jobs {
            done.checkpoints += self.mark_job(uid, roots, &mut live).await?;
        }
        for uid in self.jobs().await?.into_iter().filter(|uid| !jobs.contains_key(uid)) {
            // A directory that is no job's is not ours to judge.
            match self.forget_job(&uid).await {
                Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
                other => other?,
            }
            done.checkpoints += 1;
        }
        self.sweep(&live, now, grace, &mut done).await?;
        Ok(done)
    }

    async fn mark_catalogue(&self, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for namespace in names(&self.root.join("catalogue")).await? {
            for name in self.datasets(&namespace).await? {
                if let Some(manifest) = self.dataset(&namespace, &name).await? {
                    self.mark_dataset(&manifest, live).await?;
                }
            }
        }
        Ok(())
    }

    async fn mark_job(&self, uid: &str, roots: &JobRoots, live: &mut BTreeSet<Digest>) -> io::Result<usize> {
        live.extend(&roots.blobs);
        for manifest in &roots.datasets {
            self.mark_dataset(manifest, live).await?;
        }
        let mut checkpoints = self.checkpoints(uid).await?;
        let steps: BTreeSet<u64> = checkpoints.keys().copied().collect();
        let mut forgotten = 0;
        for step in roots.retention.superfluous(&steps) {
            if !roots.pinned_steps.contains(&step) {
                self.forget_checkpoint(uid, step).await?;
                checkpoints.remove(&step);
                forgotten += 1;
            }
        }
        for manifest in checkpoints.values() {
            live.insert(*manifest);
            // Also of a checkpoint that lost a file: what is left may be all that a restore needs.
            if let Some(parsed) = self.checkpoint_manifest(manifest).await? {
                live.extend(parsed.files().iter().map(|file| file.sha256));
            }
        }
        Ok(forgotten)
    }

    async fn mark_dataset(&self, manifest: &Digest, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        live.insert(*manifest);
        if let Some(parsed) = self.dataset_manifest(manifest).await? {
            live.extend(parsed.shards().iter().map(|shard| shard.sha256));
        }
        Ok(())
    }

    async fn sweep(
        &self,
        live: &BTreeSet<Digest>,
        now: SystemTime,
        grace: Duration,
        done: &mut Collected,
    ) -> io::Result<()> {
        let root = self.root.join("blobs").join("sha256");
        for prefix in names(&root).await? {
            for hex in names(&root.join(&prefix)).await? {
                let Ok(digest) = Digest::from_hex(&hex) else { continue };
                if live.contains(&digest) {
                    continue;
                }
                let Ok(meta) = fs::metadata(self.blobs.path(&digest)).await else { continue };
                // A time in the future (the clock was set back) counts as fresh.
                let fresh = meta.modified()?.checked_add(grace).is_none_or(|until| until > now);
                if !fresh {
                    self.blobs.remove(&digest).await?;
                    done.blobs += 1;
                    done.bytes += meta.len();
                }
            }
        }
        Ok(())
    }
}
