//! Garbage collection: mark what names and jobs lead to, sweep the rest once it is old enough.
//!
//! The caller says which jobs exist and what they want kept; it must have asked the API server, since a job missing from
//! a stale list would lose its checkpoints. Blobs younger than the grace are spared whatever leads to them: an upload
//! comes before its name. So are those that a user or a unit of a job put within the last day.
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use muster_proof::Digest;

use super::backend::Entry;
use super::puts::{Kind, Unit, parse_put, unit_folder, user_folder};
use super::{Asset, Store};

/// What somebody put and nothing names yet stays for so long: uploads of many hours are named at their end.
const KEEP_PUTS: Duration = Duration::from_secs(86_400);

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
    /// Steps that stay whatever the policy says: start checkpoints of units that may still read them, and of audits.
    pub pinned_steps: BTreeSet<u64>,
    /// From this step on everything stays, of an audited job: nobody has looked yet what audits will need of it.
    pub pinned_from: Option<u64>,
    /// The resolved spec: it stays, and the data that it evaluates on, and the weights that it begins with.
    pub blobs: Vec<Digest>,
    /// Dataset manifests: they and their files stay, also when the catalogue forgot the name.
    pub datasets: Vec<Digest>,
}

impl JobRoots {
    fn pins(&self, step: u64) -> bool {
        self.pinned_steps.contains(&step) || self.pinned_from.is_some_and(|from| step >= from)
    }

    /// Whether the blobs of a checkpoint that a verdict has undone stay: only audits may still want them.
    fn pins_undone(&self, step: u64) -> bool {
        self.pinned_steps.contains(&step) || self.pinned_from == Some(0)
    }
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
    /// Removes what nothing leads to. `jobs` by uid are all jobs that exist; of `candidates`, the directories that were there
    /// before the jobs were listed, those go that are no job's. A job that was made since is in neither.
    ///
    /// # Errors
    /// Any error of the backend. Marking is complete before the first blob goes; a manifest that cannot be read stops
    /// the collection rather than losing what it names.
    pub async fn collect(
        &self,
        jobs: &BTreeMap<String, JobRoots>,
        candidates: &[String],
        now: SystemTime,
        grace: Duration,
    ) -> io::Result<Collected> {
        let mut done = Collected::default();
        let mut live = BTreeSet::new();
        self.mark_catalogue(now, &mut live).await?;
        self.mark_offers(&mut live).await?;
        self.mark_keys(&mut live).await?;
        for (uid, roots) in jobs {
            done.checkpoints += self.mark_job(uid, roots, &mut live).await?;
            self.mark_units(uid, now, &mut live).await?;
        }
        for uid in candidates.iter().filter(|uid| !jobs.contains_key(*uid)) {
            // A directory that is no job's is not ours to judge.
            match self.forget_job(uid).await {
                Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
                other => other?,
            }
            done.checkpoints += 1;
        }
        for uid in jobs.keys() {
            self.forget_named(uid, &live).await?;
        }
        self.sweep(&live, now, grace, &mut done).await?;
        self.backend.tidy(now).await?;
        Ok(done)
    }

    async fn mark_catalogue(&self, now: SystemTime, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for namespace in self.namespaces().await? {
            for asset in [Asset::Dataset, Asset::Model] {
                for name in self.names(asset, &namespace).await? {
                    if let Some(manifest) = self.named(asset, &namespace, &name).await? {
                        self.mark(asset, &manifest, live).await?;
                    }
                }
            }
            self.mark_puts(&user_folder(&namespace), now, live).await?;
        }
        Ok(())
    }

    /// What a job's units put and have not committed.
    async fn mark_units(&self, uid: &str, now: SystemTime, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for name in self.units(uid).await? {
            self.mark_puts(&unit_folder(Unit { job_uid: uid, name: &name }, Kind::Open)?, now, live).await?;
        }
        Ok(())
    }

    /// Young puts hold their blobs, old ones are forgotten.
    async fn mark_puts(&self, folder: &str, now: SystemTime, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for Entry { name, modified } in self.backend.list(folder).await? {
            match parse_put(&name) {
                Some((digest, _)) if is_fresh(modified, now, KEEP_PUTS) => {
                    live.insert(digest);
                }
                _ => self.backend.remove(&format!("{folder}/{name}")).await?,
            }
        }
        Ok(())
    }

    /// Forgets that units put what goes now.
    async fn forget_named(&self, uid: &str, live: &BTreeSet<Digest>) -> io::Result<()> {
        for name in self.units(uid).await? {
            let folder = unit_folder(Unit { job_uid: uid, name: &name }, Kind::Named)?;
            for Entry { name, .. } in self.backend.list(&folder).await? {
                if parse_put(&name).is_none_or(|(digest, _)| !live.contains(&digest)) {
                    self.backend.remove(&format!("{folder}/{name}")).await?;
                }
            }
        }
        Ok(())
    }

    async fn units(&self, uid: &str) -> io::Result<Vec<String>> {
        let names = self.backend.folders(&format!("jobs/{uid}/units")).await?;
        Ok(names.into_iter().filter(|name| super::is_dns_label(name)).collect())
    }

    async fn mark_job(&self, uid: &str, roots: &JobRoots, live: &mut BTreeSet<Digest>) -> io::Result<usize> {
        live.extend(&roots.blobs);
        for manifest in &roots.datasets {
            self.mark(Asset::Dataset, manifest, live).await?;
        }
        for spec in &roots.blobs {
            for (asset, manifest) in self.inputs(spec).await? {
                self.mark(asset, &manifest, live).await?;
            }
        }
        let mut checkpoints = self.checkpoints(uid).await?;
        let steps: BTreeSet<u64> = checkpoints.keys().copied().collect();
        let mut forgotten = 0;
        for step in roots.retention.superfluous(&steps) {
            if !roots.pins(step) {
                self.forget_checkpoint(uid, step).await?;
                checkpoints.remove(&step);
                forgotten += 1;
            }
        }
        let mut manifests: Vec<Digest> = checkpoints.into_values().collect();
        for undone in self.undone_checkpoints(uid).await? {
            match roots.pins_undone(undone.0) {
                true => manifests.push(undone.1),
                false => self.let_undone_go(uid, undone).await?,
            }
        }
        for manifest in &manifests {
            live.insert(*manifest);
            // Also of a checkpoint that lost a file: what is left may be all that a restore needs.
            if let Some(parsed) = self.checkpoint_manifest(manifest).await? {
                live.extend(parsed.files().iter().map(|file| file.sha256));
            }
        }
        Ok(forgotten)
    }

    async fn mark(&self, asset: Asset, manifest: &Digest, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        live.insert(*manifest);
        let files = self.files_of(asset, manifest).await?;
        live.extend(files.into_iter().flatten().map(|(file, _)| file));
        Ok(())
    }

    async fn sweep(
        &self,
        live: &BTreeSet<Digest>,
        now: SystemTime,
        grace: Duration,
        done: &mut Collected,
    ) -> io::Result<()> {
        for two_hex in (0..=255_u8).map(|byte| format!("{byte:02x}")) {
            for found in self.backend.blobs_under(&two_hex).await? {
                if live.contains(&found.digest) || is_fresh(found.wanted, now, grace) {
                    continue;
                }
                // Asked again, now: somebody may have been told meanwhile that it is there.
                let Some(wanted) = self.backend.wanted(&found.digest).await? else { continue };
                if !is_fresh(wanted, now, grace) {
                    self.backend.remove_blob(&found.digest).await?;
                    done.blobs += 1;
                    done.bytes += found.size;
                }
            }
        }
        Ok(())
    }
}

/// A time in the future (the clock was set back) counts as fresh.
fn is_fresh(time: SystemTime, now: SystemTime, grace: Duration) -> bool {
    time.checked_add(grace).is_none_or(|until| until > now)
}
