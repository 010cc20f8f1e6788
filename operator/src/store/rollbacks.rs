//! What verdicts have undone: commits of a job that were logged, and count no more (docs/spec/records.md, `rollback`).
//!
//! The store forgets their names, so that the steps are free for others. It does so once for each rollback, in an order in which
//! a crash at any point leaves something that the next try completes: nothing is taken any more under an old epoch; it is noted
//! which commits are void; their names go; it is noted that they are gone. Nobody commits anything after the last state that
//! counts before that.
//!
//! Audits of what was undone go on. The blobs they start from stay as long as garbage collection is told so.
use std::collections::BTreeMap;
use std::io;

use muster_proof::Digest;

use super::checkpoints::{checkpoint_key, job_folder};
use super::ledger::{commit_key, end_key, model_key};
use super::{Store, damaged, digest_line};

/// A rollback that the store knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undone {
    /// The last step that still counts, of what older epochs have committed.
    pub step: u64,
    /// Whether all names are gone.
    pub stage: Stage,
}

/// How far a rollback is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Names may still be there.
    Begun,
    /// None is.
    Done,
}

/// The rollbacks of a job, by the lowest epoch that counts since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollbacks(BTreeMap<i64, Undone>);

impl Rollbacks {
    /// Whether a commit does not count any more: it was made under an epoch before a rollback, after its last step.
    #[must_use]
    pub fn void(&self, epoch: i64, step: u64) -> bool {
        self.0.iter().any(|(&lowest, undone)| epoch < lowest && step > undone.step)
    }

    /// Whether a rollback has undone the step for somebody.
    #[must_use]
    pub fn reach(&self, step: u64) -> bool {
        self.0.values().any(|undone| step > undone.step)
    }

    /// The lowest epoch that counts, 0 if nothing was undone.
    #[must_use]
    pub fn lowest_epoch(&self) -> i64 {
        self.0.last_key_value().map_or(0, |(&epoch, _)| epoch)
    }

    /// Whether the rollback to this epoch was done here.
    #[must_use]
    pub fn is_done(&self, epoch: i64) -> bool {
        self.0.get(&epoch).is_some_and(|undone| undone.stage == Stage::Done)
    }
}

impl Store {
    /// Undoes what an island has committed after `step` under epochs below `epoch`, and the job's end. Once more is the same.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend; then it is to be done again.
    pub async fn roll_back(&self, job_uid: &str, island: i64, epoch: i64, step: u64) -> io::Result<()> {
        if self.rollbacks(job_uid).await?.is_done(epoch) {
            return Ok(());
        }
        self.raise_epoch(job_uid, island, epoch).await?;
        let key = rollback_key(job_uid, epoch)?;
        self.backend.write(&key, &format!("begun {step}\n")).await?;
        let checkpoints = self.checkpoints(job_uid).await?;
        for (later, manifest) in checkpoints.range(step.saturating_add(1)..) {
            let kept = format!("{}/{later}-{}", undone_folder(job_uid)?, manifest.to_hex());
            self.backend.write(&kept, &digest_line(manifest)).await?;
            self.backend.remove(&checkpoint_key(job_uid, *later)?).await?;
        }
        for later in self.commit_steps(job_uid).await?.into_iter().filter(|later| *later > step) {
            self.backend.remove(&model_key(job_uid, later)?).await?;
            self.backend.remove(&commit_key(job_uid, later)?).await?;
        }
        self.backend.remove(&end_key(job_uid)?).await?;
        self.backend.write(&key, &format!("done {step}\n")).await
    }

    /// What was undone of a job.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn rollbacks(&self, job_uid: &str) -> io::Result<Rollbacks> {
        let mut all = BTreeMap::new();
        for entry in self.backend.list(&format!("{}/rollbacks", job_folder(job_uid)?)).await? {
            let Ok(epoch) = entry.name.parse() else { continue };
            let key = rollback_key(job_uid, epoch)?;
            let Some(line) = self.backend.read(&key).await? else { continue };
            all.insert(epoch, parse(&line).ok_or_else(|| damaged(&key, "`begun <step>` or `done <step>`"))?);
        }
        Ok(Rollbacks(all))
    }

    /// The checkpoints that were undone and whose blobs are still held, by step and manifest.
    ///
    /// # Errors
    /// `InvalidInput` for a uid that is none, any other error of the backend but absence.
    pub async fn undone_checkpoints(&self, job_uid: &str) -> io::Result<Vec<(u64, Digest)>> {
        let mut found = Vec::new();
        for entry in self.backend.list(&undone_folder(job_uid)?).await? {
            let Some((step, hex)) = entry.name.split_once('-') else { continue };
            if let (Ok(step), Ok(manifest)) = (step.parse(), format!("sha256:{hex}").parse()) {
                found.push((step, manifest));
            }
        }
        Ok(found)
    }

    /// Holds the blobs of an undone checkpoint no more.
    pub(super) async fn let_undone_go(
        &self,
        job_uid: &str,
        (step, manifest): (u64, Digest),
    ) -> io::Result<()> {
        self.backend.remove(&format!("{}/{step}-{}", undone_folder(job_uid)?, manifest.to_hex())).await
    }
}

fn rollback_key(job_uid: &str, epoch: i64) -> io::Result<String> {
    Ok(format!("{}/rollbacks/{epoch}", job_folder(job_uid)?))
}

fn undone_folder(job_uid: &str) -> io::Result<String> {
    Ok(format!("{}/undone", job_folder(job_uid)?))
}

fn parse(line: &str) -> Option<Undone> {
    let (stage, step) = line.strip_suffix('\n')?.split_once(' ')?;
    let stage = match stage {
        "begun" => Stage::Begun,
        "done" => Stage::Done,
        _ => return None,
    };
    Some(Undone { step: step.parse().ok()?, stage })
}
