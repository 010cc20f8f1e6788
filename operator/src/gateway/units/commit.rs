//! Commits: what a checkpoint must satisfy to become the job's. Whatever is recorded here can be resumed from, and nothing
//! recorded is ever replaced by other bits, but for what a verdict has undone.
//!
//! The order is: whole, read back, logged, recorded. What the log has is true from then on; that it was about to be logged is
//! noted before, so that nothing of it is lost with the gateway.
use axum::http::StatusCode;
use muster_core::envelope::Payload;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::{self, Payload as _};
use muster_trainer::checkpoint::Manifest;

use super::Units;
use super::models::Said;
use super::read_back::Error as ReadError;
use super::work::{Found, Work};
use crate::gateway::access::{Agent, Refusal};
use crate::gateway::blobs::store_refusal;
use crate::gateway::log;
use crate::log::Submission;
use crate::store::{Entry, Noted, Recorded, Whole};
use crate::wire::gateway::CheckpointCommit;

/// A commit that fits its unit, its step and its manifest. Its signature, and what was before it, the log looks at.
struct Claim {
    envelope: Envelope,
    record: Digest,
    state_root: Digest,
}

impl<W: Work> Units<W> {
    /// Logs the checkpoint and makes it the job's; says where the log has it. Once more with the same commit is the same
    /// answer.
    pub(super) async fn commit(
        &self,
        agent: &Agent,
        unit: &Found,
        step: u64,
        request: CheckpointCommit,
    ) -> Result<Entry, Refusal> {
        self.fence(agent, unit).await?;
        let payload = &unit.payload;
        check_step(payload, step)?;
        let CheckpointCommit { manifest, commit, model, key } = request;
        let (manifest, said) = (&manifest, Said::by(&commit, model, key)?);
        let claim = claim(payload, step, manifest, commit)?;
        let store = |error| store_refusal(&error);
        let job = &payload.job_uid;
        let mut noted = self.store.noted_commit(job, step).await.map_err(store)?;
        if let Some(Noted::Begun(other)) = noted
            && other != claim.record
        {
            self.conclude(job, step, other).await?;
            noted = self.store.noted_commit(job, step).await.map_err(store)?;
        }
        let there = self.store.checkpoint(job, step).await.map_err(store)?;
        let undone = self.undone(job, step, noted.as_ref()).await?;
        match there.filter(|_| !undone) {
            // Its first answer may have been lost, or the crash was between the two writes below.
            Some(there) if there == *manifest => {
                if let Some(Noted::Logged(entry)) = noted.filter(|noted| is_of(noted, &claim.record)) {
                    self.settle(unit, manifest).await?;
                    self.leave_again(job, step, manifest, entry, &said).await?;
                    return Ok(entry);
                }
            }
            Some(there) => return Err(taken(step, &there, manifest)),
            None => {}
        }
        let (files, parsed) = self.whole(unit, step, manifest).await?;
        said.check(&parsed, manifest)?;
        self.check_root(agent, unit, &claim, &parsed).await?;
        // Once more, here where it counts: the files took a while to look at.
        self.fence(agent, unit).await?;
        // What is logged is not forgotten for what is only tried; the log will say what it thinks of it.
        let stays = |it: Noted| is_of(&it, &claim.record) || (matches!(it, Noted::Logged(_)) && !undone);
        let is_noted = noted.is_some_and(stays);
        if !is_noted
            && !self.store.begin_commit(job, step, claim.record, noted.as_ref()).await.map_err(store)?
        {
            return Err(Refusal::unavailable("another commit of this step is under way; try again"));
        }
        let submission = Submission { envelope: claim.envelope, known: Vec::new() };
        let index = self.log.append(submission).await.map_err(|error| log::refused(&error))?;
        let entry = Entry { record: claim.record, index };
        self.leave(job, step, entry, &said).await?;
        self.store.note_commit(job, step, &Noted::Logged(entry)).await.map_err(store)?;
        self.record(job, step, manifest, there.filter(|_| undone)).await?;
        self.store.name_unit_puts(unit.key(), &files).await.map_err(store)?;
        tracing::info!(provider = agent.provider, unit = payload.name, step, %manifest, index, "checkpoint logged");
        Ok(entry)
    }

    /// Makes the checkpoint the job's, in the place of one that was `undone` if that is still there.
    async fn record(
        &self,
        job: &str,
        step: u64,
        manifest: &Digest,
        undone: Option<Digest>,
    ) -> Result<(), Refusal> {
        let store = |error| store_refusal(&error);
        if let Some(undone) = undone
            && self.store.replace_checkpoint(job, step, &undone, manifest).await.map_err(store)?
        {
            return Ok(());
        }
        match self.store.record_checkpoint(job, step, manifest).await.map_err(store)? {
            Recorded::Taken(there) => Err(taken(step, &there, manifest)),
            Recorded::New | Recorded::Same => Ok(()),
        }
    }

    /// Whether what the store has of this step counts no more: a verdict has undone it, and the hub has forgotten it, but for
    /// what a gateway that was just committing it has written since.
    async fn undone(&self, job: &str, step: u64, noted: Option<&Noted>) -> Result<bool, Refusal> {
        let rollbacks = self.store.rollbacks(job).await.map_err(|error| store_refusal(&error))?;
        if !rollbacks.reach(step) {
            return Ok(false);
        }
        // A name is written after its commit was noted as logged. Without that it is what was undone.
        let Some(Noted::Logged(entry)) = noted else { return Ok(true) };
        let Some((_, envelope)) = self.logged(entry.record).await? else { return Ok(false) };
        let commit = records::Commit::from_payload(envelope.unverified_payload());
        Ok(commit.is_ok_and(|commit| rollbacks.void(epoch(&commit), step)))
    }

    /// What the log has of a record.
    pub(super) async fn logged(&self, record: Digest) -> Result<Option<(u64, Envelope)>, Refusal> {
        let log = self.log.clone();
        let found = tokio::task::spawn_blocking(move || log.entry(&record)).await;
        let found = found.map_err(|error| Refusal::unavailable(format!("the log: {error}")))?;
        found.map_err(|error| store_refusal(&error))
    }

    /// Ends what another commit of this step has begun, if the log has it: its gateway died before it could.
    async fn conclude(&self, job: &str, step: u64, record: Digest) -> Result<(), Refusal> {
        let Some((index, envelope)) = self.logged(record).await? else { return Ok(()) };
        let Ok(commit) = records::Commit::from_payload(envelope.unverified_payload()) else { return Ok(()) };
        let store = |error| store_refusal(&error);
        if self.store.rollbacks(job).await.map_err(store)?.void(epoch(&commit), step) {
            return Ok(());
        }
        self.store.note_commit(job, step, &Noted::Logged(Entry { record, index })).await.map_err(store)?;
        self.store.record_checkpoint(job, step, &commit.manifest).await.map_err(store)?;
        Ok(())
    }

    /// Recomputes the StateRoot from the blobs; it must be the manifest's and the commit's.
    async fn check_root(
        &self,
        agent: &Agent,
        unit: &Found,
        claim: &Claim,
        manifest: &Manifest,
    ) -> Result<(), Refusal> {
        let provider = &agent.provider;
        let root = self.read_back.state_root(&self.store, provider, &unit.payload.spec, manifest).await;
        let problem = match root {
            Ok(root) if root == manifest.state_root() && root == claim.state_root => return Ok(()),
            Ok(root) => format!(
                "the files give stateRoot {root}, the manifest says {}, the commit {}",
                manifest.state_root(),
                claim.state_root
            ),
            Err(error @ ReadError::Wrong { .. }) => error.to_string(),
            Err(ReadError::Store(error)) => return Err(store_refusal(&error)),
            Err(ReadError::Internal(error)) => {
                tracing::error!(unit = unit.payload.name, error, "a checkpoint cannot be read back");
                return Err(Refusal::unavailable("the checkpoint cannot be read back now; try again"));
            }
        };
        let damaged = self.read_back.remove_damaged(&self.store, manifest).await;
        let damaged = damaged.map_err(|error| store_refusal(&error))?;
        tracing::error!(
            provider,
            unit = unit.payload.name,
            step = manifest.step(),
            problem,
            ?damaged,
            "wrong state"
        );
        let text = match damaged.as_slice() {
            [] => format!("{problem}; make the checkpoint anew and upload it"),
            files => format!("{problem}: {} was damaged in the store; upload it again", files.join(", ")),
        };
        Err(Refusal::new(StatusCode::CONFLICT, "WrongStateRoot", text))
    }

    /// The manifest and its files, all there and all of them the unit's: put by it, or of the checkpoint it started from. A
    /// manifest could name anybody's blobs otherwise, and the job's owner could read them.
    async fn whole(
        &self,
        unit: &Found,
        step: u64,
        manifest: &Digest,
    ) -> Result<(Vec<Digest>, Manifest), Refusal> {
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
        Ok((blobs, parsed))
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

fn epoch(commit: &records::Commit) -> i64 {
    i64::try_from(commit.epoch.get()).unwrap_or(i64::MAX)
}

fn is_of(noted: &Noted, record: &Digest) -> bool {
    match noted {
        Noted::Begun(begun) => begun == record,
        Noted::Logged(entry) => entry.record == *record,
    }
}

/// What of a commit can be compared with its unit and its manifest's name.
fn claim(payload: &Payload, step: u64, manifest: &Digest, envelope: Envelope) -> Result<Claim, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "BadCommit", text);
    if envelope.payload_type() != records::Commit::PAYLOAD_TYPE {
        return Err(bad(format!("commit: payloadType is {:?}, not a commit's", envelope.payload_type())));
    }
    let commit = records::Commit::from_payload(envelope.unverified_payload());
    let commit = commit.map_err(|error| bad(error.to_string()))?;
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    // The last interval may be shorter, so its number counts from the step before its end.
    let interval = step.saturating_sub(1) / number(payload.interval_steps).max(1);
    let differs = |field: &str| bad(format!("commit: {field} is not that of unit {}", payload.name));
    for (field, is_same) in [
        ("job", commit.job.0 == payload.job),
        ("island", commit.island.get() == number(payload.island)),
        ("epoch", commit.epoch.get() == number(payload.epoch)),
    ] {
        if !is_same {
            return Err(differs(field));
        }
    }
    if commit.last_step.get() != step || commit.interval.get() != interval {
        let (last, got) = (commit.last_step, commit.interval);
        let text = format!(
            "the commit is of interval {got} up to step {last}, the path says step {step}, interval {interval}"
        );
        return Err(wrong_step(text));
    }
    if commit.manifest != *manifest {
        return Err(bad(format!("commit: manifest is {}, the body says {manifest}", commit.manifest)));
    }
    let record = envelope.record_id();
    Ok(Claim { envelope, record, state_root: commit.state_root })
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

pub(super) fn wrong_step(text: String) -> Refusal {
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
