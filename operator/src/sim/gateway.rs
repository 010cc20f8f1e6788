//! What the gateway does with a commit, as a model: fence, checkpoint, log, names, in its order
//! (`crate::gateway::units::commit`), without HTTP and without reading states back.
use muster_core::envelope::Payload;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::{self, Payload as _};

use super::world::World;
use crate::store::{Noted, Recorded};

/// Why a commit was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another epoch has the island.
    Superseded,
    /// There is another one of this step, or the log says no.
    Refused(String),
}

/// Makes a checkpoint the job's.
pub async fn commit(
    world: &World,
    payload: &Payload,
    step: u64,
    manifest: Digest,
    envelope: Envelope,
) -> Result<(), Refusal> {
    let (store, job) = (&world.store, payload.job_uid.as_str());
    if store.epoch(job, payload.island).await.unwrap() > payload.epoch {
        return Err(Refusal::Superseded);
    }
    let (there, noted) =
        (store.checkpoint(job, step).await.unwrap(), store.noted_commit(job, step).await.unwrap());
    let rollbacks = store.rollbacks(job).await.unwrap();
    let undone = rollbacks.reach(step)
        && match &noted {
            Some(Noted::Logged(entry)) => {
                let (_, logged) = world.log.log.entry(&entry.record).unwrap().unwrap();
                let commit = records::Commit::from_payload(logged.unverified_payload()).unwrap();
                rollbacks.void(i64::try_from(commit.epoch.get()).unwrap(), step)
            }
            _ => true,
        };
    let record = envelope.record_id();
    match there.filter(|_| !undone) {
        Some(there) if there == manifest => {
            if matches!(noted, Some(Noted::Logged(entry)) if entry.record == record) {
                return Ok(());
            }
        }
        Some(there) => return Err(Refusal::Refused(format!("step {step} is {there}, not {manifest}"))),
        None => {}
    }
    store.begin_commit(job, step, record, noted.as_ref()).await.unwrap();
    let index = world.log.append(envelope).await.map_err(|error| Refusal::Refused(error.to_string()))?;
    let entry = crate::store::Entry { record, index };
    store.note_commit(job, step, &Noted::Logged(entry)).await.unwrap();
    if let Some(undone) = there.filter(|_| undone)
        && store.replace_checkpoint(job, step, &undone, &manifest).await.unwrap()
    {
        return Ok(());
    }
    match store.record_checkpoint(job, step, &manifest).await.unwrap() {
        Recorded::Taken(there) => Err(Refusal::Refused(format!("step {step} is {there}, not {manifest}"))),
        Recorded::New | Recorded::Same => Ok(()),
    }
}
