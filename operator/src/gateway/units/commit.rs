//! Commits: what a checkpoint must satisfy to become the job's. Whatever is recorded here can be resumed from, and nothing
//! recorded is ever replaced by other bits.
use axum::http::StatusCode;
use muster_core::envelope::Payload;
use muster_proof::Digest;

use super::Units;
use super::work::{Found, Work};
use crate::gateway::access::{Agent, Refusal};
use crate::gateway::blobs::store_refusal;
use crate::store::{Recorded, Whole};

impl<W: Work> Units<W> {
    /// Makes the checkpoint the job's. Once more with the same manifest is the same answer.
    pub(super) async fn commit(
        &self,
        agent: &Agent,
        unit: &Found,
        step: u64,
        manifest: &Digest,
    ) -> Result<(), Refusal> {
        self.fence(agent, unit).await?;
        let payload = &unit.payload;
        check_step(payload, step)?;
        let store = |error| store_refusal(&error);
        match self.store.checkpoint(&payload.job_uid, step).await.map_err(store)? {
            // Its first answer may have been lost, or the crash was between the two writes below.
            Some(there) if there == *manifest => return self.settle(unit, manifest).await,
            Some(there) => return Err(taken(step, &there, manifest)),
            None => {}
        }
        let files = self.whole(unit, step, manifest).await?;
        // Once more, here where it counts: the files took a while to look at.
        self.fence(agent, unit).await?;
        let recorded = self.store.record_checkpoint(&payload.job_uid, step, manifest).await.map_err(store)?;
        if let Recorded::Taken(there) = recorded {
            return Err(taken(step, &there, manifest));
        }
        self.store.name_unit_puts(unit.key(), &files).await.map_err(store)?;
        tracing::info!(provider = agent.provider, unit = payload.name, step, %manifest, "checkpoint recorded");
        Ok(())
    }

    /// The manifest and its files, all there and all of them the unit's: put by it, or of the checkpoint it started from. A
    /// manifest could name anybody's blobs otherwise, and the job's owner could read them.
    async fn whole(&self, unit: &Found, step: u64, manifest: &Digest) -> Result<Vec<Digest>, Refusal> {
        let store = |error| store_refusal(&error);
        let puts = self.store.all_puts(unit.key()).await.map_err(store)?;
        if !puts.contains_key(manifest) && !self.start_leads_to(unit, manifest).await? {
            return Err(missing(manifest));
        }
        let parsed = match self.store.whole_checkpoint(manifest).await.map_err(store)? {
            Whole::Yes(parsed) => parsed,
            Whole::Missing(blob) => return Err(missing(&blob)),
            Whole::Invalid(problem) => {
                let text = format!("{problem}; commit what the trainer wrote");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "BadManifest", text));
            }
        };
        if parsed.step() != step {
            let text = format!("the manifest is of step {}, the path says {step}", parsed.step());
            return Err(wrong_step(text));
        }
        let (got, want) = (parsed.training_digest(), unit.payload.training_digest);
        if got != want {
            let text = format!("the manifest's training digest is {got}, the job's is {want}");
            return Err(Refusal::new(StatusCode::CONFLICT, "WrongJob", text));
        }
        let mut blobs = vec![*manifest];
        blobs.extend(parsed.files().iter().map(|file| file.sha256));
        for blob in &blobs {
            if !puts.contains_key(blob) && !self.start_leads_to(unit, blob).await? {
                return Err(missing(blob));
            }
            // What was put long ago may be about to be collected.
            if !self.store.touch(blob).await.map_err(store)? {
                return Err(missing(blob));
            }
        }
        Ok(blobs)
    }

    /// What the commit named no longer counts against the unit's quota.
    async fn settle(&self, unit: &Found, manifest: &Digest) -> Result<(), Refusal> {
        let store = |error| store_refusal(&error);
        let parsed = self.store.checkpoint_manifest(manifest).await.map_err(store)?;
        let files = parsed.iter().flat_map(|parsed| parsed.files()).map(|file| file.sha256);
        let blobs: Vec<Digest> = files.chain([*manifest]).collect();
        self.store.name_unit_puts(unit.key(), &blobs).await.map_err(store)
    }
}

/// Checkpoints are made at the ends of intervals and at the end, after the one that the unit started from.
fn check_step(payload: &Payload, step: u64) -> Result<(), Refusal> {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let (steps, interval) = (number(payload.steps), number(payload.interval_steps).max(1));
    let start = payload.start.map_or(0, |start| number(start.step));
    if step <= start || step > steps {
        let text = format!(
            "step {step} is not one of this unit: it starts after step {start} and ends with {steps}"
        );
        return Err(wrong_step(text));
    }
    if !step.is_multiple_of(interval) && step != steps {
        let text = format!("step {step} is neither a multiple of {interval} nor the last");
        return Err(wrong_step(text));
    }
    Ok(())
}

fn wrong_step(text: String) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "WrongStep", text)
}

fn missing(blob: &Digest) -> Refusal {
    let text = format!("blob {blob} of the checkpoint is not here; put it, then commit again");
    Refusal::new(StatusCode::CONFLICT, "BlobMissing", text)
}

fn taken(step: u64, there: &Digest, manifest: &Digest) -> Refusal {
    tracing::error!(step, %there, %manifest, "two checkpoints of one step: training is not reproducible somewhere");
    let text = format!("step {step} was committed as {there}, now as {manifest}: one of the two is wrong");
    Refusal::new(StatusCode::CONFLICT, "StepTaken", text)
}
